"""TFRecord reader for the request files of an export, without TensorFlow.

A record of a TFRecord file is its length (8 bytes, little endian), a checksum of the
length, the data, and a checksum of the data. The checksum is CRC-32C, rotated right by
15 bits, plus a constant. The caller parses the data: with TensorFlow Serving's
`prediction_log_pb2`, or with `recdistill.serving.client.messages` in a process without
TensorFlow.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c

from recdistill.errors import DataError

__all__ = ["read_records"]


def read_records(path: Path) -> Iterator[bytes]:
    """Records of a TFRecord file, checked against their CRC-32C checksums.

    Args:
        path: The file, for example a version's warm-up requests (`layout.WARM_UP`).

    Yields:
        The serialised message of each record.

    Raises:
        DataError: If a record is damaged or cut short; the message has its number.
        OSError: If the file cannot be read.
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
            raise DataError(
                f"`{path.name}` must be a complete TFRecord file. Received: record "
                f"{number} is damaged"
            )
        yield data
        place += 16 + size


def _masked_crc(data: bytes) -> int:
    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
