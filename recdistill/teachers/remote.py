"""A model that a TensorFlow Serving endpoint answers for, over REST or gRPC."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from recdistill.errors import TeacherError
from recdistill.teachers.inputs import InputSpec
from recdistill.teachers.saved_model import output_name

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0


class UnavailableError(ConnectionError):
    """The server cannot be reached, or says that it is not ready: worth a retry."""


class RemoteModel(ABC):
    """What both protocols share: the signature, the deadline and the retries.

    A request that fails because the server is unavailable is sent again after a pause,
    drawn between 0 and a bound that doubles each time, so that clients which failed
    together do not come back together (Brooker, 2015, "Exponential backoff and
    jitter"). Any other failure is final: it would only be repeated.

    Args:
        address: Of the server; see the classes below.
        model: The name that the server knows it by.
        version: Its version; None for the newest.
        signature: Name of the signature.
        output: Name of the output that holds the scores; None where there is one.
        deadline_s: Seconds that a chunk may take, its retries and pauses included.
        retries: How often a chunk is sent again.

    Raises:
        TeacherError: If the server does not answer, or the model has no such signature
            or output.
    """

    parameters: int | None = None
    size_bytes: int | None = None

    def __init__(
        self,
        address: str,
        model: str,
        version: int | None = None,
        signature: str = "serving_default",
        output: str | None = None,
        deadline_s: float = 30.0,
        retries: int = 5,
    ) -> None:
        number = "" if version is None else f", version {version}"
        self.label = f"{model}{number} at {address}"
        self._address, self._model, self._version = address, model, version
        self._signature = signature
        self._deadline_s, self._retries = deadline_s, retries
        inputs, outputs = self._patiently(self._describe)
        self.inputs: Mapping[str, InputSpec] | None = inputs
        self._output = output_name(outputs, output, self.label)

    def predict(self, inputs: dict[str, np.ndarray]) -> Any:
        """The model's output for one chunk."""
        return self._patiently(lambda timeout: self._ask(inputs, timeout))

    @abstractmethod
    def _describe(self, timeout: float) -> tuple[dict[str, InputSpec], list[str]]:
        """The inputs of the signature and the names of its outputs."""

    @abstractmethod
    def _ask(self, inputs: dict[str, np.ndarray], timeout: float) -> Any:
        """Sends one chunk; UnavailableError where it may be sent again."""

    def _patiently(self, call: Callable[[float], Any]) -> Any:
        end = time.monotonic() + self._deadline_s
        for attempt in itertools.count(1):
            try:
                return call(max(0.001, end - time.monotonic()))
            except UnavailableError as error:
                bound = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1))
                pause = random.uniform(0.0, bound)
                if attempt > self._retries or time.monotonic() + pause >= end:
                    raise TeacherError(
                        f"The teacher {self.label} is not available after {attempt} "
                        f"request(s) within {self._deadline_s:g} s. Received: {error}"
                    ) from error
                time.sleep(pause)

    def _failed(self, reason: object) -> TeacherError:
        return TeacherError(f"The teacher {self.label} failed. Received: {reason}")

    def _signature_of(self, signatures: Mapping[str, Any]) -> Any:
        if self._signature not in signatures:
            raise TeacherError(
                f"`teacher.signature` must be one of the signatures of the teacher "
                f"{self.label}: {', '.join(sorted(signatures))}. "
                f"Received: {self._signature!r}"
            )
        return signatures[self._signature]


class RestModel(RemoteModel):
    """Over REST; the address is "http://host:8501" or "https://…"."""

    def _describe(self, timeout: float) -> tuple[dict[str, InputSpec], list[str]]:
        document = self._request("/metadata", None, timeout)
        signature = self._signature_of(
            document["metadata"]["signature_def"]["signature_def"]
        )
        inputs = {
            name: _spec_of_json(info) for name, info in signature["inputs"].items()
        }
        return inputs, list(signature["outputs"])

    def _ask(self, inputs: dict[str, np.ndarray], timeout: float) -> Any:
        document = {
            "signature_name": self._signature,
            "inputs": {name: value.tolist() for name, value in inputs.items()},
        }
        outputs = self._request(":predict", document, timeout)["outputs"]
        # With one output the server leaves its name out.
        return np.asarray(
            outputs[self._output] if isinstance(outputs, dict) else outputs, "float64"
        )

    def _request(self, path: str, document: Any, timeout: float) -> Any:
        version = "" if self._version is None else f"/versions/{self._version}"
        url = f"{self._address.rstrip('/')}/v1/models/{self._model}{version}{path}"
        data = None if document is None else json.dumps(document).encode()
        try:
            with urllib.request.urlopen(url, data, timeout=timeout) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read().decode(errors="replace")[:500]
            reason = f"HTTP {error.code}: {said}"
            if error.code == http.HTTPStatus.SERVICE_UNAVAILABLE:
                raise UnavailableError(reason) from error
            raise self._failed(reason) from error
        except TimeoutError as error:
            raise self._failed(f"no answer within {self._deadline_s:g} s") from error
        except (urllib.error.URLError, ConnectionError) as error:
            if isinstance(getattr(error, "reason", None), TimeoutError):
                raise self._failed(
                    f"no answer within {self._deadline_s:g} s"
                ) from error
            raise UnavailableError(str(error)) from error
        except (http.client.HTTPException, ValueError) as error:
            raise self._failed(error) from error


class GrpcModel(RemoteModel):
    """Over gRPC; the address is "host:8500"."""

    def __init__(self, address: str, *args: Any, **kwargs: Any) -> None:
        options = [("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(address, options)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        super().__init__(address, *args, **kwargs)

    def _describe(self, timeout: float) -> tuple[dict[str, InputSpec], list[str]]:
        request = get_model_metadata_pb2.GetModelMetadataRequest()
        self._address_to(request.model_spec)
        request.metadata_field.append("signature_def")
        response = self._call(self._stub.GetModelMetadata, request, timeout)
        packed = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(packed)
        signature = self._signature_of(dict(packed.signature_def))
        inputs = {name: _spec_of_proto(info) for name, info in signature.inputs.items()}
        return inputs, list(signature.outputs)

    def _ask(self, inputs: dict[str, np.ndarray], timeout: float) -> Any:
        request = predict_pb2.PredictRequest()
        self._address_to(request.model_spec)
        request.model_spec.signature_name = self._signature
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        response = self._call(self._stub.Predict, request, timeout)
        if self._output not in response.outputs:
            raise self._failed(
                f"outputs {sorted(response.outputs)} without {self._output!r}"
            )
        return tf.make_ndarray(response.outputs[self._output])

    def _address_to(self, spec: Any) -> None:
        spec.name = self._model
        if self._version is not None:
            spec.version.value = self._version

    def _call(self, method: Callable[..., Any], request: Any, timeout: float) -> Any:
        try:
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            reason = f"{error.code().name}: {error.details()}"
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                raise UnavailableError(reason) from error
            raise self._failed(reason) from error


def _spec_of_json(info: Mapping[str, Any]) -> InputSpec:
    shape = info.get("tensor_shape", {})
    dtype = info["dtype"].removeprefix("DT_").lower()
    if shape.get("unknown_rank"):
        return InputSpec(_dtype_name(dtype))
    sizes = [int(dim["size"]) for dim in shape.get("dim", [])]
    return InputSpec(_dtype_name(dtype), _open(sizes))


def _spec_of_proto(info: Any) -> InputSpec:
    dtype = tf.as_dtype(info.dtype).name
    if info.tensor_shape.unknown_rank:
        return InputSpec(dtype)
    return InputSpec(dtype, _open([dim.size for dim in info.tensor_shape.dim]))


def _open(sizes: list[int]) -> tuple[int | None, ...]:
    return tuple(None if size < 0 else size for size in sizes)


def _dtype_name(name: str) -> str:
    """The name of a protocol buffer's type as NumPy has it."""
    return {"float": "float32", "double": "float64", "half": "float16"}.get(name, name)
