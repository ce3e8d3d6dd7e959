"""The requests that an export carries for its own warm-up, read without TensorFlow.

`assets.extra/tf_serving_warmup_requests` is a TFRecord file of `PredictionLog`. A
record is its length (8 bytes, little endian), a checksum of that, the data, and a
checksum of the data. The checksum is CRC-32C, rotated right by 15 bits with a constant
added, so that a checksum over checksums is none.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recdistill.serving.client.messages import PredictionLog
from recdistill.serving.client.serving_errors import QueryError
from recdistill.serving.client.tensors import from_proto

__all__ = ["newest_version", "read_records", "recorded_rows"]

WARM_UP = Path("assets.extra") / "tf_serving_warmup_requests"
"""Where a server looks for warm-up requests inside a SavedModel."""

Row = dict[str, np.ndarray]


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file.

    Args:
        path: The file.

    Raises:
        QueryError: If it is damaged; says at which record.
        OSError: If it cannot be read.
    """
    content = path.read_bytes()
    place, number = 0, 0
    while place < len(content):
        number += 1
        head = content[place : place + 12]
        size, length_check = struct.unpack("<QI", head) if len(head) == 12 else (0, -1)
        data = content[place + 12 : place + 12 + size]
        tail = content[place + 12 + size : place + 16 + size]
        if (
            _masked_crc(head[:8]) != length_check
            or len(data) + len(tail) != size + 4
            or _masked_crc(data) != struct.unpack("<I", tail)[0]
        ):
            raise QueryError(
                f"`{path.name}` must be a whole TFRecord file. Received: record "
                f"{number} is damaged"
            )
        yield data
        place += 16 + size


def newest_version(folder: Path) -> Path:
    """The newest version of an export, or the version itself.

    Args:
        folder: `<export>/<name>` with versions in it, or one of them.

    Raises:
        QueryError: If there is none.
    """
    if (folder / "saved_model.pb").exists():
        return folder
    versions = [p for p in folder.glob("*") if p.name.isdecimal() and p.is_dir()]
    if not versions:
        raise QueryError(
            "`export` must be the folder of a model with numbered versions. Received: "
            f"{folder}"
        )
    return max(versions, key=lambda path: int(path.name))


def recorded_rows(folder: Path, signature: str) -> list[Row]:
    """The queries that an export was warmed up with, one by one.

    Args:
        folder: As for `newest_version`.
        signature: The one whose requests are wanted.

    Returns:
        The inputs of each query, each `(1, …)`; queries that come twice come once.

    Raises:
        QueryError: If there are none.
        OSError: If the file cannot be read.
    """
    version = newest_version(folder)
    rows: dict[bytes, Row] = {}
    seen = set()
    for record in read_records(version / WARM_UP):
        request = PredictionLog.FromString(record).predict_log.request
        seen.add(request.model_spec.signature_name)
        if request.model_spec.signature_name != signature:
            continue
        inputs = {name: from_proto(value) for name, value in request.inputs.items()}
        for place in range(min(len(value) for value in inputs.values())):
            row = {n: v[place : place + 1] for n, v in sorted(inputs.items())}
            key = repr([(name, v.tolist()) for name, v in row.items()]).encode()
            rows.setdefault(key, row)
    if not rows:
        raise QueryError(
            f"`signature` must be one that the warm-up of {version} has: "
            f"{sorted(seen)}. Received: signature={signature!r}"
        )
    return list(rows.values())


def _masked_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    table = _crc_table()
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # Castagnoli's.
        table.append(value)
    return table
