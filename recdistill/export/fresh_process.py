"""Answers requests from a SavedModel in a process that has nothing but TensorFlow.

Run as a script; the library imports no more of it than the file format:

    python -P fresh_process.py MODEL REQUESTS ANSWERS

REQUESTS and ANSWERS are TFRecord files of `PredictionLog`, the format of a server's
warm-up requests; ANSWERS has all requests with their responses twice, once for each of
TensorFlow's two loaders. The second is the one that the C++ server uses. At the end the
model's own warm-up requests are replayed as well.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

if __name__ == "__main__":
    # From here on an import of these raises: TensorFlow itself tries one, and goes on.
    sys.modules.update(dict.fromkeys(("keras", "tf_keras", "recdistill")))  # type: ignore[arg-type]

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

Predict = Callable[[predict_pb2.PredictRequest], predict_pb2.PredictResponse]

WARM_UP = Path("assets.extra") / "tf_serving_warmup_requests"
"""Where a server looks for warm-up requests inside a SavedModel."""


def load_objects(model: Path) -> Predict:
    """Loads as Python programs do."""
    loaded = tf.saved_model.load(str(model))

    def predict(request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        inputs = {k: tf.constant(tf.make_ndarray(v)) for k, v in request.inputs.items()}
        outputs = loaded.signatures[request.model_spec.signature_name](**inputs)
        response = predict_pb2.PredictResponse()
        for name, value in outputs.items():
            proto = tf.make_tensor_proto(value.numpy(), value.dtype)
            response.outputs[name].CopyFrom(proto)
        return response

    return predict


def load_session(model: Path) -> Predict:
    """Loads as the C++ server does: a graph, a session, names of tensors."""
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(model))

    def predict(request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        signature = graph.signature_def[request.model_spec.signature_name]
        feed = {
            signature.inputs[name].name: tf.make_ndarray(proto)
            for name, proto in request.inputs.items()
        }
        fetches = {name: info.name for name, info in signature.outputs.items()}
        response = predict_pb2.PredictResponse()
        for name, value in session.run(fetches, feed).items():
            proto = tf.make_tensor_proto(value, signature.outputs[name].dtype)
            response.outputs[name].CopyFrom(proto)
        return response

    return predict


def read(path: Path) -> Iterator[prediction_log_pb2.PredictionLog]:
    """The records of a file."""
    for record in tf.data.TFRecordDataset(str(path)):
        yield prediction_log_pb2.PredictionLog.FromString(record.numpy())


def answer(model: Path, requests: Path, answers: Path) -> None:
    """Answers all requests with both loaders, then replays the warm-up."""
    with tf.io.TFRecordWriter(str(answers)) as writer:
        for load in (load_objects, load_session):
            predict = load(model)
            for log in read(requests):
                response = predict(log.predict_log.request)
                log.predict_log.response.CopyFrom(response)
                writer.write(log.SerializeToString())
    for log in read(model / WARM_UP):
        predict(log.predict_log.request)


if __name__ == "__main__":
    answer(*map(Path, sys.argv[1:]))
