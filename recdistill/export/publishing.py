"""A model becomes a version that TensorFlow Serving can load: staged, proven, renamed.

A server loads any folder whose name is a number, half-written ones included, and then
drops the version that worked. So a version is staged under a name that is no number,
checked there in every way the server would notice, and published by one rename.

`recdistill.export.student_export` publishes a student and
`recdistill.export.reindexing` a new
catalogue under an old one; nothing here needs the training side.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import tensorflow as tf

from recdistill.atomic import locked_folder, sync_to_disk
from recdistill.export.inspection import compatibility, served_ops, signature_table
from recdistill.export.layout import (
    MANIFEST,
    MODEL_CARD,
    REAL_QUERIES,
    WARM_UP,
    WARM_UP_LIMIT,
    versions,
)
from recdistill.export.model_card import render_card
from recdistill.export.parity import (
    Arrays,
    Live,
    Parity,
    Request,
    check_parity,
    write_requests,
)
from recdistill.features.specs import FeatureSpec, raw_values

FORMAT = 2
"""Version of the manifest's format."""

PARITY_BATCHES = (1, 7)
"""Batch sizes of the parity requests, beside all rows at once."""


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


def publish(
    folder: Path,
    write: Callable[[Path], None],
    live: Live,
    facts: Mapping[str, Any],
    warm_up_batches: Sequence[int],
) -> Export:
    """Publishes a model as the next version, if it answers as it should.

    Args:
        folder: The folder of the model's versions; created where it is missing.
        write: Writes the SavedModel into an empty folder.
        live: What it should answer, on real rows.
        facts: What the manifest says besides what is found here, JSON-ready; `name` is
            among it.
        warm_up_batches: Batch sizes of the warm-up requests. A server that batches must
            allow the largest.

    Returns:
        The published version.

    Raises:
        ExportError: If it does not answer as it should.
        BusyError: If another process is publishing to the same place.
        ValueError: If a batch size is below 1, the warm-up requests are too many, or an
            op is none of TensorFlow Serving's.
    """
    if not warm_up_batches or min(warm_up_batches) < 1:
        raise ValueError(
            "`warm_up_batches` must be batch sizes of at least 1. Received: "
            f"{tuple(warm_up_batches)}"
        )
    warm_up = live.requests(warm_up_batches)
    if len(warm_up) > WARM_UP_LIMIT:
        raise ValueError(
            f"`warm_up_batches` must give at most {WARM_UP_LIMIT} requests. "
            f"Received: {len(warm_up)}"
        )
    with staged(folder) as (staging, version):
        write(staging)
        ops = served_ops(staging)
        (staging / MANIFEST).parent.mkdir(exist_ok=True)
        write_requests(staging / WARM_UP, warm_up, facts["name"])
        write_requests(staging / REAL_QUERIES, _all_queries(live), facts["name"])
        parity = check_parity(staging, live, [*PARITY_BATCHES, len(live.queries)])
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "version": version,
            "created": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
            "tensorflow": tf.__version__,
            "items": len(live.item_ids),
            "top_k": live.top_k,
            **facts,
            "signatures": signature_table(staging),
            "ops": ops,
            "compatibility": compatibility(staging),
            "warm_up": {"batch_sizes": [*warm_up_batches], "requests": len(warm_up)},
            "parity": asdict(parity),
        }
        (staging / MODEL_CARD).write_text(render_card(manifest), encoding="utf-8")
        manifest["sha256"] = hashes(staging)
        document = json.dumps(manifest, indent=1, allow_nan=False, ensure_ascii=False)
        (staging / MANIFEST).write_text(document, encoding="utf-8")
    path = folder / str(version)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Export(path, version, parity, size, manifest)


def _all_queries(live: Live) -> list[Request]:
    [request] = [
        each
        for each in live.requests([len(live.queries)])
        if each.signature == "encode_query"
    ]
    return [request]


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[tuple[Path, int]]:
    """A folder to write the next version into; leaving the block publishes it.

    Args:
        folder: The folder of the versions; created where it is missing.

    Yields:
        The empty folder, and the version that it will be.

    Raises:
        BusyError: If another process is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder):
        for leftover in folder.glob(".staging-*"):
            shutil.rmtree(leftover)
        version = max(versions(folder), default=0) + 1
        staging = folder / f".staging-{version}"
        try:
            staging.mkdir()
            yield staging, version
            for path in [*staging.rglob("*"), staging]:
                sync_to_disk(path)
            os.rename(staging, folder / str(version))
            sync_to_disk(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by its path inside the folder; not of the manifest."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder)
        if name != MANIFEST:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[name.as_posix()] = digest
    return found


def raw_items(specs: Mapping[str, FeatureSpec], items: pa.Table) -> Arrays:
    """Raw candidate inputs of a whole catalogue.

    Args:
        specs: The candidate's features by name.
        items: One row an item, with their columns.

    Returns:
        By feature `(items, …)`.

    Raises:
        ValueError: If there is no item or a column is missing; DataError, a ValueError,
            if the table has a bad value.
    """
    if not items.num_rows:
        raise ValueError("`items` must hold at least one item. Received: none")
    inputs = {}
    for feature, spec in specs.items():
        column = spec.column or feature
        if column not in items.column_names:
            raise ValueError(
                f"`items` must have the column {column!r} of the feature "
                f"{feature!r}. Received: {items.column_names}"
            )
        inputs[feature] = raw_values(items[column], spec, table="items", name=column)
    return inputs
