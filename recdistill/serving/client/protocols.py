"""Encoding and decoding of TensorFlow Serving's gRPC and REST messages.

A protocol converts calls to messages and answers to values, without sending them. Both
clients and the load test share it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeAlias
from urllib.parse import quote

import numpy as np

from recdistill.errors import ConfigError
from recdistill.serving.client import messages
from recdistill.serving.client.contract import SignatureContract, TensorContract
from recdistill.serving.client.tensors import DTYPES, from_json, from_proto, to_proto

__all__ = [
    "GRPC",
    "REST",
    "Answer",
    "Message",
    "ServingProtocol",
    "Target",
    "VersionStatus",
]

Signatures = Mapping[str, SignatureContract]

STATES = {10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}


@dataclass(frozen=True)
class Target:
    """Model, and optionally version or label, that a request is for.

    Attributes:
        model: Name of the model on the server.
        version: Version number; None for the latest version, or if `label` is set.
        label: Version label such as "stable".

    Raises:
        ConfigError: If `model` is empty, a name is not text, `version` is not a number
            of at most 63 bits, or `version` and `label` are both set.
    """

    model: str
    version: int | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError(
                f"`model` must not be empty. Received: model={self.model!r}"
            )
        for name in ("model", "label"):
            if not _is_text(getattr(self, name)):
                raise ConfigError(
                    f"`{name}` must be text in Unicode. "
                    f"Received: {name}={getattr(self, name)!r}"
                )
        if self.version is not None and not _is_version(self.version):
            raise ConfigError(
                "`version` must be from 0 to 2**63 - 1. "
                f"Received: version={self.version!r}"
            )
        if self.version is not None and self.label is not None:
            raise ConfigError(
                "`version` and `label` must not both be set. Received: "
                f"version={self.version}, label={self.label!r}"
            )


@dataclass(frozen=True)
class Message:
    """Encoded request.

    Attributes:
        path: gRPC method, or path of the URL.
        body: Content; None for a GET over REST.
        what: Description of the request for error messages.
    """

    path: str
    body: bytes | None
    what: str


@dataclass(frozen=True)
class Answer:
    """Outputs of a signature.

    Attributes:
        outputs: Arrays by output name, each `(batch, …)`; text as `str` objects.
        version: Model version that answered. Over REST it is None unless the request
            named a version, because REST answers do not report it.
    """

    outputs: dict[str, np.ndarray]
    version: int | None


@dataclass(frozen=True)
class VersionStatus:
    """State of a model version on the server.

    Attributes:
        version: Version number.
        state: "START", "LOADING", "AVAILABLE", "UNLOADING" or "END".
        error: Error message of a failed load; else empty.
    """

    version: int
    state: str
    error: str


class GrpcProtocol:
    """gRPC: `PredictionService` and `ModelService`.

    Decoding raises an error of any kind if an answer is invalid.
    """

    def predict(
        self, target: Target, signature: str, inputs: Mapping[str, np.ndarray]
    ) -> Message:
        """Encodes a `PredictRequest`."""
        request = messages.PredictRequest()
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(to_proto(value))
        return _message(messages.PREDICT, request, target, signature)

    def answer(
        self, body: bytes, target: Target, contract: SignatureContract
    ) -> Answer:
        """Decodes a `PredictResponse`, which has types and version."""
        response = messages.PredictResponse.FromString(body)
        outputs = {name: from_proto(proto) for name, proto in response.outputs.items()}
        return Answer(outputs, _version(response.model_spec))

    def answering_version(self, body: bytes, target: Target) -> int | None:
        """Reads the version from a `PredictResponse`."""
        return _version(messages.PredictResponse.FromString(body).model_spec)

    def metadata(self, target: Target) -> Message:
        """Encodes a `GetModelMetadataRequest`."""
        request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
        return _message(messages.METADATA, request, target, "metadata")

    def signatures(self, body: bytes) -> Signatures:
        """Decodes a `GetModelMetadataResponse`."""
        response = messages.GetModelMetadataResponse.FromString(body)
        packed = response.metadata["signature_def"].value
        signatures = messages.SignatureDefMap.FromString(packed).signature_def
        return {
            name: SignatureContract(
                {n: _tensor_of_proto(info) for n, info in signature.inputs.items()},
                {n: _tensor_of_proto(info) for n, info in signature.outputs.items()},
            )
            for name, signature in signatures.items()
            if not name.startswith("__")  # Internal, such as the initialiser.
        }

    def status(self, target: Target) -> Message:
        """Encodes a `GetModelStatusRequest`."""
        request = messages.GetModelStatusRequest()
        return _message(messages.STATUS, request, target, "status")

    def versions(self, body: bytes) -> list[VersionStatus]:
        """Decodes a `GetModelStatusResponse`."""
        response = messages.GetModelStatusResponse.FromString(body)
        versions = (
            VersionStatus(
                each.version,
                STATES.get(each.state, "UNKNOWN"),
                each.status.error_message,
            )
            for each in response.model_version_status
        )
        return sorted(versions, key=lambda each: -each.version)


class RestProtocol:
    """REST: JSON in the columnar format, which allows outputs of any shape.

    Decoding raises an error of any kind if an answer is invalid.
    """

    def predict(
        self, target: Target, signature: str, inputs: Mapping[str, np.ndarray]
    ) -> Message:
        """Encodes a POST to `:predict`."""
        body = {
            "signature_name": signature,
            "inputs": {name: value.tolist() for name, value in inputs.items()},
        }
        return Message(
            f"{_path(target)}:predict",
            json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(),
            _what(target, signature),
        )

    def answer(
        self, body: bytes, target: Target, contract: SignatureContract
    ) -> Answer:
        """Decodes `outputs`. The server omits the name of a single output."""
        outputs = _member(body, "outputs")
        if len(contract.outputs) == 1:
            outputs = {name: outputs for name in contract.outputs}
        if not isinstance(outputs, dict) or outputs.keys() != contract.outputs.keys():
            raise ValueError(
                f"The answer must have the outputs {sorted(contract.outputs)}. "
                f"Received: {str(outputs)[:200]}"
            )
        arrays = {
            name: from_json(value, contract.outputs[name].dtype)
            for name, value in outputs.items()
        }
        return Answer(arrays, target.version)

    def answering_version(self, body: bytes, target: Target) -> int | None:
        """Version of the request; answers do not have it."""
        return target.version

    def metadata(self, target: Target) -> Message:
        """Encodes a GET of `/metadata`."""
        return Message(f"{_path(target)}/metadata", None, _what(target, "metadata"))

    def signatures(self, body: bytes) -> Signatures:
        """Decodes `metadata.signature_def.signature_def`."""
        signatures = _member(body, "metadata")["signature_def"]["signature_def"]
        return {
            name: SignatureContract(
                _tensors_of_json(signature, "inputs"),
                _tensors_of_json(signature, "outputs"),
            )
            for name, signature in signatures.items()
            if not name.startswith("__")
        }

    def status(self, target: Target) -> Message:
        """Encodes a GET of the model."""
        return Message(_path(target), None, _what(target, "status"))

    def versions(self, body: bytes) -> list[VersionStatus]:
        """Decodes `model_version_status`."""
        versions = (
            VersionStatus(
                int(each["version"]),
                each["state"],
                each.get("status", {}).get("error_message", ""),
            )
            for each in _member(body, "model_version_status")
        )
        return sorted(versions, key=lambda each: -each.version)


ServingProtocol: TypeAlias = GrpcProtocol | RestProtocol
"""Encodes calls and decodes answers."""

GRPC, REST = GrpcProtocol(), RestProtocol()


def _is_text(value: object) -> bool:
    """Whether it is None or text without lone surrogates, which have no encoding."""
    if value is None:
        return True
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _is_version(value: object) -> bool:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and 0 <= int(value) < 2**63  # type: ignore[call-overload]


def _what(target: Target, call: str) -> str:
    chosen = "" if target.version is None else f" version {target.version}"
    chosen = chosen if target.label is None else f" label {target.label!r}"
    return f"`{call}` of model {target.model!r}{chosen}"


def _message(method: str, request: Any, target: Target, call: str) -> Message:
    """Encodes a gRPC request for a target."""
    spec = request.model_spec
    spec.name = target.model
    if target.version is not None:
        spec.version.value = target.version
    if target.label is not None:
        spec.version_label = target.label
    return Message(method, request.SerializeToString(), _what(target, call))


def _version(spec: Any) -> int | None:
    return int(spec.version.value) if spec.HasField("version") else None


def _path(target: Target) -> str:
    path = f"/v1/models/{quote(target.model, safe='')}"
    if target.version is not None:
        return f"{path}/versions/{target.version}"
    if target.label is not None:
        return f"{path}/labels/{quote(target.label, safe='')}"
    return path


def _member(body: bytes, name: str) -> Any:
    content = json.loads(body)
    if not isinstance(content, dict) or name not in content:
        raise ValueError(
            f"The answer must have the member {name!r}. Received: {body[:200]!r}"
        )
    return content[name]


def _tensor_of_proto(info: Any) -> TensorContract:
    shape = tuple(None if d.size < 0 else int(d.size) for d in info.tensor_shape.dim)
    known = not info.tensor_shape.unknown_rank
    return TensorContract(DTYPES.get(info.dtype, "unknown"), shape if known else None)


_REST_NAMES = {"DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_HALF": "float16"}


def _tensors_of_json(signature: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {
        name: TensorContract(
            _REST_NAMES.get(info["dtype"], info["dtype"].removeprefix("DT_").lower()),
            _shape_of_json(info.get("tensor_shape", {})),
        )
        for name, info in signature.get(key, {}).items()
    }


def _shape_of_json(shape: Mapping[str, Any]) -> tuple[int | None, ...] | None:
    if shape.get("unknown_rank"):
        return None
    sizes = (int(dim["size"]) for dim in shape.get("dim", ()))
    return tuple(None if size < 0 else size for size in sizes)
