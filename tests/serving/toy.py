"""Small SavedModels with a signature for each rule of TensorFlow Serving."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from recdistill.export.layout import WARM_UP


class Toy(tf.Module):
    """`serving_default` adds the version number to its input."""

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


def spec(shape, dtype=tf.float32):
    return tf.TensorSpec(shape, dtype)


INPUTS = {
    "shifted": {"x": spec([None])},
    "described": {"ids": spec([None, None], tf.string), "scale": spec([None])},
    "checked": {"n": spec([None], tf.int32)},
    "scalar": {"n": spec([], tf.int32)},
    "uneven": {"x": spec([None])},
    "extreme": {"x": spec([None])},
    "half": {"x": spec([None])},
    "brain": {"x": spec([None])},
    "constant": {},
    "optional": {"a": spec([None]), "b": spec([None])},
    "typed": {
        "i": spec([None], tf.int64),
        "b": spec([None], tf.bool),
        "d": spec([None], tf.float64),
    },
    "slow": {"n": spec([None], tf.int32)},
}


@functools.cache
def saved(number):
    """A SavedModel of this version, created once, for copying."""
    folder = Path(tempfile.mkdtemp(prefix="toy-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    toy = Toy(number)
    functions = {}
    for name, inputs in INPUTS.items():
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


def publish(base, number, warm_up=None, content=None):
    """Publishes a version by renaming; `warm_up` are requests or bytes of a file."""
    staging = base / f".staging-{number}"
    shutil.copytree(saved(content or number), staging)
    if warm_up is not None:
        file = staging / WARM_UP
        file.parent.mkdir(exist_ok=True)
        if isinstance(warm_up, bytes):
            file.write_bytes(warm_up)
        else:
            write_records(file, warm_up)
    staging.rename(base / str(number))
    return base / str(number)


def write_records(file, requests):
    with tf.io.TFRecordWriter(str(file)) as writer:
        for request in requests:
            if isinstance(request, bytes):
                writer.write(request)
                continue
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.CopyFrom(request)
            writer.write(log.SerializeToString())


def config(base, labels=None, name="toy", **policy):
    """A configuration with one model."""
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
