"""A small model server with both protocols, which fails on demand.

It uses the official stubs and `http.server`, so that our client is tested against code
that is not ours. Its model scores item `i` for a query with
`count - i + length of the history`, so the best items are in catalogue order.
"""

import base64
import contextlib
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

ITEMS = [*(f"item-{k}" for k in range(7)), "größe", "映画", "новинка"]
THREADS = 8
LOWEST = np.finfo("float32").min

STRING, FLOAT, INT, BOOL = (
    types_pb2.DT_STRING,
    types_pb2.DT_FLOAT,
    types_pb2.DT_INT32,
    types_pb2.DT_BOOL,
)
QUERY = {
    "user_id": (STRING, [-1]),
    "age": (FLOAT, [-1]),
    "taste": (FLOAT, [-1, 2]),
    "jobs": (STRING, [-1, -1]),
    "history": (STRING, [-1, -1]),
    "history_length": (INT, [-1]),
}
LISTS = (STRING, [-1, -1])
SCORES = (FLOAT, [-1, -1])
SIGNATURES = {
    "recommend": (
        {**QUERY, "k": (INT, [-1]), "exclude_ids": LISTS, "allow_ids": LISTS},
        {"item_ids": LISTS, "scores": SCORES},
    ),
    "rank": (
        {**QUERY, "candidate_ids": LISTS},
        {"scores": SCORES, "known": (BOOL, [-1, -1])},
    ),
    "encode_query": (QUERY, {"embedding": (FLOAT, [-1, 2])}),
}


def query(**changes):
    """A valid query."""
    plain = {"user_id": "ann", "age": 30.0, "taste": [0.5, 1.5], "jobs": ["cook"]}
    return {**plain, "history": ["item-1", "größe"], **changes}


def answer(signature, inputs):
    """Outputs of the model for arrays of inputs; text is bytes."""
    length = inputs["history_length"].astype("float32")
    scores = len(ITEMS) - np.arange(len(ITEMS), dtype="float32") + length[:, None]
    if signature == "encode_query":
        return {"embedding": np.stack([length, inputs["age"]], axis=1)}
    names = np.array([each.encode() for each in ITEMS], object)
    if signature == "rank":
        place = {name: k for k, name in enumerate(names)}
        rows = [[place.get(i, -1) for i in each] for each in inputs["candidate_ids"]]
        known = np.array(rows) >= 0
        found = np.take_along_axis(scores, np.maximum(rows, 0), axis=1)
        return {"scores": np.where(known, found, LOWEST), "known": known}
    k = int(inputs["k"].max())
    ids = np.full((len(scores), k), b"", object)
    best = np.full((len(scores), k), LOWEST, "float32")
    for row, excluded in enumerate(inputs["exclude_ids"]):
        allowed = [i for i in inputs["allow_ids"][row] if i] or names
        left = [
            place for place, i in enumerate(names) if i not in excluded and i in allowed
        ][:k]
        ids[row, : len(left)], best[row, : len(left)] = names[left], scores[row, left]
    return {"item_ids": ids, "scores": best}


@dataclass
class FakeServer:
    """Settings and observations of the server.

    Attributes:
        failures: Codes and messages of the next answers; further requests succeed.
        delay_s: Duration of each prediction, in seconds.
        barrier: If given, every prediction waits at it.
        seen: Signature and inputs of each answered prediction.
        attempts: Number of requested predictions, failed ones included.
        under_way: Number of running predictions.
        at_once: Maximum number of predictions that ran at the same time.
        versions: Number and state of each version.
        load_errors: Error message of versions that did not load.
        metadata_calls: Number of requests for the signatures.
        open_gate: Predictions wait until it is set, which it is at first.
        hang_up: Closes all REST connections.
    """

    failures: deque = field(default_factory=deque)
    delay_s: float = 0.0
    barrier: threading.Barrier | None = None
    seen: list = field(default_factory=list)
    attempts: int = 0
    under_way: int = 0
    at_once: int = 0
    counting: threading.Lock = field(default_factory=threading.Lock)
    versions: dict = field(default_factory=lambda: {7: "AVAILABLE"})
    load_errors: dict = field(default_factory=dict)
    metadata_calls: int = 0
    grpc_port: int = 0
    rest_port: int = 0
    connections: set = field(default_factory=set)
    open_gate: threading.Event = field(default_factory=threading.Event)
    hang_up: Callable = lambda: None

    def __post_init__(self):
        self.open_gate.set()

    @property
    def endpoints(self):
        return {
            "grpc": f"grpc://127.0.0.1:{self.grpc_port}",
            "rest": f"http://127.0.0.1:{self.rest_port}",
        }

    @property
    def newest(self):
        return max(v for v, state in self.versions.items() if state == "AVAILABLE")

    def predict(self, model, version, label, signature, inputs):
        with self.counting:
            self.attempts += 1
        if self.failures:
            raise Failure(*self.failures.popleft())
        self.check(model, version, label)
        with self.counting:
            self.under_way += 1
            self.at_once = max(self.at_once, self.under_way)
        if self.barrier is not None:
            self.barrier.wait()
        self.open_gate.wait()
        time.sleep(self.delay_s)
        with self.counting:
            self.under_way -= 1
        self.seen.append((signature, inputs))
        return answer(signature, inputs)

    def check(self, model, version, label):
        if model != "films":
            raise Failure("NOT_FOUND", f"Servable not found for request: {model}")
        if label not in ("", "stable"):
            raise Failure("NOT_FOUND", f"no label {label}")
        if version not in (None, *self.versions):
            raise Failure(
                "NOT_FOUND", f"Servable not found: Specific(films, {version})"
            )


class Failure(Exception):
    def __init__(self, code, said):
        super().__init__(code, said)
        self.code, self.said = code, said


def spec_of(spec):
    version = spec.version.value if spec.HasField("version") else None
    return spec.name, version, spec.version_label


class Grpc:
    """Both services, with the official stubs."""

    def __init__(self, server):
        self.server = server

    def Predict(self, request, context):
        signature = request.model_spec.signature_name
        inputs = {n: tf.make_ndarray(value) for n, value in request.inputs.items()}
        try:
            outputs = self.server.predict(
                *spec_of(request.model_spec), signature, inputs
            )
        except Failure as failure:
            context.abort(grpc.StatusCode[failure.code], failure.said)
        response = predict_pb2.PredictResponse()
        response.model_spec.name = "films"
        response.model_spec.version.value = self.server.newest
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response

    def GetModelMetadata(self, request, context):
        self.server.metadata_calls += 1
        try:
            self.server.check(*spec_of(request.model_spec))
        except Failure as failure:
            context.abort(grpc.StatusCode[failure.code], failure.said)
        found = get_model_metadata_pb2.SignatureDefMap()
        for name, sides in SIGNATURES.items():
            signature = found.signature_def[name]
            for side, tensors in zip(
                (signature.inputs, signature.outputs), sides, strict=True
            ):
                for each, (dtype, shape) in tensors.items():
                    info = meta_graph_pb2.TensorInfo(name=f"{each}:0", dtype=dtype)
                    for size in shape:
                        info.tensor_shape.dim.add(size=size)
                    side[each].CopyFrom(info)
        found.signature_def["__saved_model_init_op"].method_name = "init"
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(found)
        return response

    def GetModelStatus(self, request, context):
        response = get_model_status_pb2.GetModelStatusResponse()
        for version, state in self.server.versions.items():
            kind = get_model_status_pb2.ModelVersionStatus
            status = response.model_version_status.add(
                version=version, state=kind.State.Value(state)
            )
            status.status.error_message = self.server.load_errors.get(version, "")
        return response

    # Methods of the services that the tests do not call.
    Classify = Regress = MultiInference = HandleReloadConfigRequest = None


HTTP = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "UNAVAILABLE": 503} | {
    "DEADLINE_EXCEEDED": 504,
    "INTERNAL": 500,
    "CANCELLED": 499,
    "RESOURCE_EXHAUSTED": 429,
}


class Rest(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def reply(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        fake = self.server.fake
        if self.path.endswith("/metadata"):
            fake.metadata_calls += 1
            self.checked(lambda: metadata_json(fake))
        else:
            states = [
                {
                    "version": str(v),
                    "state": s,
                    "status": {"error_message": fake.load_errors.get(v, "")},
                }
                for v, s in fake.versions.items()
            ]
            self.reply(200, {"model_version_status": states})

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        content = json.loads(self.rfile.read(length))
        self.server.fake.connections.add(self.client_address)
        self.checked(lambda: self.predicted(content))

    def checked(self, compute):
        try:
            content = compute()
        except Failure as failure:
            self.reply(HTTP[failure.code], {"error": failure.said})
        else:
            self.reply(200, content)

    def predicted(self, content):
        fake, signature = self.server.fake, content["signature_name"]
        parts = self.path.removesuffix(":predict").split("/")[3:]
        chosen = dict(zip(parts[1::2], parts[2::2], strict=True))
        version = int(chosen["versions"]) if "versions" in chosen else None
        inputs = {}
        for name, value in content["inputs"].items():
            dtype = SIGNATURES[signature][0][name][0]
            array = np.array(value, object)
            if dtype == STRING:
                flat = np.array(
                    [each.encode() for each in array.ravel()] + [b""], object
                )
                inputs[name] = flat[:-1].reshape(array.shape)
            else:
                inputs[name] = array.astype(tf.as_dtype(dtype).as_numpy_dtype)
        outputs = fake.predict(
            parts[0], version, chosen.get("labels", ""), signature, inputs
        )
        plain = {name: as_json(name, value) for name, value in outputs.items()}
        return {"outputs": plain if len(plain) > 1 else next(iter(plain.values()))}


def as_json(name, value):
    if value.dtype != object:
        return value.tolist()
    if name.endswith("_bytes"):
        return [[{"b64": base64.b64encode(e).decode()} for e in row] for row in value]
    return [[each.decode() for each in row] for row in value]


def metadata_json(fake):
    def tensors(side):
        return {
            name: {
                "dtype": types_pb2.DataType.Name(dtype),
                "tensor_shape": {
                    "dim": [{"size": str(size), "name": ""} for size in shape],
                    "unknown_rank": False,
                },
                "name": f"{name}:0",
            }
            for name, (dtype, shape) in side.items()
        }

    signatures = {
        name: {"inputs": tensors(i), "outputs": tensors(o), "method_name": "predict"}
        for name, (i, o) in SIGNATURES.items()
    }
    return {
        "model_spec": {"name": "films", "signature_name": "", "version": "7"},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.open = set()

    def process_request(self, request, address):
        self.open.add(request)
        super().process_request(request, address)

    def shutdown_request(self, request):
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, address):
        """Ignores clients that disconnect."""

    def hang_up(self):
        for each in list(self.open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def serving(grpc_port=0, rest_port=0):
    """Runs a server, by default on free ports."""
    fake = FakeServer()
    pool = futures.ThreadPoolExecutor(THREADS)
    server = grpc.server(pool)
    services = Grpc(fake)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        services, server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(services, server)
    fake.grpc_port = server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    server.start()
    rest = _Http(("127.0.0.1", rest_port), Rest)
    rest.fake, fake.rest_port = fake, rest.server_address[1]
    fake.hang_up = rest.hang_up
    # `shutdown` waits for the poll interval.
    thread = threading.Thread(target=rest.serve_forever, args=[0.02], daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        rest.shutdown()
        rest.hang_up()
        rest.server_close()
        thread.join()
        server.stop(0).wait()
        pool.shutdown()
