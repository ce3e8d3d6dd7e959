"""Protocol buffer messages of TensorFlow Serving, without TensorFlow.

The official stubs (`tensorflow_serving.apis`) import all of TensorFlow for two message
types, which costs a client seconds and hundreds of megabytes. This module declares the
fields that a client needs, by number and type, in a descriptor pool of its own, so that
both can be used in one process. Other fields of a message are ignored. The tests
compare every field with the official stubs, and exchange messages with them.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    wrappers_pb2,
)

__all__ = [
    "GetModelMetadataRequest",
    "GetModelMetadataResponse",
    "GetModelStatusRequest",
    "GetModelStatusResponse",
    "PredictRequest",
    "PredictResponse",
    "PredictionLog",
    "SignatureDefMap",
    "TensorProto",
]

PREDICT = "/tensorflow.serving.PredictionService/Predict"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"

_Fields = dict[str, tuple[int, str]]

# Number and type of each field. "*" marks a repeated field, "map " a map from strings.
# Enums are declared as int32, which has the same encoding.
_TENSORFLOW: dict[str, _Fields] = {
    "Dim": {"size": (1, "int64")},
    "TensorShapeProto": {"dim": (2, "*Dim"), "unknown_rank": (3, "bool")},
    "TensorProto": {
        "dtype": (1, "int32"),
        "tensor_shape": (2, "TensorShapeProto"),
        "tensor_content": (4, "bytes"),
        "half_val": (13, "*int32"),
        "float_val": (5, "*float"),
        "double_val": (6, "*double"),
        "int_val": (7, "*int32"),
        "string_val": (8, "*bytes"),
        "int64_val": (10, "*int64"),
        "bool_val": (11, "*bool"),
        "uint32_val": (16, "*uint32"),
        "uint64_val": (17, "*uint64"),
    },
    "TensorInfo": {"dtype": (2, "int32"), "tensor_shape": (3, "TensorShapeProto")},
    "SignatureDef": {"inputs": (1, "map TensorInfo"), "outputs": (2, "map TensorInfo")},
}
_SERVING: dict[str, _Fields] = {
    "ModelSpec": {
        "name": (1, "string"),
        "version": (2, "google.protobuf.Int64Value"),
        "version_label": (4, "string"),
        "signature_name": (3, "string"),
    },
    "PredictRequest": {
        "model_spec": (1, "ModelSpec"),
        "inputs": (2, "map tensorflow.TensorProto"),
    },
    "PredictResponse": {
        "outputs": (1, "map tensorflow.TensorProto"),
        "model_spec": (2, "ModelSpec"),
    },
    "SignatureDefMap": {"signature_def": (1, "map tensorflow.SignatureDef")},
    "GetModelMetadataRequest": {
        "model_spec": (1, "ModelSpec"),
        "metadata_field": (2, "*string"),
    },
    "GetModelMetadataResponse": {
        "model_spec": (1, "ModelSpec"),
        "metadata": (2, "map google.protobuf.Any"),
    },
    "StatusProto": {"error_code": (1, "int32"), "error_message": (2, "string")},
    "GetModelStatusRequest": {"model_spec": (1, "ModelSpec")},
    "ModelVersionStatus": {
        "version": (1, "int64"),
        "state": (2, "int32"),
        "status": (3, "StatusProto"),
    },
    "GetModelStatusResponse": {"model_version_status": (1, "*ModelVersionStatus")},
    "PredictLog": {
        "request": (1, "PredictRequest"),
        "response": (2, "PredictResponse"),
    },
    "PredictionLog": {"predict_log": (6, "PredictLog")},
    "BatchingParameters": {
        "max_batch_size": (1, "google.protobuf.Int64Value"),
        "batch_timeout_micros": (2, "google.protobuf.Int64Value"),
        "max_enqueued_batches": (3, "google.protobuf.Int64Value"),
        "num_batch_threads": (4, "google.protobuf.Int64Value"),
        "thread_pool_name": (5, "google.protobuf.StringValue"),
        "allowed_batch_sizes": (6, "*int64"),
        "pad_variable_length_inputs": (7, "bool"),
    },
}

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    name: getattr(_Field, f"TYPE_{name.upper()}")
    for name in "bool bytes double float int32 int64 string uint32 uint64".split()
}


def _declare(message: Any, package: str, name: str, number: int, kind: str) -> None:
    field = message.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if kind.startswith("map "):
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _declare(entry, package, "key", 1, "string")
        _declare(entry, package, "value", 2, kind.removeprefix("map "))
        field.type_name = f".{package}.{message.name}.{entry.name}"
    elif kind.removeprefix("*") in _SCALARS:
        field.type = _SCALARS[kind.removeprefix("*")]
    else:
        whole = kind.removeprefix("*")
        field.type_name = f".{whole}" if "." in whole else f".{package}.{whole}"
    if field.type_name:
        field.type = _Field.TYPE_MESSAGE
    if kind.startswith(("*", "map ")):
        field.label = _Field.LABEL_REPEATED


def _file(package: str, messages: dict[str, _Fields], *imports: str) -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto", package=package, syntax="proto3", dependency=imports
    )
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _declare(message, package, field, number, kind)
        if name == "ModelSpec":
            message.oneof_decl.add(name="version_choice")
            for each in message.field[1:3]:
                each.oneof_index = 0
    return file


def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for known in (any_pb2, wrappers_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    files = [
        _file("tensorflow", _TENSORFLOW),
        _file(
            "tensorflow.serving",
            _SERVING,
            "tensorflow.proto",
            any_pb2.DESCRIPTOR.name,
            wrappers_pb2.DESCRIPTOR.name,
        ),
    ]
    for file in files:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _pool()


def _message(name: str) -> Any:
    descriptor = _POOL.FindMessageTypeByName(name)
    return message_factory.GetMessageClass(descriptor)


TensorProto = _message("tensorflow.TensorProto")
PredictRequest = _message("tensorflow.serving.PredictRequest")
PredictResponse = _message("tensorflow.serving.PredictResponse")
SignatureDefMap = _message("tensorflow.serving.SignatureDefMap")
GetModelMetadataRequest = _message("tensorflow.serving.GetModelMetadataRequest")
GetModelMetadataResponse = _message("tensorflow.serving.GetModelMetadataResponse")
GetModelStatusRequest = _message("tensorflow.serving.GetModelStatusRequest")
GetModelStatusResponse = _message("tensorflow.serving.GetModelStatusResponse")
PredictionLog = _message("tensorflow.serving.PredictionLog")
BatchingParameters = _message("tensorflow.serving.BatchingParameters")
