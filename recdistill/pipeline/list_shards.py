"""List shards: what a partition of interactions becomes.

One row a list, with everything that training and evaluation need of it: looked-up query
features, the positive, what the query has seen. Rows carry ids, not item features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow as tf

from recdistill.data import Columns, Dataset
from recdistill.data.batches import QUERY_PREFIX, RAW_PREFIX
from recdistill.errors import DataError
from recdistill.features.encoders import UNKNOWN, Encoder
from recdistill.features.schema import Schema
from recdistill.features.specs import (
    AffinitySpec,
    FeatureSpec,
    HistorySpec,
    IdSpec,
    raw_values,
)
from recdistill.pipeline.config import Config
from recdistill.pipeline.partitions import SPLITS, TRAIN, Partition
from recdistill.pipeline.teacher_config import needs_raw


@dataclass(frozen=True)
class Source:
    """A feature and where its raw values stand."""

    name: str
    spec: FeatureSpec
    table: str
    column: str


@dataclass(frozen=True)
class Sides:
    """The configured features, matched with the columns that there are."""

    query: tuple[Source, ...]
    candidate: tuple[Source, ...]
    history: tuple[str, HistorySpec] | None
    affinity: dict[str, AffinitySpec]
    item_id: str
    item_column: str
    query_column: str

    @classmethod
    def of(cls, dataset: Dataset, config: Config) -> Sides:
        """Finds the column of each feature.

        Raises:
            DataError: If a column is missing, or there is no feature for the item id.
        """
        columns = dataset.columns
        context = next(iter(dataset.interactions())).schema.names
        tables = {
            "queries": dataset.queries.column_names if dataset.queries else [],
            "interactions": context,
        }
        items = dataset.items.column_names if dataset.items else [columns.item]
        history = [
            (k, s) for k, s in config.query.items() if isinstance(s, HistorySpec)
        ]
        candidate = tuple(
            _locate(name, spec, {"items": items}, "candidate")
            for name, spec in config.candidate.items()
            if not isinstance(spec, AffinitySpec)
        )
        own = [
            s.name
            for s in candidate
            if isinstance(s.spec, IdSpec) and s.column == columns.item
        ]
        if not own:
            raise DataError(
                f"`candidate` must have a feature of kind 'id' for the item column "
                f"{columns.item!r}. Received: {sorted(config.candidate)}"
            )
        return cls(
            query=tuple(
                _locate(name, spec, tables, "query")
                for name, spec in config.query.items()
                if not isinstance(spec, HistorySpec)
            ),
            candidate=candidate,
            history=history[0] if history else None,
            affinity={
                k: s for k, s in config.candidate.items() if isinstance(s, AffinitySpec)
            },
            item_id=own[0],
            item_column=columns.item,
            query_column=columns.query,
        )


def _locate(
    name: str, spec: FeatureSpec, tables: Mapping[str, list[str]], side: str
) -> Source:
    column = spec.column or name
    for table, names in tables.items():
        if column in names:
            return Source(name, spec, table, column)
    have = "; ".join(
        f"{t}: {', '.join(n) or 'no such table'}" for t, n in tables.items()
    )
    raise DataError(
        f"The {side} feature `{name}` needs a column {column!r}. The data has {have}."
    )


class Catalogue:
    """All items that can be recommended; the row is the candidate index.

    The item table where the data has one, else the items of the training part.

    Args:
        dataset: Its item table, if any.
        counts: Training interactions of each item.

    Raises:
        DataError: If the item table lacks an item of the training part.
    """

    def __init__(self, dataset: Dataset, counts: Mapping[str, int]) -> None:
        column = dataset.columns.item
        table = dataset.items
        if table is None:
            table = pa.table({column: pa.array(sorted(counts), pa.string())})
        missing = sorted(set(counts) - set(table[column].to_pylist()))
        if missing:
            raise DataError(
                f"Table `items` lacks {len(missing)} item(s) of the training part, "
                f"such as {missing[0]!r}. Add a row for each, or drop its interactions."
            )
        self.table = table
        self.ids: list[str] = table[column].to_pylist()
        self._ids = pa.array(self.ids, pa.string())
        self.train_count = np.array([counts.get(i, 0) for i in self.ids], "int64")

    def rows_of(self, ids: pa.ChunkedArray) -> np.ndarray:
        """Item ids to catalogue rows; -1 for an id that it lacks."""
        found = pc.index_in(ids, value_set=self._ids)
        return np.asarray(pc.fill_null(found, -1), "int32")

    def write(self, path: Path) -> None:
        """The table, with the number of training interactions of each item."""
        count = pa.array(self.train_count)
        pq.write_table(self.table.append_column("train_count", count), path)


class ListWriter:
    """Turns partitions into list shards, one file for each split and partition.

    Args:
        schema: The fitted features.
        sides: Where their raw values stand.
        catalogue: The items.
        tables: Raw values of the features in the queries table, and its ids under "".
        columns: The roles of the columns.
        config: The pipeline's configuration.
        folder: Where `lists` and `training_rows` go.
    """

    def __init__(
        self,
        schema: Schema,
        sides: Sides,
        catalogue: Catalogue,
        tables: dict[str, np.ndarray],
        columns: Columns,
        config: Config,
        folder: Path,
    ) -> None:
        self._schema, self._sides, self._catalogue = schema, sides, catalogue
        self._query_ids = pa.array(tables.pop("", np.array([], object)), pa.string())
        self._tables = tables
        self._columns, self._per_query = columns, config.lists.per_query
        self._with_raw = needs_raw(config.teacher)
        self._folder = folder
        (folder / "lists").mkdir()
        (folder / "training_rows").mkdir()
        items = schema.items
        index = items.table.lookup(tf.constant(catalogue.ids, tf.string)).numpy()
        # One more entry, so that row -1 (not in the catalogue) is an unknown item.
        self._vocabulary_index = np.append(index, UNKNOWN).astype("int32")
        self._first_query_row = 0
        self.counts = dict.fromkeys(SPLITS, 0)
        self.unreachable = dict.fromkeys(SPLITS, 0)

    def write(self, part: Partition, number: int) -> None:
        """Writes the lists and the training rows of one partition."""
        item = self._catalogue.rows_of(part.table[self._sides.item_column])
        query_row = self._write_training_rows(part, item, number)
        for split, name in enumerate(SPLITS):
            rows = np.flatnonzero(part.split == split)
            if split == TRAIN:
                rows = self._newest(part, rows)
            if len(rows):
                with_raw = self._with_raw or name == "test"
                table = self._lists(part, rows, item, query_row, with_raw)
                path = self._folder / "lists" / f"{name}-{number:05d}.parquet"
                pq.write_table(table, path)
                self.counts[name] += len(table)
                lost = np.bincount(self._list_numbers(part, rows), item[rows] >= 0) == 0
                self.unreachable[name] += int(lost.sum())

    def _newest(self, part: Partition, rows: np.ndarray) -> np.ndarray:
        if self._per_query is None:
            return rows
        group = part.first_of_query[rows]
        last = np.append(np.flatnonzero(np.diff(group)), len(rows) - 1)
        behind = np.repeat(last, np.diff(np.append(-1, last))) - np.arange(len(rows))
        return rows[behind < self._per_query]

    def _write_training_rows(
        self, part: Partition, item: np.ndarray, number: int
    ) -> np.ndarray:
        """Writes one row a query; returns the row's number for each interaction."""
        start, inverse = np.unique(part.first_of_query, return_inverse=True)
        train = (part.split == TRAIN) & (item >= 0)
        index = self._vocabulary_index[item]
        pairs = np.unique(np.stack([inverse[train], index[train]], axis=1), axis=0)
        length = np.bincount(pairs[:, 0], minlength=len(start))
        offsets = np.concatenate([[0], np.cumsum(length)]).astype("int32")
        query = part.table[self._sides.query_column].take(pa.array(start))
        table = pa.table(
            {
                "query_id": query,
                "items": pa.ListArray.from_arrays(offsets, pairs[:, 1].astype("int32")),
            }
        )
        pq.write_table(table, self._folder / "training_rows" / f"{number:05d}.parquet")
        row = inverse + self._first_query_row
        self._first_query_row += len(start)
        return row.astype("int64")

    def _lists(
        self,
        part: Partition,
        rows: np.ndarray,
        item: np.ndarray,
        query_row: np.ndarray,
        with_raw: bool,
    ) -> pa.Table:
        """The lists of these rows; most are of one row, unless the data has lists."""
        number, every = self._list_numbers(part, rows), rows
        ends = np.concatenate([[0], np.cumsum(np.bincount(number))]).astype("int32")
        rows = every[ends[:-1]]
        past = part.first_of_moment[rows] - part.first_of_query[rows]
        before = np.concatenate([[0], np.cumsum(past)])
        seen = np.repeat(part.first_of_query[rows] - before[:-1], past)
        seen = item[seen + np.arange(before[-1])]
        known = np.repeat(np.arange(len(rows)), past)[seen >= 0]
        offsets = np.searchsorted(known, np.arange(len(rows) + 1))
        columns = {
            "list_id": part.table["row"].take(pa.array(rows)),
            "query_id": part.table[self._sides.query_column].take(pa.array(rows)),
            "query_row": pa.array(query_row[rows]),
            "candidates": pa.ListArray.from_arrays(ends, item[every]),
            "relevance": pa.ListArray.from_arrays(
                ends, self._number(part, every, "relevance")
            ),
            "list_weight": pa.array(self._number(part, rows, "weight")),
            "seen": pa.ListArray.from_arrays(offsets.astype("int32"), seen[seen >= 0]),
        }
        if self._columns.list is not None:
            columns["source_list"] = part.table[self._columns.list].take(pa.array(rows))
        raw = self._raw(part, rows)
        for encoder in self._schema.query:
            name = encoder.feature
            if isinstance(encoder.spec, HistorySpec):
                place, real = self._history_places(part, rows, encoder.spec.length)
                index = np.where(real, self._vocabulary_index[item[place]], 0)
                columns[QUERY_PREFIX + name] = _fixed_lists(index.astype("int32"))
                if with_raw:
                    ids = part.table[self._sides.item_column].to_numpy()
                    texts = [
                        list(ids[p[r]][::-1]) for p, r in zip(place, real, strict=True)
                    ]
                    columns[RAW_PREFIX + name] = pa.array(texts, pa.list_(pa.string()))
                continue
            looked_up = self._schema_lookup(encoder, raw[name])
            columns[QUERY_PREFIX + name] = _column(looked_up)
            if with_raw:
                columns[RAW_PREFIX + name] = _column(raw[name])
        return pa.table(columns)

    @staticmethod
    def _list_numbers(part: Partition, rows: np.ndarray) -> np.ndarray:
        """`(rows,)`: which of the lists of these rows each belongs to, from 0."""
        own = part.first_of_list[rows]
        return np.cumsum(np.concatenate([[False], own[1:] != own[:-1]]))

    def _schema_lookup(self, encoder: Encoder, values: np.ndarray) -> np.ndarray:
        tensor = tf.constant(values.tolist() if values.dtype == object else values)
        return np.asarray(encoder.lookup({encoder.feature: tensor}))

    def _number(self, part: Partition, rows: np.ndarray, role: str) -> np.ndarray:
        column: str | None = getattr(self._columns, role)
        if column is None:
            return np.ones(len(rows), "float32")
        values = part.table[column].take(pa.array(rows))
        return np.asarray(values, "float32")

    @staticmethod
    def _history_places(
        part: Partition, rows: np.ndarray, length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the history, newest first, and which of them are real."""
        place = part.first_of_moment[rows][:, None] - 1 - np.arange(length)[None]
        real = place >= part.first_of_query[rows][:, None]
        return np.where(real, place, 0), real

    def _raw(self, part: Partition, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Raw values of the query features for these interactions."""
        raw: dict[str, np.ndarray] = {}
        query = part.table[self._sides.query_column].take(pa.array(rows))
        place: np.ndarray | None = None
        for source in self._sides.query:
            if source.table == "interactions":
                column = part.table[source.column].take(pa.array(rows))
                raw[source.name] = raw_values(
                    column,
                    source.spec,
                    table="interactions",
                    name=source.column,
                    rows=np.asarray(part.table["row"])[rows] + 1,
                )
                continue
            if place is None:
                place = self._query_places(query)
            raw[source.name] = self._tables[source.name][place]
        return raw

    def _query_places(self, query: pa.ChunkedArray) -> np.ndarray:
        found = pc.index_in(query, value_set=self._query_ids)
        if found.null_count:
            absent = query.filter(pc.is_null(found))[0].as_py()
            raise DataError(
                f"Table `queries` has no row for the query {absent!r} of the "
                "interactions. Add one; features may be null where they are optional."
            )
        return np.asarray(found)


def _fixed_lists(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _column(values: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    if values.dtype == object:
        return pa.array([[v for v in row if v != ""] for row in values.tolist()])
    return _fixed_lists(values)
