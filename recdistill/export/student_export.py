"""Export: a trained student becomes a version that TensorFlow Serving can load."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from recdistill.errors import ExportError
from recdistill.export.parity import Arrays, Live, Parity
from recdistill.export.publishing import Export, publish, raw_items
from recdistill.export.signatures import Servable
from recdistill.features.schema import Schema
from recdistill.models.two_tower import TwoTowerStudent
from recdistill.retrieval.catalogue import Catalogue
from recdistill.retrieval.exact import bounded
from recdistill.retrieval.indexing import IndexSettings, build_index

__all__ = ["Export", "ExportError", "Parity", "export_student"]

WARM_UP_BATCHES = (1, 8)
"""Batch sizes of the warm-up requests, unless told otherwise."""

LIVE_SCORES = 2**27
"""Most live scores that are held for the parity check: 1 GiB."""


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
    index: IndexSettings | None = None,
    warm_up_batches: Sequence[int] = WARM_UP_BATCHES,
    on_device: bool = False,
) -> Export:
    """Publishes the student as the next version of `folder/name`.

    The version appears only after a fresh process, without Keras and without this
    library, has loaded it, answered real requests as the live student does and
    replayed its warm-up requests. Until then nothing is there that a server would
    load, whatever happens; what a killed export left is removed by the next one. The
    versions that are there already are never touched.

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
        metadata: JSON-ready; goes into the manifest. A run's `report` among it is what
            the model card tells of quality.
        index: How the catalogue is searched; exactly, where it is not given.
        warm_up_batches: Batch sizes of the warm-up requests, five signatures each. A
            server that batches must allow the largest.
        on_device: Whether the version also holds the query tower for LiteRT, see
            `recdistill.export.on_device`.

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
    settings = index or IndexSettings()
    k = min(max(top_k, 1), len(live.item_ids))
    built = build_index(live.items, live.queries, k, settings)
    catalogue = Catalogue(live.item_ids, built.index)
    servable = Servable(student, schema, catalogue, top_k)
    live = replace(
        live,
        storage=settings.storage,
        expected_recall=built.expected_recall if built.kind == "ivf" else None,
    )

    def write(staging: Path) -> None:
        servable.save(staging)
        if on_device:
            from recdistill.export.on_device import export_query_tower

            looked_up = servable.schema.lookup_query(live.query_rows)
            export_query_tower(student, servable.schema, staging, looked_up)

    facts = {
        "name": name,
        "dim": live.items.shape[1],
        "schema": _summary(servable.schema),
        "index": built.facts,
        "on_device": on_device,
        "reindexed_from": None,
        "metadata": dict(metadata),
    }
    return publish(folder / name, write, live, facts, warm_up_batches)


def _live(
    student: TwoTowerStudent,
    schema: Schema,
    items: pa.Table,
    top_k: int,
    rows: Mapping[str, np.ndarray],
) -> Live:
    """The live student's embeddings of the catalogue and of the real queries."""
    specs = {e.feature: e.spec for e in schema.candidate}
    item_rows = raw_items(specs, items)
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
