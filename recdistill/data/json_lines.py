"""JSON lines files as streams of record batches."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from recdistill.data.item_titles import is_title
from recdistill.data.table_streams import TableStream, opened, reading
from recdistill.errors import DataError
from recdistill.features.raw_numbers import scalar_text

_ROWS = 16_384


def json_stream(
    path: Path, use: Collection[str] | None = None, titles: bool = False
) -> TableStream:
    """A file with one JSON object per line; gzip and zstd are unpacked.

    Values become text by the rule of `recdistill.features.raw_text`; arrays of values
    become lists of text. An object, or an array in an array, is an error in a column
    that is used.

    Args:
        path: The file.
        use: Columns to read, if the file has them; all by default.
        titles: Whether titles of items are read too. A column of titles with other
            values than text, numbers and lists of these is not read.

    Raises:
        DataError: If a line is not a JSON object, or a column is not of one kind.
    """
    kinds: dict[str, pa.DataType] = {}
    offered: dict[str, None] = {}
    unread = set[str]()

    def is_used(name: str) -> bool:
        return use is None or name in use

    with reading(path):
        for number, row in _objects(path):
            offered.update(dict.fromkeys(row))
            for name, value in row.items():
                if value is None or not (is_used(name) or (titles and is_title(name))):
                    continue
                kind = pa.list_(pa.string()) if isinstance(value, list) else pa.string()
                try:
                    if kinds.setdefault(name, kind) != kind:
                        raise DataError(
                            f"{path}, line {number}: {name!r} must be a list in every "
                            f"line or in none. Received: {value!r}"
                        )
                    _text(value, path, number, name)
                except DataError:
                    if is_used(name):
                        raise
                    unread.add(name)
    if not offered:
        raise DataError(f"{path} must have at least one line. Received: none")
    names = [n for n in offered if is_used(n) or (n in kinds and n not in unread)]
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names])
    return TableStream(
        str(path),
        schema,
        partial(_batches, path, schema),
        tuple(offered),
        may_lack_columns=True,
    )


def _batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    rows: list[dict[str, Any]] = []
    with reading(path):
        for number, row in _objects(path):
            rows.append(
                {
                    name: _text(row.get(name), path, number, name)
                    for name in schema.names
                }
            )
            if len(rows) == _ROWS:
                yield pa.RecordBatch.from_pylist(rows, schema)
                rows = []
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema)


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line that is not empty."""
    with io.TextIOWrapper(opened(path), encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                row = error
            if not isinstance(row, dict):
                raise DataError(
                    f"{path}, line {number}: must be a JSON object (JSON lines have "
                    f"one object per line). Received: {line.strip()[:60]!r}"
                )
            yield number, row


def _text(value: Any, path: Path, number: int, name: str) -> str | list[str] | None:
    if isinstance(value, list):
        texts = [_scalar(each, path, number, name) for each in value]
        return [text for text in texts if text is not None]
    return _scalar(value, path, number, name)


def _scalar(value: Any, path: Path, number: int, name: str) -> str | None:
    if isinstance(value, dict | list):
        raise DataError(
            f"{path}, line {number}: {name!r} must be text, a number, or a list of "
            f"these. Received: {value!r}"
        )
    text = scalar_text(value)
    if text is not None and not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{path}, line {number}: {name!r} must be text that UTF-8 can "
                f"represent. Received: {value!r}, half of a surrogate pair"
            ) from None
    return text
