"""Towers for `student.factory`, of plain Keras layers."""

import keras
import numpy as np

DIM = 4


def build(schema, catalogue):
    """A query tower of two features, and a candidate tower of the item id."""
    items = {encoder.feature: encoder for encoder in schema.candidate}
    assert "quality" not in items  # privileged features are left out
    size = items["item_id"].size
    assert int(np.max(catalogue["item_id"])) < size

    history = keras.Input((schema.history.length,), dtype="int32", name="history")
    budget = keras.Input((2,), name="budget")  # the number, and whether it is missing
    pooled = keras.layers.GlobalAveragePooling1D()(
        keras.layers.Embedding(size, DIM)(history)
    )
    vector = keras.layers.Dense(DIM)(keras.layers.Concatenate()([pooled, budget]))
    query_tower = keras.Model({"history": history, "budget": budget}, vector)

    item = keras.Input((), dtype="int32", name="item_id")
    candidate_tower = keras.Model(
        {"item_id": item}, keras.layers.Embedding(size, DIM)(item)
    )
    return query_tower, candidate_tower


def one_tower(schema, catalogue):
    return build(schema, catalogue)[0]


def different_widths(schema, catalogue):
    query_tower, _ = build(schema, catalogue)
    item = keras.Input((), dtype="int32", name="item_id")
    size = schema.items.size
    vector = keras.layers.Embedding(size, DIM + 1)(item)
    return query_tower, keras.Model({"item_id": item}, vector)


def unknown_feature(schema, catalogue):
    _, candidate_tower = build(schema, catalogue)
    mood = keras.Input((1,), name="mood")
    return keras.Model({"mood": mood}, keras.layers.Dense(DIM)(mood)), candidate_tower
