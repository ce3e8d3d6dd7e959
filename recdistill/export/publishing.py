"""Publishing of a version for TensorFlow Serving: staged, checked, renamed.

A server loads every folder whose name is a number, even an incomplete one, and then
unloads the version that worked. A version is therefore written to a staging folder,
whose name is not a number; it must pass all checks there, and is published by one
rename.

`publish_towers` publishes a model, and `recdistill.export.reindexing` replaces the
items of a published one. Neither needs Keras or the training code.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from recdistill.atomic import (
    create_readable_folder,
    folder_checksums,
    locked_folder,
    remove,
    sync_to_disk,
    write_sealed,
)
from recdistill.data.dataset import Progress, no_progress
from recdistill.export.inspection import compatibility, served_ops, signature_table
from recdistill.export.judged_metric import JudgedLists
from recdistill.export.layout import (
    BATCHING_PARAMS,
    MANIFEST,
    MODEL_CARD,
    MOST_ROWS,
    REAL_QUERIES,
    SMALL_FILES,
    WARM_UP,
    WARM_UP_LIMIT,
    check_loadable,
    next_version,
)
from recdistill.export.list_inputs import (
    accepting_padding,
    check_padding,
    with_empty_column,
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
from recdistill.export.signatures import Servable, Specs, Tensors, Towers
from recdistill.retrieval.catalogue import Catalogue
from recdistill.retrieval.exact import bounded
from recdistill.retrieval.indexing import BuiltIndex, IndexSettings, build_index

FORMAT = 3
"""Format version of the manifest."""

PARITY_BATCHES = (1, 7)
"""Batch sizes of the parity requests, in addition to all rows at once."""

LIVE_SCORES = 2**25
"""Largest number of live scores that are held for the parity check: 256 MiB."""

ROWS = 8192
"""Rows that a tower encodes at a time."""


@dataclass(frozen=True)
class Export:
    """Published version of a model.

    Attributes:
        path: The SavedModel, `folder/name/version`.
        version: Version number.
        parity: Differences between the export and the live model.
        size_bytes: Size of all files.
        manifest: Content of `assets.extra/recdistill.json`.
    """

    path: Path
    version: int
    parity: Parity
    size_bytes: int
    manifest: dict[str, Any]


def check_warm_up(sizes: Sequence[int]) -> None:
    """Checks the batch sizes of a warm-up.

    Raises:
        ValueError: If there is none, or one is below 1 or above 4,096.
    """
    if not sizes or min(sizes) < 1 or max(sizes) > MOST_ROWS:
        raise ValueError(
            f"`warm_up_batches` must be batch sizes from 1 to {MOST_ROWS:,}. "
            f"Received: {tuple(sizes)}"
        )


@dataclass(frozen=True)
class ExportSettings:
    """Settings of an export.

    Attributes:
        top_k: Number of items that `serving_default` returns.
        index: How the catalogue is searched (default: exactly).
        warm_up_batches: Batch sizes of the warm-up requests; there are up to six
            requests for each. A server that batches must allow the largest size.
        metadata: JSON-ready values for the manifest. The model card shows a run's
            report if it is under the key `report`.
        excluded_inputs: Query inputs with ids of items that `serving_default` and
            `recommend` never return, such as the history that is sent with a query. If
            there is an input `<name>_length`, ids beyond that number exclude nothing.
        judged: Test lists of a report, whose metric is recomputed through `recommend`.
        accept: Called with the complete version before it is published; an exception
            stops that.
        progress: Callback for progress.

    Raises:
        ValueError: If a batch size is below 1 or above 4,096, or the metadata is not
            JSON-ready.
    """

    top_k: int = 100
    index: IndexSettings = field(default_factory=IndexSettings)
    warm_up_batches: Sequence[int] = (1, 8)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    excluded_inputs: Sequence[str] = ()
    judged: JudgedLists | None = None
    accept: Callable[[Path], None] = lambda version: None
    progress: Progress = no_progress

    def __post_init__(self) -> None:
        check_warm_up(self.warm_up_batches)
        try:
            json.dumps(dict(self.metadata), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`metadata` must be JSON-ready. Received: {error}"
            ) from error


@dataclass(frozen=True)
class CatalogueRows:
    """Items of a catalogue, with raw inputs of a candidate tower or with embeddings.

    Attributes:
        ids: `(items,)` strings.
        inputs: Raw candidate inputs by name, each `(items, …)`; empty if the items come
            with embeddings.
        embeddings: `(items, dim)`; None if the candidate tower computes them.
    """

    ids: Sequence[str]
    inputs: Arrays
    embeddings: np.ndarray | None = None


def publish_towers(
    towers: Towers,
    items: CatalogueRows,
    queries: Arrays,
    folder: Path,
    name: str,
    settings: ExportSettings,
    facts: Mapping[str, Any],
    add_files: Callable[[Path, Arrays], None] | None = None,
) -> Export:
    """Publishes a model with its catalogue as the next version.

    Args:
        towers: The model.
        items: The catalogue.
        queries: Raw inputs of real queries by name, each `(queries, …)`. Only the first
            rows are used, up to 2**25 scores of the catalogue.
        folder: Folder of all exports.
        name: The model's name; its versions are in `folder/name`.
        settings: Length of the answer, index, warm-up and metadata.
        facts: Further entries of the manifest: `schema` and `on_device`.
        add_files: Writes further files into the version, given its folder and the
            queries.

    Raises:
        ExportError: If the export does not answer as the live model does.
        BusyError: If another process is publishing to the same place.
        ValueError: If an argument is invalid, or the model uses an op that TensorFlow
            Serving does not have.
    """
    if not re.fullmatch(r"[A-Za-z][\w.-]*", name, flags=re.ASCII):
        raise ValueError(
            "`name` must start with a letter and have only letters, digits, '_', '-' "
            f"and '.'. Received: name={name!r}"
        )
    queries = compared_queries(queries, len(items.ids))
    live = Live(
        with_empty_column(queries, towers.query_inputs),
        with_empty_column(items.inputs, towers.candidate_inputs),
        items.ids,
        bounded(_live(towers.encode_query, queries, towers.query_inputs)).numpy(),
        _live(towers.encode_candidates, items.inputs, towers.candidate_inputs)
        if items.embeddings is None
        else items.embeddings,
        settings.top_k,
        excluded_inputs=settings.excluded_inputs,
    )
    live, built = indexed(live, settings.index)
    catalogue = Catalogue(items.ids, built.index)
    servable = Servable(towers, catalogue, settings.top_k, settings.excluded_inputs)

    def write(staging: Path) -> None:
        servable.save(staging)
        if add_files is not None:
            add_files(staging, queries)

    document = {
        "name": name,
        "dim": live.items.shape[1],
        "index": built.facts,
        "reindexed_from": None,
        "metadata": dict(settings.metadata),
        **facts,
    }
    return publish(
        folder / name,
        write,
        live,
        document,
        settings.warm_up_batches,
        judged=settings.judged,
        accept=settings.accept,
        progress=settings.progress,
    )


def compared_queries(queries: Arrays, items: int) -> Arrays:
    """The first queries, up to `LIVE_SCORES` scores of the catalogue.

    Args:
        queries: Raw inputs by name, each `(queries, …)`.
        items: Number of items of the catalogue.
    """
    limit = max(1, LIVE_SCORES // items)
    return {name: value[:limit] for name, value in queries.items()}


def encoded(encode: Callable[[Tensors], tf.Tensor], inputs: Arrays) -> np.ndarray:
    """Embeddings `(rows, dim)` float32 of raw inputs, computed on the CPU in pieces.

    A server computes them on the CPU too; accelerators may round matrix products.

    Args:
        encode: A tower.
        inputs: Raw inputs by name, each `(rows, …)`.

    Raises:
        ValueError: If the tower's output is not `(rows, dim)`.
    """
    rows = len(next(iter(inputs.values())))
    pieces = []
    with tf.device("CPU:0"):
        for start in range(0, rows, ROWS):
            part = {k: tf.constant(v[start : start + ROWS]) for k, v in inputs.items()}
            vectors = np.asarray(encode(part), "float32")
            size = min(ROWS, rows - start)
            if vectors.ndim != 2 or len(vectors) != size:
                raise ValueError(
                    "A tower must return embeddings of shape (batch, dim). Received: "
                    f"shape {vectors.shape} for a batch of {size}"
                )
            pieces.append(vectors)
    return np.concatenate(pieces)


def _live(
    tower: Callable[[Tensors], tf.Tensor], rows: Arrays, specs: Specs
) -> np.ndarray:
    """Embeddings of example rows by a tower that ignores padding."""
    encode = accepting_padding(tower, specs)
    check_padding(encode, rows, specs)
    return encoded(encode, rows)


def indexed(live: Live, settings: IndexSettings) -> tuple[Live, BuiltIndex]:
    """The index of the live embeddings, and the answers that are expected from it.

    Raises:
        ValueError: If the embeddings cannot be indexed or do not fit the queries.
    """
    if live.items.ndim != 2 or live.items.shape[1:] != live.queries.shape[1:]:
        raise ValueError(
            "Item embeddings must be (items, dim) with the dim of the query tower, "
            f"{live.queries.shape[1]}. Received: shape {live.items.shape}"
        )
    k = min(max(live.top_k, 1), len(live.item_ids))
    built = build_index(live.items, live.queries, k, settings)
    expected = built.expected_recall if built.kind == "ivf" else None
    live = replace(live, storage=settings.storage, expected_recall=expected)
    return live, built


def publish(
    folder: Path,
    write: Callable[[Path], None],
    live: Live,
    facts: Mapping[str, Any],
    warm_up_batches: Sequence[int],
    *,
    judged: JudgedLists | None = None,
    accept: Callable[[Path], None] = lambda version: None,
    progress: Progress = no_progress,
) -> Export:
    """Publishes a SavedModel as the next version if it passes all checks.

    Args:
        folder: The folder of the model's versions; created if it does not exist.
        write: Writes the SavedModel into an empty folder.
        live: Real requests and the expected answers.
        facts: Further entries of the manifest, JSON-ready; must contain `name`.
        warm_up_batches: Batch sizes of the warm-up requests. A server that batches must
            allow the largest.
        judged, accept, progress: As in `ExportSettings`.

    Returns:
        The published version.

    Raises:
        ExportError: If it does not answer as the live model does.
        BusyError: If another process is publishing to the same place.
        ValueError: If there are too many warm-up requests, or the model uses an op that
            TensorFlow Serving does not have.
    """
    warm_up = live.requests(warm_up_batches)
    if len(warm_up) > WARM_UP_LIMIT:
        raise ValueError(
            f"`warm_up_batches` must give at most {WARM_UP_LIMIT} requests. "
            f"Received: {len(warm_up)}"
        )
    every_query = Request("encode_query", live.query_rows, np.arange(len(live.queries)))
    with staged(folder) as (staging, version):
        with _full_disk_as_os_error(staging):
            write(staging)
            (staging / MANIFEST).parent.mkdir(exist_ok=True)
            write_requests(staging / WARM_UP, warm_up, facts["name"])
            write_requests(staging / REAL_QUERIES, [every_query], facts["name"])
        ops = served_ops(staging)
        progress("Checking the export in a fresh process", 0, None)
        batches = [*PARITY_BATCHES, len(live.queries)]
        parity = check_parity(staging, live, batches, judged)
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "version": version,
            "created": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
            "tensorflow": tf.__version__,
            "items": len(live.item_ids),
            "top_k": live.top_k,
            "excluded_inputs": [*live.excluded_inputs],
            **facts,
            "signatures": signature_table(staging),
            "ops": ops,
            "compatibility": compatibility(staging),
            "warm_up": {"batch_sizes": [*warm_up_batches], "requests": len(warm_up)},
            "parity": asdict(parity),
        }
        (staging / MODEL_CARD).write_text(render_card(manifest), encoding="utf-8")
        operators = [BATCHING_PARAMS.as_posix()]
        manifest["sha256"] = folder_checksums(staging, without=operators)
        write_sealed(staging / MANIFEST, manifest)
        accept(staging)
    path = folder / str(version)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Export(path, version, parity, size, manifest)


_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
"""Errors of the system that mean that a file cannot grow."""


@contextlib.contextmanager
def _full_disk_as_os_error(folder: Path) -> Iterator[None]:
    """Context manager that turns TensorFlow's error for a full disk into an OSError."""
    try:
        yield
    except tf.errors.OpError as error:
        full = any(os.strerror(number) in str(error) for number in _FULL)
        if not full and shutil.disk_usage(folder).free > SMALL_FILES:
            raise
        reason = os.strerror(errno.ENOSPC)
        raise OSError(errno.ENOSPC, reason, str(folder)) from error


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[tuple[Path, int]]:
    """Staging folder of the next version; leaving the block publishes it.

    Args:
        folder: The folder of the versions; created if it does not exist.

    Yields:
        The empty staging folder, and the number of the next version.

    Raises:
        BusyError: If another process is publishing there.
    """
    check_loadable(folder)
    create_readable_folder(folder)
    with locked_folder(folder):
        for leftover in folder.glob(".staging-*"):
            remove(leftover)
        version = next_version(folder)
        staging = folder / f".staging-{version}"
        try:
            staging.mkdir()
            yield staging, version
            for path in [*staging.rglob("*"), staging]:
                # Readable by the server's user, regardless of the umask.
                path.chmod(0o755 if path.is_dir() else 0o644)
                sync_to_disk(path)
            os.rename(staging, folder / str(version))
            sync_to_disk(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
