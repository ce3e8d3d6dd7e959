"""External teachers for the tests of the pipeline: one rule, many kinds.

The score of a pair, except for trained teachers, is twice the item's quality, which is
a privileged feature, plus one if segment and category have the same number.
"""

import json
import threading
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)


def rule(quality, segment, category):
    """The rule in NumPy, `(rows,)`."""
    same = [s[1:] == c[1:] for s, c in zip(segment, category, strict=True)]
    return 2.0 * np.asarray(quality, "float32") + np.asarray(same, "float32")


def scored(inputs):
    """A function for kind `callable`, with our own names."""
    assert set(inputs) == {
        *("user_id", "history", "history_length", "segment", "budget"),
        *("item_id", "category", "tags", "vector", "quality"),
    }
    return rule(inputs["quality"], inputs["segment"], inputs["category"])


def in_lists(inputs):
    """The same for whole lists, with other input names."""
    assert set(inputs) == {"q", "group", "kind", "real"}
    assert inputs["real"].shape == inputs["q"].shape == inputs["kind"].shape
    rows = [
        rule(q, [group] * len(q), kind)
        for q, group, kind in zip(*map(inputs.get, ("q", "group", "kind")), strict=True)
    ]
    return np.where(inputs["real"], rows, np.nan_to_num(np.inf))


def save_keras(path, vocabulary=32):
    """A `.keras` file."""
    numbers = [f"{k:02d}" for k in range(vocabulary)]
    lookup = {
        letter: keras.layers.StringLookup(vocabulary=[letter + n for n in numbers])
        for letter in "sc"
    }
    segment = keras.Input((1,), dtype="string", name="segment")
    category = keras.Input((1,), dtype="string", name="kind")
    quality = keras.Input((1,), name="quality")
    table = np.eye(vocabulary + 1, dtype="float32")
    embed = keras.layers.Embedding(
        *table.shape, embeddings_initializer=keras.initializers.Constant(0.0)
    )
    vectors = [
        keras.layers.Flatten()(embed(lookup[letter](value)))
        for letter, value in (("s", segment), ("c", category))
    ]
    same = keras.layers.Dot(axes=1)(vectors)
    output = keras.layers.Add()([same, quality, quality])
    model = keras.Model([segment, category, quality], output)
    embed.set_weights([table])
    model.save(path)


class Module(tf.Module):
    """The rule as TensorFlow ops."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "segment"),
            tf.TensorSpec([None], tf.string, "category"),
            tf.TensorSpec([None], tf.float64, "q"),
        ]
    )
    def score(self, segment, category, q):
        number = [tf.strings.substr(each, 1, 2) for each in (segment, category)]
        same = tf.cast(tf.equal(*number), tf.float64)
        return {"score": tf.cast(2.0 * q + same, tf.float32), "other": q}


def save_saved_model(path):
    """A SavedModel with two outputs, of a signature that is not the default."""
    module = Module()
    tf.saved_model.save(module, str(path), signatures={"rank": module.score})


SIGNATURE = {"segment": "DT_STRING", "category": "DT_STRING", "q": "DT_FLOAT"}


class _Rest(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, document, status=200):
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        assert self.path == "/v1/models/ranker/versions/3/metadata"
        shape = {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}

        def tensors(names):
            return {
                name: {"dtype": kind, "tensor_shape": shape, "name": f"{name}:0"}
                for name, kind in names.items()
            }

        signature = {
            "inputs": tensors(SIGNATURE),
            "outputs": tensors({"score": "DT_FLOAT"}),
            "method_name": "tensorflow/serving/predict",
        }
        definition = {"signature_def": {"serving_default": signature}}
        self.answer({"metadata": {"signature_def": definition}})

    def do_POST(self):
        self.server.requests += 1
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.failures:
            status, document = self.server.failures.pop(0)
            return self.answer(document, status)
        assert self.path == "/v1/models/ranker/versions/3:predict"
        assert body["signature_name"] == "serving_default"
        inputs = body["inputs"]
        scores = rule(inputs["q"], inputs["segment"], inputs["category"])
        return self.answer({"outputs": scores.tolist()})


@contextmanager
def rest_server():
    """A stand-in for TensorFlow Serving over REST; `failures` come first."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Rest)
    server.failures, server.requests = [], 0
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Grpc(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self):
        self.failures, self.requests = [], 0

    def GetModelMetadata(self, request, context):
        assert (request.model_spec.name, request.model_spec.version.value) == (
            "ranker",
            3,
        )
        signature = meta_graph_pb2.SignatureDef()
        types = {"DT_STRING": tf.string, "DT_FLOAT": tf.float32}
        for name, kind in SIGNATURE.items():
            signature.inputs[name].dtype = types[kind].as_datatype_enum
            signature.inputs[name].tensor_shape.dim.add(size=-1)
        signature.outputs["score"].dtype = tf.float32.as_datatype_enum
        found = get_model_metadata_pb2.SignatureDefMap()
        found.signature_def["serving_default"].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(found)
        return response

    def Predict(self, request, context):
        self.requests += 1
        if self.failures:
            context.abort(self.failures.pop(0), "as asked")
        assert request.model_spec.version.value == 3
        inputs = {k: tf.make_ndarray(v) for k, v in request.inputs.items()}
        texts = {k: [t.decode() for t in inputs[k]] for k in ("segment", "category")}
        response = predict_pb2.PredictResponse()
        scores = rule(inputs["q"], texts["segment"], texts["category"])
        response.outputs["score"].CopyFrom(tf.make_tensor_proto(scores[:, None]))
        return response


@contextmanager
def grpc_server():
    """A stand-in for TensorFlow Serving over gRPC; `failures` come first."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    service = _Grpc()
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield service
    finally:
        server.stop(None).wait()
