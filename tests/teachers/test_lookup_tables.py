"""Vocabularies of Keras models and SavedModels, by input."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill.teachers import ExternalTeacher, KerasModel, SavedModel, lookup_tables

pytestmark = pytest.mark.slow


def batch(**raw):
    rows = len(next(iter(raw.values())))
    mask = np.ones((rows, 2), bool)
    return {"raw": raw, "candidate_index": np.arange(2), "mask": mask}


class Lookups(keras.Model):
    """Looks up `item` and `age` as they are, and `user` in lower case."""

    def __init__(self):
        super().__init__()
        self.item = keras.layers.StringLookup(vocabulary=["x", "é"])
        self.age = keras.layers.IntegerLookup(vocabulary=[0, 7])
        self.user = keras.layers.StringLookup(vocabulary=["ann"])

    def call(self, x):
        user = self.user(tf.strings.lower(x["user"]))
        found = self.item(x["item"]) + self.age(tf.reshape(x["age"], [-1])) + user
        return tf.cast(found, "float32")


AGES = np.array([7.0, 8.0], "float32")
ITEMS = np.array(["x", "y"], object)
USERS = np.array(["Ann", "Bob"], object)


def test_lookup_layers_of_a_keras_model_count_what_it_does_not_know():
    model = KerasModel(Lookups())
    teacher = ExternalTeacher(model, ["user", "age"], {"item": ITEMS})
    for _ in range(2):
        teacher(batch(user=USERS, age=AGES.astype("int64")))
    assert model.vocabularies == {"item": {"x", "é"}, "age": {"0", "7"}}
    # The two items count once; each age counts once for each batch.
    assert teacher.check_known() == {"item": 0.5, "age": 0.5}
    assert teacher.uncounted == {"user"}


def test_the_last_entries_of_a_history_of_numbers_are_padding():
    past = keras.Input((3,), dtype="int64", name="past")
    item = keras.Input((), dtype="string", name="item")
    look_up = keras.layers.IntegerLookup(vocabulary=[7, 9])
    total = keras.ops.sum(keras.ops.cast(look_up(past), "float32"), axis=1)
    known = keras.layers.StringLookup(vocabulary=["x", "y"])(item)
    score = total + keras.ops.cast(known, "float32")
    teacher = ExternalTeacher(
        KerasModel(keras.Model([past, item], score)), ["past"], {"item": ITEMS}
    )
    teacher(batch(past=np.array([["7", "5", ""], ["9", "", ""]], object)))
    assert teacher.check_known() == {"past": round(1 / 3, 6), "item": 0.0}


def test_tables_inside_the_functions_of_a_saved_model_are_found(tmp_path):
    keys = tf.constant(["a", "x"])
    start = tf.lookup.KeyValueTensorInitializer(keys, tf.constant([1.0, 2.0]))

    class Module(tf.Module):
        def __init__(self):
            self.table = tf.lookup.StaticHashTable(start, 0.0)

        @tf.function
        def inner(self, z, a):
            return self.table.lookup(tf.identity(z)) + tf.strings.to_number(a)

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.string, "zone"),
                tf.TensorSpec([None], tf.string, "amount"),
            ]
        )
        def rank(self, zone, amount):
            return {"score": self.inner(zone, amount)}

    module = Module()
    tf.saved_model.save(module, str(tmp_path), signatures={"rank": module.rank})
    model = SavedModel(tmp_path, "rank")
    assert model.vocabularies == {"zone": {"a", "x"}}
    teacher = ExternalTeacher(model, ["amount"], {"zone": ITEMS})
    scores = teacher(batch(amount=np.array(["1", "2"], object)))
    np.testing.assert_allclose(scores, [[3.0, 1.0], [4.0, 2.0]])
    assert teacher.check_known() == {"zone": 0.5}
    assert teacher.uncounted == {"amount"}
    # The table may have another purpose, so this is no error.
    others = ExternalTeacher(model, ["amount"], {"zone": np.array(["q", "y"], object)})
    others(batch(amount=np.array(["1", "2"], object)))
    assert others.check_known() == {"zone": 1.0}


class Node:
    """A node of a graph that counts how often its name is read."""

    reads = 0

    def __init__(self, name, *inputs, op="Identity"):
        self._name, self.input, self.op = name, inputs, op

    @property
    def name(self):
        Node.reads += 1
        return self._name


def test_the_search_is_linear_in_the_number_of_nodes():
    counts = []
    for number in (50, 500):
        chain = [Node(f"n{k}", f"n{k - 1}" if k else "x") for k in range(number)]
        Node.reads = 0
        found = lookup_tables._Search({}).scan(reversed(chain), {"x": "user"})
        counts.append(Node.reads)
        assert found == dict.fromkeys(["x", *(f"n{k}" for k in range(number))], "user")
    assert counts[1] <= 10 * counts[0]


def test_nodes_after_a_loop_are_not_followed():
    nodes = [
        Node("after", "loop"),
        Node("loop", "back", "x", op="Merge"),
        Node("back", "loop"),
        Node("own", "own", op="Merge"),
        Node("other", "x", "^after"),
    ]
    found = lookup_tables._Search({}).scan(nodes, {"x": "user"})
    assert found == {"x": "user", "other": "user"}
