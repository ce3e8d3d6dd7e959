"""From interactions to lists: vocabularies, item table, training rows, list shards.

Everything that is learned from data (vocabularies, means, popularity, the training rows
of the linear item model) is learned from the training part alone.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data import Dataset
from recdistill.errors import DataError
from recdistill.features.encoders import Encoder, VocabularyEncoder, build_encoder
from recdistill.features.schema import Schema
from recdistill.features.specs import NumberSpec, raw_values
from recdistill.pipeline.config import Config
from recdistill.pipeline.list_shards import Catalogue, ListWriter, Sides, Source
from recdistill.pipeline.partitions import SPLITS, TRAIN, Partitions, Progress


def prepare(
    dataset: Dataset, config: Config, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Writes all artefacts of the `prepare` step.

    Args:
        dataset: Where the interactions come from.
        config: The pipeline's configuration.
        folder: An empty folder to write into.
        progress: Told about work that takes time.

    Returns:
        Counts for the step's record, JSON-ready.

    Raises:
        DataError: If the data is unusable; the message says where and what to do.
    """
    scratch = folder / "partitions"
    scratch.mkdir()
    parts = Partitions(dataset, config.split, scratch, progress)
    sides = Sides.of(dataset, config)
    facts = _learn(parts, sides, progress)
    catalogue = Catalogue(dataset, facts.items)
    schema, tables = _fit(dataset, sides, facts, catalogue)
    schema.save(folder)
    catalogue.write(folder / "items.parquet")
    writer = ListWriter(
        schema, sides, catalogue, tables, dataset.columns, config, folder
    )
    for done, part in enumerate(parts):
        writer.write(part, done)
        progress("Writing lists", done + 1, len(parts))
    shutil.rmtree(scratch)
    _check(writer.counts, len(catalogue.ids), dataset.name)
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "source": dict(dataset.source),
        "interactions": parts.rows,
        "queries": facts.all_queries,
        "items": len(catalogue.ids),
        "lists": {split: writer.counts[split] for split in SPLITS},
        "unreachable": writer.unreachable,
    }


@dataclass
class _Facts:
    """What the training part says."""

    items: Counter[str] = field(default_factory=Counter)
    queries: set[str] = field(default_factory=set)
    context: dict[str, _Statistics] = field(default_factory=dict)
    all_queries: int = 0


class _Statistics:
    """Counts of values, or mean and deviation of numbers, one batch after another."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.counts: Counter[str] = Counter()
        self.number, self.total, self.squares = 0, 0.0, 0.0

    def update(self, values: np.ndarray) -> None:
        """Adds raw values of the training part."""
        if isinstance(self.source.spec, NumberSpec):
            real = values[np.isfinite(values)].astype("float64")
            self.number += len(real)
            self.total += float(real.sum())
            self.squares += float((real**2).sum())
        elif values.dtype == object:
            self.counts.update(values.ravel().tolist())

    def state(self) -> dict[str, Any]:
        """What an encoder needs to know."""
        if isinstance(self.source.spec, NumberSpec):
            mean = self.total / max(self.number, 1)
            variance = self.squares / max(self.number, 1) - mean**2
            deviation = variance**0.5 if variance > 1e-12 else 1.0
            return {"mean": mean, "deviation": deviation}
        return {"vocabulary": _by_frequency(self.counts)}


def _by_frequency(counts: Counter[str]) -> list[str]:
    # Ties in alphabetical order, so that a vocabulary is a function of the data.
    values = sorted(counts, key=lambda value: (-counts[value], value))
    return [value for value in values if value != ""]


def _learn(parts: Partitions, sides: Sides, progress: Progress) -> _Facts:
    facts = _Facts()
    context = [s for s in sides.query if s.table == "interactions"]
    facts.context = {s.name: _Statistics(s) for s in context}
    for done, part in enumerate(parts):
        facts.all_queries += len(np.unique(part.first_of_query))
        train = part.table.filter(pa.array(part.split == TRAIN))
        for name, count in zip(
            *pc.value_counts(train[sides.item_column]).flatten(), strict=True
        ):
            facts.items[name.as_py()] += count.as_py()
        facts.queries.update(pc.unique(train[sides.query_column]).to_pylist())
        for source in context:
            if source.column == sides.query_column:
                continue
            values = raw_values(
                train[source.column],
                source.spec,
                table=source.table,
                name=source.column,
                rows=np.asarray(train["row"]) + 1,
            )
            facts.context[source.name].update(values)
        progress("Learning from the training part", done + 1, len(parts))
    for source in context:
        if source.column == sides.query_column:
            facts.context[source.name].counts.update(facts.queries)
    if not facts.items:
        raise DataError(
            "The training part has no interaction: `split` leaves nothing before the "
            "validation part. Use smaller shares."
        )
    return facts


def _fit(
    dataset: Dataset, sides: Sides, facts: _Facts, catalogue: Catalogue
) -> tuple[Schema, dict[str, np.ndarray]]:
    """The schema, and the raw values of the features in the queries table."""
    trained = catalogue.train_count > 0
    candidate = []
    for source in sides.candidate:
        statistics = _Statistics(source)
        values = raw_values(
            catalogue.table[source.column],
            source.spec,
            table="items",
            name=source.column,
        )
        if source.name == sides.item_id:
            statistics.counts = facts.items
        else:
            statistics.update(values[trained])
        candidate.append(build_encoder(source.name, source.spec, statistics.state()))
    items = next(e for e in candidate if e.feature == sides.item_id)
    query: list[Encoder] = []
    tables: dict[str, np.ndarray] = {}
    for source in sides.query:
        statistics = facts.context.get(source.name) or _Statistics(source)
        if source.table == "queries" and dataset.queries is not None:
            column = dataset.queries[source.column]
            values = raw_values(
                column, source.spec, table="queries", name=source.column
            )
            tables[source.name] = values
            known = pc.is_in(
                dataset.queries[sides.query_column],
                value_set=pa.array(sorted(facts.queries), pa.string()),
            )
            statistics.update(values[known.to_numpy()])
        query.append(build_encoder(source.name, source.spec, statistics.state()))
    if sides.history is not None and isinstance(items, VocabularyEncoder):
        query.append(build_encoder(*sides.history, {}, items))
    schema = Schema(query, candidate, sides.affinity, sides.item_id)
    if dataset.queries is not None:
        tables[""] = np.asarray(dataset.queries[sides.query_column].to_pylist(), object)
    return schema, tables


def _check(counts: Mapping[str, int], items: int, name: str) -> None:
    for split in SPLITS:
        if counts[split] < 2:
            raise DataError(
                f"Data set `{name}` leaves {counts[split]} {split} list(s); at least "
                "two are needed. Give it more interactions, or change the shares of "
                "`split`."
            )
    if items < 2:
        raise DataError(
            f"Data set `{name}` has {items} item(s): there is nothing to rank. Ranking "
            "needs at least two."
        )
