"""Export: a trained student becomes a version that TensorFlow Serving can load.

A server loads any folder whose name is a number, half-written ones included, and then
drops the version that worked. So an export is staged under a name that is no number,
checked there in every way the server would notice, and published by one rename.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from recdistill import fresh_process
from recdistill.encoders import Schema
from recdistill.features import raw_values
from recdistill.files import held, to_disk
from recdistill.parity import (
    Arrays,
    ExportError,
    Live,
    Parity,
    check_parity,
    write_requests,
)
from recdistill.retrieval import bounded
from recdistill.servable import Servable, served_ops, signature_table
from recdistill.student import TwoTowerStudent

__all__ = ["Export", "ExportError", "Parity", "export_student"]

FORMAT = 1
"""Version of the manifest's format."""

MANIFEST = Path("assets.extra") / "recdistill.json"

PARITY_BATCHES, WARM_UP_BATCHES = (1, 7), (1, 8)
"""Batch sizes of the parity requests, beside all rows at once, and of the warm-up."""

LIVE_SCORES = 2**27
"""Most live scores that are held for the parity check: 1 GiB."""


@dataclass(frozen=True)
class Export:
    """A published version.

    Attributes:
        path: The SavedModel, `folder/name/version`.
        version: Its number.
        parity: How close it came to the live student.
        size_bytes: Size of all its files.
        manifest: Content of `assets.extra/recdistill.json`.
    """

    path: Path
    version: int
    parity: Parity
    size_bytes: int
    manifest: dict[str, Any]


def export_student(
    student: TwoTowerStudent,
    schema: Schema,
    items: pa.Table,
    folder: Path,
    *,
    name: str,
    top_k: int,
    rows: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
) -> Export:
    """Publishes the student as the next version of `folder/name`.

    The version appears only after a fresh process, without Keras and without this
    library, has loaded it, answered real requests as the live student does and
    replayed its warm-up requests. Until then nothing is there that a server would
    load, whatever happens; what a killed export left is removed by the next one. The
    versions that are there already are never touched.

    The warm-up requests have 1 and 8 rows: a server that batches must allow 8.

    Args:
        student: The trained student. Its teacher has no part in the export.
        schema: The fitted features. Those that only the teacher may see are left out.
        items: The catalogue: one row an item, with the columns of the candidate's
            features. The id need not be in the vocabulary.
        folder: Where the exports of all models are; created where it is missing.
        name: The model's name, as the server will know it.
        top_k: Number of items that the plain call returns.
        rows: Raw inputs of real queries by name, each `(queries, …)`, as
            `Encoder.raw_inputs` has them; others are not read. The first rows are
            used, as many as give 2**27 scores of the catalogue.
        metadata: JSON-ready; goes into the manifest.

    Returns:
        The published version.

    Raises:
        ExportError: If the export does not answer as the live student does.
        BusyError: If another process is exporting to the same place.
        ValueError: If an argument does not fit; if an op is none of TensorFlow
            Serving's; DataError, a ValueError, if the item table has a bad value.
    """
    if not re.fullmatch(r"[A-Za-z][\w.-]*", name, flags=re.ASCII):
        raise ValueError(
            "`name` must start with a letter and have only letters, digits, '_', '-' "
            f"and '.'. Received: name={name!r}"
        )
    _check_json(metadata)
    live = _live(student, schema.for_student(), items, top_k, rows)
    servable = Servable(student, schema, live.item_ids, live.items, top_k)
    with _staged(folder / name) as (staging, version):
        servable.save(staging)
        ops = served_ops(staging)
        (staging / MANIFEST).parent.mkdir()
        warm_up = live.requests(WARM_UP_BATCHES)
        write_requests(staging / fresh_process.WARM_UP, warm_up, name)
        parity = check_parity(staging, live, [*PARITY_BATCHES, len(live.queries)])
        manifest = {
            "format": FORMAT,
            "name": name,
            "version": version,
            "created": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
            "tensorflow": tf.__version__,
            "items": servable.index.size,
            "dim": servable.index.dim,
            "top_k": top_k,
            "schema": _summary(servable.schema),
            "signatures": signature_table(staging),
            "ops": ops,
            "parity": asdict(parity),
            "sha256": _hashes(staging),
            "metadata": dict(metadata),
        }
        document = json.dumps(manifest, indent=1, allow_nan=False, ensure_ascii=False)
        (staging / MANIFEST).write_text(document, encoding="utf-8")
    path = folder / name / str(version)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Export(path, version, parity, size, manifest)


def _live(
    student: TwoTowerStudent,
    schema: Schema,
    items: pa.Table,
    top_k: int,
    rows: Mapping[str, np.ndarray],
) -> Live:
    """The live student's embeddings of the catalogue and of the real queries."""
    item_rows = _item_rows(schema, items)
    query_rows = _query_rows(schema, rows, max(1, LIVE_SCORES // items.num_rows))
    # As the server will compute it: accelerators may round matrix products.
    with tf.device("CPU:0"):
        query = schema.lookup_query(query_rows)
        queries = bounded(student.encode_query(query, training=False)).numpy()
        pieces = []
        for start in range(0, items.num_rows, 8192):
            piece = {k: v[start : start + 8192] for k, v in item_rows.items()}
            embeddings = student.encode_candidates(schema.lookup_candidates(piece))
            pieces.append(np.asarray(embeddings, "float32"))
    ids = item_rows[schema.item_id].tolist()
    return Live(query_rows, item_rows, ids, queries, np.concatenate(pieces), top_k)


def _check_json(metadata: Mapping[str, Any]) -> None:
    """Finds out now rather than after the work."""
    try:
        json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`metadata` must be JSON-ready. Received: {error}") from error


def _item_rows(schema: Schema, items: pa.Table) -> Arrays:
    """Raw candidate inputs of the whole catalogue."""
    if not items.num_rows:
        raise ValueError("`items` must hold at least one item. Received: none")
    inputs = {}
    for encoder in schema.candidate:
        column = encoder.spec.column or encoder.feature
        if column not in items.column_names:
            raise ValueError(
                f"`items` must have the column {column!r} of the feature "
                f"{encoder.feature!r}. Received: {items.column_names}"
            )
        inputs[encoder.feature] = raw_values(
            items[column], encoder.spec, table="items", name=column
        )
    return inputs


def _query_rows(schema: Schema, rows: Mapping[str, np.ndarray], limit: int) -> Arrays:
    """The raw query inputs among `rows`, the first `limit` of each, as declared."""
    inputs: Arrays = {}
    for encoder in schema.query:
        for name, spec in encoder.raw_inputs().items():
            if name not in rows:
                raise ValueError(
                    f"`rows` must have the raw input {name!r}. Received: {sorted(rows)}"
                )
            dtype = object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype
            value = np.asarray(rows[name])[:limit].astype(dtype)
            if not spec.shape.is_compatible_with(value.shape) or not len(value):
                raise ValueError(
                    f"`rows` must hold {name!r} with shape {spec.shape}, at least one "
                    f"row. Received: shape {value.shape}"
                )
            inputs[name] = value
    sizes = {name: len(value) for name, value in inputs.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"`rows` must have equally many rows for all inputs. Received: {sizes}"
        )
    return inputs


@contextlib.contextmanager
def _staged(folder: Path) -> Iterator[tuple[Path, int]]:
    """A folder to write the next version into; leaving the block publishes it."""
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder):
        for leftover in folder.glob(".staging-*"):
            shutil.rmtree(leftover)
        numbers = [int(p.name) for p in folder.iterdir() if p.name.isdecimal()]
        version = max(numbers, default=0) + 1
        staging = folder / f".staging-{version}"
        try:
            staging.mkdir()
            yield staging, version
            for path in [*staging.rglob("*"), staging]:
                to_disk(path)
            os.rename(staging, folder / str(version))
            to_disk(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _summary(schema: Schema) -> dict[str, Any]:
    """The student's features, JSON-ready."""
    sides = {"query": schema.query, "candidate": schema.candidate}
    summary: dict[str, Any] = {"item_id": schema.item_id}
    for side, encoders in sides.items():
        summary[side] = {
            e.feature: {
                **e.spec.model_dump(mode="json", exclude={"teacher_only"}),
                **e.state(),
                "indices": getattr(e, "size", None),
            }
            for e in encoders
        }
    return summary


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by its path inside the folder."""
    hashes = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        hashes[path.relative_to(folder).as_posix()] = digest
    return hashes
