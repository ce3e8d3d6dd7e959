"""Small students, teachers and batches for the tests of the Distiller."""

import keras
import numpy as np
import tensorflow as tf

from recdistill.distillation import layer_outputs
from recdistill.distillation.distiller import Distiller
from recdistill.losses import ListwiseCrossEntropy, ListwiseKLDivergence

LISTS, LIST_SIZE, ITEMS = 12, 4, 9


class Runs:
    """Number of times a model ran; tracing does not count."""

    def __init__(self):
        self.count = tf.Variable(0)

    def __int__(self):
        return int(self.count)


@keras.saving.register_keras_serializable(package="tests")
class Student(keras.Model):
    """The dot product of a user's and an item's embedding."""

    def __init__(self, dropout=0.0, penalty=None, **kwargs):
        super().__init__(**kwargs)
        self.dropout_rate, self.penalty = dropout, penalty
        self.users = keras.layers.Embedding(
            5, 3, embeddings_regularizer=penalty, name="users"
        )
        self.items = keras.layers.Embedding(ITEMS, 3, name="items")
        self.dropout = keras.layers.Dropout(dropout, seed=1)
        self.runs = Runs()

    def call(self, x, training=None):
        self.runs.count.assign_add(1)
        users = self.dropout(self.users(x["query"]["user"]), training=training)
        items = self.items(x["candidate_index"])
        layer_outputs.expose("query_embedding", users)
        layer_outputs.expose("candidate_embedding", lambda: items)
        shared = "bd,nd->bn" if len(items.shape) == 2 else "bd,bnd->bn"
        return keras.ops.einsum(shared, users, items)

    def get_config(self):
        config = {"dropout": self.dropout_rate, "penalty": self.penalty}
        return {**super().get_config(), **config}


class Teacher(keras.Model):
    """A teacher with dropout that reads a feature the student does not have."""

    def __init__(self):
        super().__init__()
        self.items = keras.layers.Embedding(ITEMS, 50, name="teachers_items")
        self.head = keras.layers.Dense(1, name="teachers_head")
        self.dropout = keras.layers.Dropout(0.5)
        self.runs = Runs()

    def call(self, x, training=None):
        self.runs.count.assign_add(1)
        items = self.dropout(self.items(x["candidate_index"]), training=training)
        return self.head(items)[..., 0] + x["affinity"]


class Fixed(keras.Model):
    """A student with fixed scores."""

    def __init__(self, scores):
        super().__init__()
        self.scores = self.add_weight(shape=np.shape(scores), initializer="zeros")
        self.scores.assign(scores)

    def call(self, x):
        return self.scores + 0.0 * tf.cast(x["mask"], "float32")


def make_arrays(shared=False):
    rng = np.random.default_rng(5)
    shape = (LISTS, LIST_SIZE)
    mask = np.arange(LIST_SIZE) < rng.integers(2, LIST_SIZE + 1, LISTS)[:, None]
    x = {
        "query": {"user": rng.integers(0, 5, LISTS)},
        "candidate_index": rng.integers(0, ITEMS, LIST_SIZE if shared else shape),
        "mask": mask,
        "affinity": rng.normal(size=shape).astype("float32"),
        "teacher_scores": rng.normal(-3.0, 2.0, shape).astype("float32"),
    }
    relevance = rng.integers(0, 3, shape).astype("float32")
    relevance[:, 0] += 1.0
    weight = rng.uniform(0.5, 2.0, LISTS).astype("float32")
    return x, {"labels": relevance, "mask": mask}, weight


def make_batches(arrays, batch_size=4, without=()):
    x, *rest = arrays
    x = {name: value for name, value in x.items() if name not in without}
    return tf.data.Dataset.from_tensor_slices((x, *rest)).batch(batch_size)


def make_distiller(teacher=None, student=None, losses="kl", optimizer="sgd", **kwargs):
    losses = ListwiseKLDivergence(temperature=2.0) if losses == "kl" else losses
    student = Student() if student is None else student
    distiller = Distiller(teacher, student, losses, **kwargs)
    distiller.compile(optimizer=optimizer, loss=ListwiseCrossEntropy())
    return distiller


def fit(distiller, batches, **kwargs):
    return distiller.fit(batches, shuffle=False, verbose=0, **kwargs).history


def evaluate(distiller, batches):
    return distiller.evaluate(batches, verbose=0, return_dict=True)


def weights_of(model):
    return [np.array(weight) for weight in model.get_weights()]
