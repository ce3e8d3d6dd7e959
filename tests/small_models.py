"""Small Keras models, schemas, batches and SavedModels for the tests.

In order: a student and a teacher for the Distiller; a schema, a catalogue and a batch
for the models; the films, which are the student, items and queries that tests export;
and a SavedModel for the tests of servers.
"""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from recdistill.distillation import layer_outputs
from recdistill.distillation.distiller import Distiller
from recdistill.export.layout import WARM_UP
from recdistill.export.publishing import ExportSettings
from recdistill.export.student_export import export_student
from recdistill.features.encoders import FIRST, build_encoder
from recdistill.features.schema import Schema
from recdistill.features.specs import (
    AffinitySpec,
    CategoriesSpec,
    CategorySpec,
    HistorySpec,
    IdSpec,
    NumberSpec,
    TextSpec,
    VectorSpec,
)
from recdistill.losses import ListwiseCrossEntropy, ListwiseKLDivergence
from recdistill.models.two_tower import TwoTowerStudent

ITEMS = [f"item-{k}" for k in range(56)] + [
    '"Léon", [1994]',
    "größe",
    "映画",
    "новинка",
]
KNOWN = ITEMS[:58]
"""Vocabulary of the films; the last two items are newer than the training data."""
FEW_ITEMS = ITEMS[:9]
"""Vocabulary of the models that are not exported."""
LISTS, LIST_SIZE = 12, 4
HISTORY = 5
QUERY = ("user_id", "jobs", "Age", "taste", "dwell", "history")
CANDIDATE = ("item_id", "class", "title", "clicks")


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
        self.items = keras.layers.Embedding(len(FEW_ITEMS), 3, name="items")
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
        self.items = keras.layers.Embedding(len(FEW_ITEMS), 50, name="teachers_items")
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
        "candidate_index": rng.integers(
            0, len(FEW_ITEMS), LIST_SIZE if shared else shape
        ),
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


def build_schema(
    length=HISTORY,
    query=("user_id", "Age", "dwell", "history"),
    candidate=("item_id", "genres", "clicks"),
    vocabulary=FEW_ITEMS,
    affinity=None,
):
    """A schema of the named features; `dwell` and `clicks` are `teacher_only`."""
    item = build_encoder("item_id", IdSpec(), {"vocabulary": vocabulary})
    new_or_old = {"vocabulary": ["new", "old"]}
    age = {"mean": 40.0, "deviation": 10.0}
    hidden, plain = NumberSpec(teacher_only=True), {"mean": 0.0, "deviation": 1.0}
    encoders = [
        build_encoder("user_id", IdSpec(), {"vocabulary": ["ann", "bob", "čeněk"]}),
        build_encoder("jobs", CategoriesSpec(optional=True), {"vocabulary": ["cook"]}),
        build_encoder("Age", NumberSpec(optional=True), age),
        build_encoder("taste", VectorSpec(size=2), {}),
        build_encoder("dwell", hidden, plain),
        build_encoder("history", HistorySpec(length=length), {}, item),
        item,
        build_encoder("genres", CategoriesSpec(), new_or_old),
        build_encoder("class", CategorySpec(), new_or_old),
        build_encoder("title", TextSpec(buckets=16, length=3), {}),
        build_encoder("clicks", hidden, plain),
    ]
    return Schema(
        query=[encoder for encoder in encoders if encoder.feature in query],
        candidate=[encoder for encoder in encoders if encoder.feature in candidate],
        affinity=affinity or {},
        item_id="item_id",
    )


def build_catalogue():
    """Looked-up features of few items and, last, of one outside the vocabulary."""
    count = len(FEW_ITEMS) + 1
    index = np.arange(count, dtype="int32") + FIRST
    index[-1] = 1
    genres = np.array([[2, 0], [2, 3], [0, 0], [3, 0], [1, 0]] * 2, "int32")
    clicks = np.stack([np.linspace(-1, 1, count), np.zeros(count)], 1).astype("float32")
    return {"item_id": index, "genres": genres, "clicks": clicks}


def build_batch(lists=4, list_size=6, seed=0, length=HISTORY):
    """A batch of lists with different candidates; one history is empty."""
    rng = np.random.default_rng(seed)
    history = rng.integers(1, len(FEW_ITEMS) + FIRST, (lists, length))
    real = rng.integers(0, length + 1, lists)
    real[-1] = 0
    history[np.arange(length) >= real[:, None]] = 0
    numbers = rng.normal(size=(lists, 2, 2)).astype("float32")
    return {
        "query": {
            "user_id": rng.integers(0, 5, lists).astype("int32"),
            "Age": numbers[:, 0],
            "dwell": numbers[:, 1],
            "history": history.astype("int32"),
        },
        "candidate_index": np.stack(
            [rng.permutation(len(FEW_ITEMS) + 1)[:list_size] for _ in range(lists)]
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


def films_schema():
    """The schema of the films: a feature of every kind."""
    return build_schema(4, QUERY, CANDIDATE, KNOWN, {"affinity": AffinitySpec()})


def films_items():
    """The features of all items, as a table."""
    return pa.table(
        {
            "item_id": ITEMS,
            "class": [("new", "old", "unseen")[k % 3] for k in range(len(ITEMS))],
            "title": [f"The film {k}, №{k % 5}" for k in range(len(ITEMS))],
            "clicks": [float(k) for k in range(len(ITEMS))],
        }
    )


def films_rows(count=12):
    """Raw queries: unknown and missing values, and histories of 0 to 6 items."""
    rng = np.random.default_rng(5)
    history = rng.choice([*ITEMS, "never seen"], (count, 6)).astype(object)
    length = (np.arange(count) % 7).astype("int32")
    history[np.arange(6) >= length[:, None]] = ""
    return {
        "user_id": np.array(
            [("ann", "čeněk", "nobody", "")[k % 4] for k in range(count)]
        ),
        "jobs": np.array([["cook", "tailor"], ["", ""]] * (count // 2)),
        "Age": np.where(np.arange(count) % 3, 30.0 + np.arange(count), np.nan),
        "taste": rng.normal(size=(count, 2)),
        "history": history,
        "history_length": length,
        "dwell": np.ones(count),
    }


def films_student(schema, cls=TwoTowerStudent):
    """A student with random weights."""
    keras.utils.set_random_seed(11)
    own = schema.for_student()
    table = films_items()
    raw = {
        name: np.array(table[name].to_pylist())
        for name in ("item_id", "class", "title")
    }
    catalogue = {k: np.asarray(v) for k, v in own.lookup_candidates(raw).items()}
    student = cls(schema, catalogue, dim=6, embedding_dim=5, hidden=(7,), dropout=0.2)
    student.encode_query(own.lookup_query(films_rows(2)))
    student.encode_candidates(catalogue)
    student.built = True
    return shuffled_weights(student, seed=4)


def export_films(folder, student, **changes):
    """Exports a student of the films; `changes` replace arguments and settings."""
    arguments = {
        "schema": films_schema(),
        "items": films_items(),
        "name": "films",
        "rows": films_rows(),
    }
    settings = {"top_k": 10, "metadata": {"ndcg@10": 0.25}}
    names = ("top_k", "metadata", "index", "warm_up_batches", "excluded_inputs")
    for name in names:
        if name in changes:
            settings[name] = changes.pop(name)
    arguments["settings"] = ExportSettings(**settings)
    return export_student(student, folder=folder, **{**arguments, **changes})


class Toy(tf.Module):
    """A SavedModel with a signature for each rule of TensorFlow Serving.

    `serving_default` adds the version number to its input.
    """

    def __init__(self, number):
        super().__init__()
        self.number = tf.Variable(float(number))

    def shifted(self, x):
        return {"y": x + self.number}

    def described(self, ids, scale):
        wide = tf.cast(tf.strings.length(ids), tf.float32) * scale[:, None]
        return {"ids": ids, "wide": wide, "raw_bytes": ids}

    def checked(self, n):
        check = tf.raw_ops.Assert(
            condition=tf.reduce_all(n >= 0), data=["`n` must be at least 0."]
        )
        with tf.control_dependencies([check]):
            return {"twice": 2 * n}

    def scalar(self, n):
        return {"twice": 2 * n}

    def uneven(self, x):
        return {"all": x, "sum": tf.reduce_sum(x, keepdims=True)}

    def extreme(self, x):
        rows = tf.shape(x)[0]
        values = tf.constant([[np.inf, -np.inf, np.nan, 0.1, 1.0, 1e-9]], tf.float32)
        return {"values": tf.tile(values, [rows, 1])}

    def half(self, x):
        return {"half": tf.cast(x, tf.float16)}

    def brain(self, x):
        return {"brain": tf.cast(x, tf.bfloat16)}

    def constant(self):
        return {"seven": tf.constant([7])}

    def optional(self, a, b):
        return {"sum": a + b}

    def typed(self, i, b, d):
        return {"i": i, "b": b, "d": d}

    def slow(self, n):
        steps = tf.reduce_max(n)
        total = tf.while_loop(
            lambda k, _: k < steps,
            lambda k, x: (k + 1, tf.sin(x) + 1.0),
            (0, tf.ones([1_000])),
        )
        return {"total": tf.cast(n, tf.float32) + 0.0 * total[1][0]}


def _spec(shape, dtype=tf.float32):
    return tf.TensorSpec(shape, dtype)


TOY_INPUTS = {
    "shifted": {"x": _spec([None])},
    "described": {"ids": _spec([None, None], tf.string), "scale": _spec([None])},
    "checked": {"n": _spec([None], tf.int32)},
    "scalar": {"n": _spec([], tf.int32)},
    "uneven": {"x": _spec([None])},
    "extreme": {"x": _spec([None])},
    "half": {"x": _spec([None])},
    "brain": {"x": _spec([None])},
    "constant": {},
    "optional": {"a": _spec([None]), "b": _spec([None])},
    "typed": {
        "i": _spec([None], tf.int64),
        "b": _spec([None], tf.bool),
        "d": _spec([None], tf.float64),
    },
    "slow": {"n": _spec([None], tf.int32)},
}


@functools.cache
def saved_toy(number):
    """A SavedModel of this version, created once, for copying."""
    folder = Path(tempfile.mkdtemp(prefix="toy-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    toy = Toy(number)
    functions = {}
    for name, inputs in TOY_INPUTS.items():
        arguments = {
            key: tf.TensorSpec(s.shape, s.dtype, key) for key, s in inputs.items()
        }
        function = tf.function(getattr(toy, name)).get_concrete_function(**arguments)
        functions["serving_default" if name == "shifted" else name] = function
    tf.saved_model.save(toy, str(folder), signatures=functions)
    model = saved_model_pb2.SavedModel.FromString(
        (folder / "saved_model.pb").read_bytes()
    )
    defaults = model.meta_graphs[0].signature_def["optional"].defaults
    defaults["b"].CopyFrom(tf.make_tensor_proto([10.0]))
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    return folder


def publish_toy(base, number, warm_up=None, content=None):
    """Publishes a version by renaming; `warm_up` is requests or the bytes of a file."""
    staging = base / f".staging-{number}"
    shutil.copytree(saved_toy(content or number), staging)
    if warm_up is not None:
        file = staging / WARM_UP
        file.parent.mkdir(exist_ok=True)
        if isinstance(warm_up, bytes):
            file.write_bytes(warm_up)
        else:
            write_warm_up(file, warm_up)
    staging.rename(base / str(number))
    return base / str(number)


def write_warm_up(file, requests):
    """Writes a warm-up file of requests, or of bytes that are written unchanged."""
    with tf.io.TFRecordWriter(str(file)) as writer:
        for request in requests:
            if isinstance(request, bytes):
                writer.write(request)
                continue
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.CopyFrom(request)
            writer.write(log.SerializeToString())


def toy_config(base, labels=None, name="toy", **policy):
    """A `models.config` for TensorFlow Serving with one model."""
    document = model_server_config_pb2.ModelServerConfig()
    model = document.model_config_list.config.add(
        name=name, base_path=str(base), model_platform="tensorflow"
    )
    for label, number in (labels or {}).items():
        model.version_labels[label] = number
    if "versions" in policy:
        model.model_version_policy.specific.versions.extend(policy["versions"])
    if "latest" in policy:
        model.model_version_policy.latest.num_versions = policy["latest"]
    if policy.get("every"):
        model.model_version_policy.all.SetInParent()
    return document


def embedding_model(seed: int = 3) -> keras.Model:
    """A regression on two ids, with a table of 50 rows."""
    keras.utils.set_random_seed(seed)
    ids = keras.Input((2,), dtype="int32")
    inner = keras.layers.Embedding(50, 4)(ids)
    outputs = keras.layers.Dense(1)(keras.layers.Flatten()(inner))
    return keras.Model(ids, outputs)


def embedding_data() -> tuple[np.ndarray, np.ndarray]:
    """Examples for `embedding_model`, with the first 20 ids only."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 20, (32, 2)), rng.standard_normal((32, 1))
