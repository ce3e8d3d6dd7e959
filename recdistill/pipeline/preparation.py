"""Preparation: vocabularies, item table, training rows and list shards of a data set.

All statistics (vocabularies, means, popularity, the training rows of the linear item
model) are computed from the training part only.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data import Dataset
from recdistill.data.dataset import Progress
from recdistill.errors import DataError
from recdistill.features.encoders import Encoder, VocabularyEncoder, build_encoder
from recdistill.features.schema import Schema
from recdistill.features.specs import NumberSpec, raw_values
from recdistill.pipeline.config import Config
from recdistill.pipeline.feature_columns import FeatureColumn, FeatureColumns
from recdistill.pipeline.item_table import ItemTable, no_row_fits
from recdistill.pipeline.list_shards import ListShardWriter
from recdistill.pipeline.listed_rows import NotChosenRows
from recdistill.pipeline.part_statistics import PartStatistics
from recdistill.pipeline.partitions import ROW, Partitions
from recdistill.pipeline.repeats import RepeatCounts
from recdistill.pipeline.row_parts import SPLITS, TRAIN
from recdistill.pipeline.unknown_features import check_known, unknown_in_items


def prepare(
    dataset: Dataset, config: Config, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Writes the artefact of the step `prepare`.

    Args:
        dataset: The data set.
        config: The pipeline's configuration.
        folder: An empty folder.
        progress: Callback for progress.

    Returns:
        Counts for the step's record, JSON-ready.

    Raises:
        DataError: If the data is invalid.
    """
    scratch = folder / "partitions"
    scratch.mkdir()
    parts = Partitions(dataset, config.split, scratch, progress, config.seed)
    features = FeatureColumns.find(dataset, config)
    not_chosen = NotChosenRows(dataset, features, len(parts), scratch)
    statistics = PartStatistics(parts.times)
    found = _count(parts, features, statistics, not_chosen, progress)
    statistics.check(dataset.name, config.split)
    if parts.columns.weight is not None and not found.weight:
        raise DataError(
            f"Data set `{dataset.name}` has the weight 0 in all rows of the training "
            f"part (column `{parts.columns.weight}`), so that nothing can be learned. "
            "Give some rows a weight above 0, or remove `dataset.columns.weight`."
        )
    items = ItemTable(dataset, found.items, features.required("items"))
    if len(items.ids) < 2:
        raise DataError(
            f"Data set `{dataset.name}` has {len(items.ids)} item(s); at least two are "
            "required for a ranking."
        )
    schema, query_table = _fit(dataset, features, found, items)
    schema.save(folder)
    items.write(folder / "items.parquet")
    seen = found.repeats.decide(config.lists.seen)
    writer = ListShardWriter(
        schema, features, items, query_table, dataset.columns, config, folder, seen
    )
    for done, part in enumerate(parts):
        writer.write(part, done, not_chosen)
        progress("Writing lists", done + 1, len(parts))
    shutil.rmtree(scratch)
    _check(writer, dataset.name)
    _check_reachable(writer, dataset.name)
    check_known(writer.unknown, features)
    dataset.verify()
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "source": dict(dataset.source),
        "interactions": parts.rows,
        "queries": found.queries,
        "items": len(items.ids),
        "lists": {split: writer.counts[split] for split in SPLITS},
        "added_items": items.added,
        "unreachable": writer.unreachable,
        "not_chosen": not_chosen.count,
        "seen": seen,
        "repeat_share": round(found.repeats.share, 6),
        "left_out_repeats": writer.left_out,
        "unknown": {
            **{split: writer.unknown[split].shares() for split in SPLITS},
            "items": unknown_in_items(schema, items.table).shares(),
        },
        "types": features.types(dataset),
        "notes": list(dataset.notes),
        **statistics.record(),
    }


@dataclass
class _Counts:
    """Statistics of the training part; `queries` counts the queries of all parts."""

    items: Counter[str] = field(default_factory=Counter)
    train_queries: set[str] = field(default_factory=set)
    context: dict[str, _Statistics] = field(default_factory=dict)
    repeats: RepeatCounts = field(default_factory=RepeatCounts)
    queries: int = 0
    weight: float = 0.0


class _Statistics:
    """Counts of values, or mean and deviation of numbers, updated batch by batch."""

    def __init__(self, feature: FeatureColumn) -> None:
        self.feature = feature
        self.counts: Counter[str] = Counter()
        self.number, self.total, self.squares = 0, 0.0, 0.0

    def update(self, values: np.ndarray) -> None:
        """Adds raw values of the training part."""
        if isinstance(self.feature.spec, NumberSpec):
            real = values[np.isfinite(values)].astype("float64")
            self.number += len(real)
            self.total += float(real.sum())
            self.squares += float((real**2).sum())
        elif values.dtype == object:
            self.counts.update(values.ravel().tolist())

    def state(self) -> dict[str, Any]:
        """The state of an encoder."""
        if isinstance(self.feature.spec, NumberSpec):
            mean = self.total / max(self.number, 1)
            variance = self.squares / max(self.number, 1) - mean**2
            deviation = variance**0.5 if variance > 1e-12 else 1.0
            return {"mean": mean, "deviation": deviation}
        return {"vocabulary": _by_frequency(self.counts)}


def _by_frequency(counts: Counter[str]) -> list[str]:
    # Ties are in alphabetical order, so that the vocabulary depends on the data only.
    values = sorted(counts, key=lambda value: (-counts[value], value))
    return [value for value in values if value != ""]


def _count(
    parts: Partitions,
    features: FeatureColumns,
    statistics: PartStatistics,
    not_chosen: NotChosenRows,
    progress: Progress,
) -> _Counts:
    found = _Counts()
    context = [f for f in features.query if f.table == "interactions"]
    found.context = {f.name: _Statistics(f) for f in context}
    for done, part in enumerate(parts):
        statistics.add(part)
        not_chosen.check(part)
        found.queries += len(np.unique(part.first_of_query))
        found.repeats.add(part)
        train = part.table.filter(pa.array(part.split == TRAIN))
        for name, count in zip(
            *pc.value_counts(train[features.item_column]).flatten(), strict=True
        ):
            found.items[name.as_py()] += count.as_py()
        found.train_queries.update(pc.unique(train[features.query_column]).to_pylist())
        for feature in context:
            if feature.column == features.query_column:
                continue
            values = raw_values(
                train[feature.column],
                feature.spec,
                table=feature.table,
                name=feature.column,
                rows=np.asarray(train[ROW]) + 1,
            )
            found.context[feature.name].update(values)
        if parts.columns.weight is not None:
            found.weight += pc.sum(train[parts.columns.weight]).as_py() or 0.0
        progress("Building vocabularies", done + 1, len(parts))
    for feature in context:
        if feature.column == features.query_column:
            found.context[feature.name].counts.update(found.train_queries)
    return found


def _fit(
    dataset: Dataset, features: FeatureColumns, found: _Counts, items: ItemTable
) -> tuple[Schema, dict[str, np.ndarray]]:
    """The schema, and the raw values of the features in the table `queries`."""
    trained = items.train_count > 0
    candidate = []
    for feature in features.candidate:
        statistics = _Statistics(feature)
        values = raw_values(
            items.table[feature.column],
            feature.spec,
            table="items",
            name=feature.column,
        )
        if feature.name == features.item_id:
            statistics.counts = found.items
        else:
            statistics.update(values[trained])
        candidate.append(build_encoder(feature.name, feature.spec, statistics.state()))
    item_id = next(e for e in candidate if e.feature == features.item_id)
    query: list[Encoder] = []
    tables: dict[str, np.ndarray] = {}
    for feature in features.query:
        statistics = found.context.get(feature.name) or _Statistics(feature)
        if feature.table == "queries" and dataset.queries is not None:
            values = query_values(dataset, feature, features)
            tables[feature.name] = values
            known = pc.is_in(
                dataset.queries[features.query_column],
                value_set=pa.array(sorted(found.train_queries), pa.string()),
            )
            if not pc.any(known).as_py():
                ids = dataset.queries[features.query_column].to_pylist()
                raise no_row_fits("queries", min(found.train_queries), ids)
            statistics.update(values[: len(known)][known.to_numpy()])
        query.append(build_encoder(feature.name, feature.spec, statistics.state()))
    if features.history is not None and isinstance(item_id, VocabularyEncoder):
        query.append(build_encoder(*features.history, {}, item_id))
    schema = Schema(query, candidate, features.affinity, features.item_id)
    if dataset.queries is not None:
        tables[""] = np.asarray(
            dataset.queries[features.query_column].to_pylist(), object
        )
    return schema, tables


def query_values(
    dataset: Dataset, feature: FeatureColumn, features: FeatureColumns
) -> np.ndarray:
    """Raw values of a feature in the table `queries`, one for each row.

    If no feature needs a row for each query, one more value follows: that of queries
    without a row.

    Raises:
        DataError: If the data has no table `queries`, or a value is bad.
    """
    if dataset.queries is None:
        raise DataError(
            f"Data set `{dataset.name}` must have a table `queries` with the column "
            f"{feature.column!r} of the feature `{feature.name}`. Received: no table"
        )
    column = dataset.queries[feature.column]
    if not features.required("queries"):
        nothing = pa.nulls(1, column.type)
        column = pa.chunked_array([*column.chunks, nothing], column.type)
    return raw_values(column, feature.spec, table="queries", name=feature.column)


def _check_reachable(writer: ListShardWriter, name: str) -> None:
    """Checks that the held-out parts have items of the catalogue."""
    for split in SPLITS[1:]:
        if writer.unreachable[split] == writer.counts[split]:
            raise DataError(
                f"Data set `{name}` has no item of the catalogue in any of its "
                f"{writer.counts[split]} {split} lists, because all of these items are "
                "new: they are not in the training part, nor in a table of items. Add "
                "a table of items with their features, or change `split`."
            )


def _check(writer: ListShardWriter, name: str) -> None:
    """Checks that enough lists are left without the repeats."""
    for split in SPLITS:
        if writer.counts[split] < 2:
            raise DataError(
                f"Data set `{name}` has {writer.counts[split]} {split} list(s) without "
                "repeats; at least two are required. The lists leave out "
                f"{writer.left_out[split]} interactions with an item that the query "
                'had interacted with before. Set `lists.seen` = "include" to keep them.'
            )
