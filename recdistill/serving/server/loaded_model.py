"""A SavedModel in a TensorFlow session, with its signatures and warm-up requests.

It is loaded as in the C++ server: a graph, a session with restored variables, and the
names of the tensors to feed and fetch. The exporter's Python code is not needed.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from grpc import StatusCode
from tensorflow.core.framework import tensor_shape_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.saved_model import loader_impl
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from recdistill.errors import DataError
from recdistill.export.layout import WARM_UP, WARM_UP_LIMIT
from recdistill.export.warm_up import read_records
from recdistill.serving.client.input_checks import Shapes
from recdistill.serving.server.request_errors import (
    RequestError,
    from_tensorflow,
    invalid,
)
from recdistill.serving.server.wire_tensors import dtype_name, read_tensor

__all__ = ["DEFAULT_SIGNATURE", "LoadedModel", "LoadedSignature", "warm_up_requests"]

DEFAULT_SIGNATURE = "serving_default"

_METHODS = "tensorflow/serving/"
"""Start of the method names of signatures for requests."""

_IN_THE_CALLERS_THREAD = -1


@dataclass(frozen=True)
class LoadedSignature:
    """Signature of a loaded model.

    Attributes:
        name: Name of the signature.
        inputs: Type and shape of each input, by name.
        outputs: Type and shape of each output, by name.
        defaults: Values of inputs that a gRPC request may omit.
        shapes: Shape of each input, by name.
    """

    name: str
    inputs: Mapping[str, meta_graph_pb2.TensorInfo]
    outputs: Mapping[str, meta_graph_pb2.TensorInfo]
    defaults: Mapping[str, np.ndarray]
    shapes: Shapes = field(default_factory=dict)


class LoadedModel:
    """SavedModel in a TensorFlow session.

    Requests run in the thread of their caller, which takes a third of the time of a
    thread pool. TensorFlow's own timeout is not used: it needs the thread pool, and
    TensorFlow never frees the rendezvous of a run with a timeout that fails, about
    0.7 kB.

    Args:
        path: Folder of the version.

    Raises:
        RequestError: If the SavedModel cannot be loaded. One without variables loads,
            but its requests fail, as in TensorFlow Serving.
    """

    def __init__(self, path: Path) -> None:
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        self._calls: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._lock = threading.Lock()
        try:
            self.signature_defs = self._load(path)
            self.signatures = {
                name: _signature(name, each)
                for name, each in self.signature_defs.items()
                # Others initialise the model, for example.
                if each.method_name.startswith(_METHODS)
            }
        except tf.errors.OpError as error:
            self.close()
            raise from_tensorflow(error) from error
        except Exception as error:
            # Damaged files must not end the server.
            self.close()
            raise RequestError(
                StatusCode.INTERNAL,
                f"{path} cannot be loaded as a SavedModel: {error}",
            ) from error

    def _load(self, path: Path) -> dict[str, meta_graph_pb2.SignatureDef]:
        """Loads graph and variables, and returns the signatures.

        TensorFlow's `load` would fail for a folder without variables.
        """
        loader, tags = loader_impl.SavedModelLoader(str(path)), ["serve"]
        with self._session.graph.as_default() as graph:
            saver, _ = loader.load_graph(graph, tags)
            if (path / "variables" / "variables.index").is_file():
                loader.restore_variables(self._session, saver)
            loader.run_init_ops(self._session, tags)
        return dict(loader.get_meta_graph_def_from_tags(tags).signature_def)

    def run(
        self,
        signature: LoadedSignature,
        values: Sequence[np.ndarray],
        outputs: tuple[str, ...],
    ) -> list[np.ndarray]:
        """Runs a signature.

        Args:
            signature: One of `signatures`.
            values: One array for each input, in the order of the signature.
            outputs: Names of the outputs to compute.

        Returns:
            One array for each name in `outputs`.

        Raises:
            RequestError: If the graph fails.
        """
        key = signature.name, outputs
        try:
            call = self._calls.get(key) or self._callable(signature, key)
            answer = call(*values)
        except tf.errors.OpError as error:
            raise from_tensorflow(error) from error
        # A string without axes is `bytes`.
        return [
            np.array(each, object) if isinstance(each, bytes) else each
            for each in answer
        ]

    def close(self) -> None:
        """Frees the memory of the model; no request may be running."""
        self._calls.clear()
        self._session.close()
        del self._session
        # Graphs have reference cycles, so only the garbage collector frees them.
        gc.collect()

    def _callable(
        self, signature: LoadedSignature, key: tuple[str, tuple[str, ...]]
    ) -> Any:
        """TensorFlow's prepared call for these feeds and fetches, made once.

        `session.run` looks up all names again, which takes ten times as long. The
        method for prepared calls is public in C++ only.
        """
        with self._lock:
            if key in self._calls:
                return self._calls[key]
            options = config_pb2.CallableOptions()
            options.feed.extend(info.name for info in signature.inputs.values())
            options.fetch.extend(signature.outputs[name].name for name in key[1])
            options.run_options.inter_op_thread_pool = _IN_THE_CALLERS_THREAD
            call = self._session._make_callable_from_options(options)
            self._calls[key] = call
            return call


def _signature(name: str, definition: meta_graph_pb2.SignatureDef) -> LoadedSignature:
    # Dictionaries, because the maps of a message are slow and not ordered.
    defaults = {k: read_tensor(proto, k) for k, proto in definition.defaults.items()}
    return LoadedSignature(
        name,
        {key: definition.inputs[key] for key in sorted(definition.inputs)},
        {key: definition.outputs[key] for key in sorted(definition.outputs)},
        defaults,
        {key: _shape(info.tensor_shape) for key, info in definition.inputs.items()},
    )


def _shape(proto: tensor_shape_pb2.TensorShapeProto) -> tuple[int | None, ...] | None:
    if proto.unknown_rank:
        return None
    return tuple(None if dim.size < 0 else dim.size for dim in proto.dim)


def request_inputs(
    signature: LoadedSignature, request: predict_pb2.PredictRequest
) -> list[np.ndarray]:
    """The arrays of a gRPC request, in the order of the signature's inputs.

    Shapes are not compared with the signature, as in TensorFlow Serving; the graph
    checks them.

    Args:
        signature: The signature named by the request.
        request: The request.

    Raises:
        RequestError: If an input is unknown, has another type or is not a valid tensor,
            or if an input without a default is missing.
    """
    inputs, expected = request.inputs, signature.inputs
    unknown = sorted(inputs.keys() - expected.keys())
    missing = sorted(expected.keys() - inputs.keys() - signature.defaults.keys())
    if unknown or missing:
        raise invalid(
            f"input size does not match signature: {len(inputs)}!="
            f"{len(expected)}. Sent extra: {{{','.join(unknown)}}}. "
            f"Missing but required: {{{','.join(missing)}}}."
        )
    values = []
    for name, info in expected.items():
        if name not in inputs:
            values.append(signature.defaults[name])
            continue
        proto = inputs[name]
        if proto.dtype != info.dtype:
            raise invalid(
                f"The input {name!r} must be {dtype_name(info.dtype)}. "
                f"Received: {dtype_name(proto.dtype)}"
            )
        values.append(read_tensor(proto, name))
    return values


def request_outputs(
    signature: LoadedSignature, wanted: Sequence[str]
) -> tuple[str, ...]:
    """Names of the outputs of a gRPC request: its `output_filter`, or all.

    Args:
        signature: The signature named by the request.
        wanted: The request's `output_filter`.

    Raises:
        RequestError: If an output is unknown or named twice.
    """
    if not wanted:
        return tuple(signature.outputs)
    for place, name in enumerate(wanted):
        if name not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {name} Outputs expected "
                f"to be in the set {{{','.join(signature.outputs)}}}."
            )
        if name in wanted[:place]:
            raise invalid(f"duplicate output tensor alias: {name}")
    # Sorted, so that each set of outputs is prepared once.
    return tuple(sorted(wanted))


def warm_up_requests(path: Path) -> Iterator[predict_pb2.PredictRequest]:
    """Warm-up requests of a version.

    Args:
        path: Folder of the version.

    Yields:
        The requests; none if the version has no such file. A record without a request
        is skipped, as in TensorFlow Serving.

    Raises:
        RequestError: If a record is damaged or has another kind of request, or there
            are more than 1,000 records.
    """
    file = path / WARM_UP
    if not file.is_file():
        return
    try:
        records = list(read_records(file))
    except DataError as error:
        raise RequestError(StatusCode.DATA_LOSS, str(error)) from error
    if len(records) > WARM_UP_LIMIT:
        raise invalid(
            f"Number of warmup records exceeds the maximum ({WARM_UP_LIMIT}): "
            f"{len(records)} in {file}"
        )
    for place, record in enumerate(records):
        try:
            log = prediction_log_pb2.PredictionLog.FromString(record)
        except Exception as error:
            raise RequestError(
                StatusCode.DATA_LOSS,
                f"Record {place} of {file} is not a PredictionLog.",
            ) from error
        kind = log.WhichOneof("log_type")
        if kind is None:
            continue
        if kind != "predict_log":
            raise RequestError(
                StatusCode.UNIMPLEMENTED,
                f"Record {place} of {file} must be a predict_log. Received: {kind}",
            )
        yield log.predict_log.request
