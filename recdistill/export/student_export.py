"""Export of a trained student: `export_student`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from recdistill.data.column_values import ColumnType
from recdistill.export.publishing import (
    CatalogueRows,
    Export,
    ExportSettings,
    publish_towers,
)
from recdistill.export.raw_inputs import as_inputs, raw_items
from recdistill.export.signatures import Specs, Tensors
from recdistill.export.title_file import write_titles
from recdistill.export.unknown_items import unknown_in
from recdistill.features.encoders import Encoder, VocabularyEncoder
from recdistill.features.raw_text import type_name
from recdistill.features.schema import Schema
from recdistill.features.unknown_values import with_vocabulary
from recdistill.models.two_tower import TwoTowerStudent

__all__ = ["StudentTowers", "export_student"]


def export_student(
    student: TwoTowerStudent,
    schema: Schema,
    items: pa.Table,
    folder: Path,
    *,
    name: str,
    rows: Mapping[str, np.ndarray],
    settings: ExportSettings | None = None,
    on_device: bool = False,
    types: Mapping[str, ColumnType] | None = None,
) -> Export:
    """Exports a student as the next version of `folder/name`, for TensorFlow Serving.

    The version appears only after a fresh process, without Keras and without this
    library, has loaded it, answered real requests as the live student does and replayed
    its warm-up requests. Until then a server finds no new version; the next export
    removes the files of an interrupted one. Existing versions are never changed.

    Args:
        student: The trained student. Its teacher is not exported.
        schema: The fitted features. Those that only the teacher may see are left out.
        items: The catalogue: one row for each item, with the columns of the candidate's
            features. Ids outside the vocabulary are allowed.
        folder: Folder of all exports; created if it does not exist.
        name: The model's name on the server.
        rows: Raw inputs of real queries by name, each `(queries, …)`, as
            `Encoder.raw_inputs` declares them; other names are ignored. Only the first
            rows are used, up to 2**25 scores of the catalogue.
        settings: Length of the answer, index, warm-up and metadata.
        on_device: Whether to add the query tower for LiteRT, see
            `recdistill.export.on_device`.
        types: Types to which columns of `items` were converted when they were read.
            `reindex` converts those of new items in the same way.

    Returns:
        The published version.

    Raises:
        ExportError: If the export does not answer as the live student does.
        BusyError: If another process is exporting to the same place.
        ValueError: If an argument is invalid, or the model uses an op that TensorFlow
            Serving does not have; DataError, a ValueError, if the item table has a bad
            value.
    """
    towers = StudentTowers(student, schema)
    own = towers.schema
    item_rows = raw_items({e.feature: e.spec for e in own.candidate}, items)
    catalogue = CatalogueRows(item_rows[own.item_id].tolist(), item_rows)
    queries = as_inputs("rows", rows, towers.query_inputs)
    settings = settings or ExportSettings()
    if settings.judged:
        batches = [
            replace(b, queries=as_inputs("judged", b.queries, towers.query_inputs))
            for b in settings.judged.batches
        ]
        settings = replace(settings, judged=replace(settings.judged, batches=batches))

    def add_files(staging: Path, rows: Mapping[str, np.ndarray]) -> None:
        write_titles(staging, catalogue.ids, items)
        if not on_device:
            return
        from recdistill.export.on_device import export_query_tower

        export_query_tower(student, own, staging, own.lookup_query(rows))

    with student.stored_history():
        return publish_towers(
            towers,
            catalogue,
            queries,
            folder,
            name,
            settings,
            {
                "schema": {**_summary(own, items), "types": dict(types or {})},
                "on_device": on_device,
                "unknown": unknown_in(towers.candidate_indices, item_rows).shares(),
            },
            add_files,
        )


class StudentTowers:
    """The towers of a student behind the lookups of its features.

    Args:
        student: The trained student.
        schema: The fitted features; privileged ones are left out.

    Raises:
        ValueError: If two features have an input with the same name.
    """

    def __init__(self, student: TwoTowerStudent, schema: Schema) -> None:
        self.student, self.schema = student, schema.for_student()
        self.query_inputs = _raw_inputs(self.schema.query)
        self.candidate_inputs = _raw_inputs(self.schema.candidate)

    def encode_query(self, inputs: Tensors) -> tf.Tensor:
        """Raw query inputs to embeddings `(batch, dim)`."""
        looked_up = self.schema.lookup_query(inputs)
        return self.student.encode_query(looked_up, training=False)

    def encode_candidates(self, inputs: Tensors) -> tf.Tensor:
        """Raw candidate inputs to embeddings `(batch, dim)`."""
        return self.student.encode_candidates(self.schema.lookup_candidates(inputs))

    def query_indices(self, inputs: Tensors) -> Tensors:
        """Vocabulary indices of raw query inputs, by feature with a vocabulary."""
        return {
            encoder.feature: encoder.lookup(inputs)
            for encoder in with_vocabulary(self.schema.query)
        }

    def candidate_indices(self, inputs: Tensors) -> Tensors:
        """Vocabulary indices of raw candidate inputs, by feature with a vocabulary."""
        return {
            encoder.feature: encoder.lookup(inputs)
            for encoder in with_vocabulary(self.schema.candidate)
        }

    def tables(self) -> list[tf.lookup.StaticHashTable]:
        """The tables of all vocabularies."""
        modules = self.schema.submodules
        return [e.table for e in modules if isinstance(e, VocabularyEncoder)]


def _raw_inputs(encoders: Iterable[Encoder]) -> Specs:
    inputs: Specs = {}
    for encoder in encoders:
        for name, spec in encoder.raw_inputs().items():
            if name in inputs:
                raise ValueError(
                    "`schema` must not have two inputs with the same name. "
                    f"Received: {name!r} for feature {encoder.feature!r}"
                )
            inputs[name] = spec
    return inputs


def _summary(schema: Schema, items: pa.Table) -> dict[str, Any]:
    """The student's features for the manifest, JSON-ready.

    Candidate features have the type of their column and examples of known values.
    """

    def describe(encoders: Iterable[Encoder]) -> dict[str, Any]:
        return {
            e.feature: {
                **e.spec.model_dump(mode="json", exclude={"teacher_only"}),
                **e.state(),
                "indices": getattr(e, "size", None),
            }
            for e in encoders
        }

    return {
        "item_id": schema.item_id,
        "query": describe(schema.query),
        "candidate": {
            name: {
                **entry,
                "type": type_name(items[entry["column"] or name].type),
                "examples": [*getattr(encoder, "vocabulary", ())[:3]],
            }
            for (name, entry), encoder in zip(
                describe(schema.candidate).items(), schema.candidate, strict=True
            )
        },
    }
