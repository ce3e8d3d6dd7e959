"""Small schema, catalogue and batches for the tests of the models."""

import numpy as np

from recdistill.features.encoders import FIRST, build_encoder
from recdistill.features.schema import Schema
from recdistill.features.specs import (
    CategoriesSpec,
    HistorySpec,
    IdSpec,
    NumberSpec,
)

ITEMS = tuple(f"item-{k}" for k in range(9))
HISTORY = 5


def schema(length=HISTORY, query=("user_id", "age", "dwell", "history")):
    """Features of every shape; `dwell` and `clicks` are `teacher_only`."""
    item = build_encoder("item_id", IdSpec(), {"vocabulary": ITEMS})
    number = {"mean": 0.0, "deviation": 1.0}
    hidden = NumberSpec(teacher_only=True)
    encoders = [
        build_encoder("user_id", IdSpec(), {"vocabulary": ["ann", "bob", "cleo"]}),
        build_encoder("age", NumberSpec(optional=True), number),
        build_encoder("dwell", hidden, number),
        build_encoder("history", HistorySpec(length=length), {}, item),
    ]
    return Schema(
        query=[encoder for encoder in encoders if encoder.feature in query],
        candidate=[
            item,
            build_encoder("genres", CategoriesSpec(), {"vocabulary": ["new", "old"]}),
            build_encoder("clicks", hidden, number),
        ],
        affinity={},
        item_id="item_id",
    )


def catalogue():
    """Looked-up features of the items; the last one is not in the vocabulary."""
    count = len(ITEMS) + 1
    index = np.arange(count, dtype="int32") + FIRST
    index[-1] = 1
    genres = np.array([[2, 0], [2, 3], [0, 0], [3, 0], [1, 0]] * 2, "int32")
    clicks = np.stack([np.linspace(-1, 1, count), np.zeros(count)], 1).astype("float32")
    return {"item_id": index, "genres": genres, "clicks": clicks}


def batch(lists=4, list_size=6, seed=0, length=HISTORY):
    """A batch of lists with different candidates; one history is empty."""
    rng = np.random.default_rng(seed)
    history = rng.integers(1, len(ITEMS) + FIRST, (lists, length))
    real = rng.integers(0, length + 1, lists)
    real[-1] = 0
    history[np.arange(length) >= real[:, None]] = 0
    numbers = rng.normal(size=(lists, 2, 2)).astype("float32")
    return {
        "query": {
            "user_id": rng.integers(0, 5, lists).astype("int32"),
            "age": numbers[:, 0],
            "dwell": numbers[:, 1],
            "history": history.astype("int32"),
        },
        "candidate_index": np.stack(
            [rng.permutation(len(ITEMS) + 1)[:list_size] for _ in range(lists)]
        ).astype("int32"),
        "mask": np.ones((lists, list_size), bool),
    }


def with_query(given, **features):
    """Returns the batch with other values of some query features."""
    return {**given, "query": {**given["query"], **features}}


def shuffled_weights(model, seed=3, scale=0.5):
    """Sets random weights far from the initial ones, so that every path matters."""
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0.0, scale, variable.shape))
    return model
