"""List shards: the training, validation and test lists of a partition.

Each list is one row with all data that training and evaluation read: looked-up query
features, the positives, and the items that the query has seen. Rows hold item indices,
not item features.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow as tf

from recdistill.data import Columns
from recdistill.data.batches import QUERY_PREFIX, RAW_PREFIX
from recdistill.data.ragged import Ragged
from recdistill.data.shard_reading import SEEN
from recdistill.errors import DataError
from recdistill.features.encoders import UNKNOWN, Encoder
from recdistill.features.schema import Schema
from recdistill.features.specs import HistorySpec, raw_values
from recdistill.features.unknown_values import UnknownValues, with_vocabulary
from recdistill.pipeline.config import Config
from recdistill.pipeline.config.teacher_section import needs_raw
from recdistill.pipeline.feature_columns import FeatureColumns
from recdistill.pipeline.item_table import ItemTable
from recdistill.pipeline.listed_rows import NotChosenRows
from recdistill.pipeline.memory import require_for_query_features
from recdistill.pipeline.partitions import ROW, Partition
from recdistill.pipeline.repeats import Seen, repeats
from recdistill.pipeline.row_parts import SPLITS, TRAIN

SEEN_ITEMS = 2**26
"""Largest number of seen items of all lists in one file."""


class ListShardWriter:
    """Writes the list shards, at least one file for each split and partition.

    Args:
        schema: The fitted features.
        features: The columns of the raw values.
        items: The catalogue.
        query_table: Raw values of the features in the queries table, by name, and its
            ids under "".
        columns: The roles of the columns.
        config: The pipeline's configuration.
        folder: Folder for `lists` and `training_rows`.
        seen: "exclude" leaves repeats out, because items that the query has seen are
            not candidates; "include" keeps them.

    Attributes:
        counts: Number of lists by split.
        left_out: Number of repeats that were left out, by split.
        unreachable: Number of lists without a positive in the catalogue, by split.
        unknown: Unknown values of the query features, by split.
    """

    def __init__(
        self,
        schema: Schema,
        features: FeatureColumns,
        items: ItemTable,
        query_table: dict[str, np.ndarray],
        columns: Columns,
        config: Config,
        folder: Path,
        seen: Seen = "exclude",
    ) -> None:
        self._schema, self._features, self._items = schema, features, items
        ids = query_table.pop("", np.array([], object))
        self._query_ids = pa.array(ids, pa.string())
        self._query_table = query_table
        self._columns, self._per_query = columns, config.lists.per_query
        self._with_raw = needs_raw(config.teacher)
        self._folder, self._seen = folder, seen
        (folder / "lists").mkdir()
        (folder / "training_rows").mkdir()
        lookup = schema.items.table.lookup
        index = lookup(tf.constant(items.ids, tf.string)).numpy()
        # One more entry, so that row -1 (not in the catalogue) is an unknown item.
        self._vocabulary_index = np.append(index, UNKNOWN).astype("int32")
        self._first_query_row = 0
        self._shards = dict.fromkeys(SPLITS, 0)
        self.counts = dict.fromkeys(SPLITS, 0)
        self.unreachable = dict.fromkeys(SPLITS, 0)
        self.left_out = dict.fromkeys(SPLITS, 0)
        self.unknown = {name: UnknownValues() for name in SPLITS}

    def write(self, part: Partition, number: int, not_chosen: NotChosenRows) -> None:
        """Writes the lists and the training rows of one partition.

        Args:
            part: The partition.
            number: Number of the files.
            not_chosen: Rows that were shown and not chosen.
        """
        require_for_query_features(len(part.table), self._schema.query)
        item = self._items.rows_of(part.table[self._features.item_column])
        query_row = self._write_training_rows(part, item, number)
        repeated = np.zeros(len(item), bool)
        if self._seen == "exclude":
            repeated = repeats(part)
        for split, name in enumerate(SPLITS):
            rows = np.flatnonzero((part.split == split) & ~repeated)
            rows = self._once(part, rows, item)
            self.left_out[name] += int(repeated[part.split == split].sum())
            if split == TRAIN:
                rows = self._latest(part, rows)
            for piece in self._pieces(part, rows):
                with_raw = self._with_raw or name == "test"
                table = self._lists(part, piece, item, query_row, with_raw)
                table = self._with_not_chosen(table, part, not_chosen)
                table = table.replace_schema_metadata({SEEN: self._seen})
                shard = f"{name}-{self._shards[name]:05d}.parquet"
                pq.write_table(table, self._folder / "lists" / shard)
                self._shards[name] += 1
                self.counts[name] += len(table)
                for encoder in with_vocabulary(self._schema.query):
                    column = table[QUERY_PREFIX + encoder.feature].combine_chunks()
                    index = column if column.type == pa.int32() else column.flatten()
                    self.unknown[name].add(encoder.feature, np.asarray(index))
                numbers = self._list_numbers(part, piece)
                known = np.bincount(numbers, item[piece] >= 0)
                self.unreachable[name] += int((known == 0).sum())

    def _pieces(self, part: Partition, rows: np.ndarray) -> list[np.ndarray]:
        """The rows of each file: whole lists, with at most `SEEN_ITEMS` seen items.

        A query with many interactions has about half the square of their number as
        seen items of its lists, which is more than one column can hold.
        """
        if not len(rows):
            return []
        number = self._list_numbers(part, rows)
        first = rows[np.searchsorted(number, np.arange(number[-1] + 1))]
        past = part.first_of_moment[first] - part.first_of_query[first]
        file = np.cumsum(past, dtype="int64") // SEEN_ITEMS
        cuts = np.flatnonzero(np.diff(file[number])) + 1
        return np.split(rows, cuts)

    def _once(self, part: Partition, rows: np.ndarray, item: np.ndarray) -> np.ndarray:
        """The rows with each item once in a list, with its greatest relevance."""
        own, place = item[rows], part.first_of_list[rows]
        order = np.lexsort((-self._number(part, rows, "relevance"), own, place))
        own, place = own[order], place[order]
        again = (own[1:] == own[:-1]) & (place[1:] == place[:-1]) & (own[1:] >= 0)
        return np.delete(rows, order[1:][again])

    def _latest(self, part: Partition, rows: np.ndarray) -> np.ndarray:
        """The latest training rows of each query, at most `per_query`."""
        if self._per_query is None:
            return rows
        group = part.first_of_query[rows]
        last = np.append(np.flatnonzero(np.diff(group)), len(rows) - 1)
        behind = np.repeat(last, np.diff(np.append(-1, last))) - np.arange(len(rows))
        return rows[behind < self._per_query]

    def _write_training_rows(
        self, part: Partition, item: np.ndarray, number: int
    ) -> np.ndarray:
        """Writes one training row per query; returns each interaction's row number."""
        start, inverse = np.unique(part.first_of_query, return_inverse=True)
        train = (part.split == TRAIN) & (item >= 0)
        index = self._vocabulary_index[item]
        pairs = np.unique(np.stack([inverse[train], index[train]], axis=1), axis=0)
        length = np.bincount(pairs[:, 0], minlength=len(start))
        offsets = np.concatenate([[0], np.cumsum(length)]).astype("int32")
        query = part.table[self._features.query_column].take(pa.array(start))
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
        """The lists of these rows; one per row, unless the data is listwise."""
        number, all_rows = self._list_numbers(part, rows), rows
        ends = np.concatenate([[0], np.cumsum(np.bincount(number))]).astype("int32")
        rows = all_rows[ends[:-1]]
        past = part.first_of_moment[rows] - part.first_of_query[rows]
        before = np.concatenate([[0], np.cumsum(past)])
        seen = np.repeat(part.first_of_query[rows] - before[:-1], past)
        seen = item[seen + np.arange(before[-1])]
        known = np.repeat(np.arange(len(rows)), past)[seen >= 0]
        offsets = np.searchsorted(known, np.arange(len(rows) + 1))
        columns = {
            "list_id": part.table[ROW].take(pa.array(rows)),
            "query_id": part.table[self._features.query_column].take(pa.array(rows)),
            "query_row": pa.array(query_row[rows]),
            "candidates": pa.ListArray.from_arrays(ends, item[all_rows]),
            "relevance": pa.ListArray.from_arrays(
                ends, self._number(part, all_rows, "relevance")
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
                    ids = part.table[self._features.item_column].to_numpy()
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

    def _with_not_chosen(
        self, lists: pa.Table, part: Partition, rows: NotChosenRows
    ) -> pa.Table:
        """The lists with the column `not_chosen`, if the data has such rows."""
        if not rows.count:
            return lists
        table = rows.of(part)
        items = np.array([], "int32")
        if table is not None:
            items = self._items.rows_of(table[self._features.item_column])
        shown = rows.join(part, lists["source_list"], items)
        # An item that a list shows twice may be chosen once.
        others = ["candidates"] + ["seen"] * (self._seen == "exclude")
        for other in others:
            gone = Ragged.from_arrow(lists[other].combine_chunks())
            shown = shown.difference(gone)
        column = pa.ListArray.from_arrays(shown.offsets.astype("int32"), shown.values)
        return lists.append_column("not_chosen", column)

    @staticmethod
    def _list_numbers(part: Partition, rows: np.ndarray) -> np.ndarray:
        """`(rows,)`: the number of each row's list among these rows, from 0."""
        first = part.first_of_list[rows]
        return np.cumsum(np.concatenate([[False], first[1:] != first[:-1]]))

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
        """Rows of the history, latest first, and which of them are not padding."""
        place = part.first_of_moment[rows][:, None] - 1 - np.arange(length)[None]
        real = place >= part.first_of_query[rows][:, None]
        return np.where(real, place, 0), real

    def _raw(self, part: Partition, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Raw values of the query features for these interactions."""
        raw: dict[str, np.ndarray] = {}
        query = part.table[self._features.query_column].take(pa.array(rows))
        place: np.ndarray | None = None
        for feature in self._features.query:
            if feature.table == "interactions":
                column = part.table[feature.column].take(pa.array(rows))
                raw[feature.name] = raw_values(
                    column,
                    feature.spec,
                    table="interactions",
                    name=feature.column,
                    rows=np.asarray(part.table[ROW])[rows] + 1,
                )
                continue
            if place is None:
                place = self._query_places(query)
            raw[feature.name] = self._query_table[feature.name][place]
        return raw

    def _query_places(self, query: pa.ChunkedArray) -> np.ndarray:
        found = pc.index_in(query, value_set=self._query_ids)
        required = self._features.required("queries")
        if found.null_count and required:
            absent = query.filter(pc.is_null(found))[0].as_py()
            raise DataError(
                f"Table `queries` has no row for the query {absent!r} of the "
                f"interactions, which the feature(s) {', '.join(required)} need. Add a "
                "row, or set `optional = true` for these features."
            )
        return np.asarray(pc.fill_null(found, -1))


def _fixed_lists(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _column(values: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    if values.dtype == object:
        return pa.array([[v for v in row if v != ""] for row in values.tolist()])
    return _fixed_lists(values)
