"""Script that answers requests from a SavedModel in a process with TensorFlow only.

    python -P fresh_process.py MODEL REQUESTS ANSWERS WARM_UP

MODEL is a SavedModel. REQUESTS and WARM_UP are TFRecord files of `PredictionLog`.
ANSWERS receives all requests with their responses twice, once for each of TensorFlow's
two loaders; the second is the one that the C++ server uses. At the end the warm-up
requests are replayed. The script imports neither Keras nor recdistill, so it fails if
the SavedModel needs either.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Importing these now raises an error; TensorFlow itself works without Keras.
    sys.modules.update(dict.fromkeys(("keras", "tf_keras", "recdistill")))  # type: ignore[arg-type]

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

Arrays = Mapping[str, np.ndarray]
Call = Callable[[str, Arrays], Arrays]
"""Function from the name of a signature and its inputs to its outputs."""


def load_objects(model: Path) -> Call:
    """Loads a SavedModel with `tf.saved_model.load`, as Python programs do."""
    loaded = tf.saved_model.load(str(model))

    def call(signature: str, inputs: Arrays) -> Arrays:
        tensors = {name: tf.constant(value) for name, value in inputs.items()}
        outputs = loaded.signatures[signature](**tensors)
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return call


def open_session(
    model: Path, config: tf.compat.v1.ConfigProto | None = None
) -> tuple[tf.compat.v1.Session, Mapping[str, Any]]:
    """Session with a SavedModel in it, as the C++ server loads it; and its signatures.

    Args:
        model: The SavedModel.
        config: Options of the session.

    Returns:
        The session, and each signature's definition by its name.
    """
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    with session.graph.as_default():
        graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(model))
    return session, graph.signature_def


def load_session(model: Path) -> Call:
    """Loads a SavedModel into a session and feeds and fetches tensors by name."""
    session, signatures = open_session(model)

    def call(signature: str, inputs: Arrays) -> Arrays:
        contract = signatures[signature]
        feed = {contract.inputs[name].name: value for name, value in inputs.items()}
        fetches = {name: info.name for name, info in contract.outputs.items()}
        outputs: Arrays = session.run(fetches, feed)
        return outputs

    return call


def predict(
    call: Call, request: predict_pb2.PredictRequest
) -> predict_pb2.PredictResponse:
    """Response to a request."""
    inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
    response = predict_pb2.PredictResponse()
    for name, value in call(request.model_spec.signature_name, inputs).items():
        response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
    return response


def read(path: Path) -> Iterator[prediction_log_pb2.PredictionLog]:
    """Prediction logs of a TFRecord file."""
    for record in tf.data.TFRecordDataset(str(path)):
        yield prediction_log_pb2.PredictionLog.FromString(record.numpy())


def answer(model: Path, requests: Path, answers: Path, warm_up: Path) -> None:
    """Writes the answers of both loaders to all requests, then replays the warm-up.

    Args:
        model: The SavedModel.
        requests: The requests.
        answers: Receives the requests with their responses, once for each loader.
        warm_up: The warm-up requests.
    """
    with tf.io.TFRecordWriter(str(answers)) as writer:
        for load in (load_objects, load_session):
            call = load(model)
            for log in read(requests):
                response = predict(call, log.predict_log.request)
                log.predict_log.response.CopyFrom(response)
                writer.write(log.SerializeToString(deterministic=True))
    for log in read(warm_up):
        predict(call, log.predict_log.request)


if __name__ == "__main__":
    answer(*map(Path, sys.argv[1:]))
