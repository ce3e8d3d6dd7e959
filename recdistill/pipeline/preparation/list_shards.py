"""List shards: the training, validation and test lists of a partition.

Each list is one row with all data that training and evaluation read: looked-up query
features, the positives, and the items that the query has seen. Rows hold item indices,
not item features.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recdistill.data import Dataset
from recdistill.data.batches import QUERY_PREFIX, RAW_PREFIX
from recdistill.data.ragged import Ragged
from recdistill.data.shard_reading import SEEN
from recdistill.features.encoders import MISSING, UNKNOWN, lookup_column
from recdistill.features.schema import Schema
from recdistill.features.specs import HistorySpec
from recdistill.features.unknown_values import UnknownValues, with_vocabulary
from recdistill.pipeline.config import Config
from recdistill.pipeline.config.teacher_section import needs_raw
from recdistill.pipeline.memory import require_for_query_features
from recdistill.pipeline.preparation.feature_columns import FeatureColumns
from recdistill.pipeline.preparation.item_table import ItemTable
from recdistill.pipeline.preparation.listed_rows import NotChosenRows
from recdistill.pipeline.preparation.partitions import Partition, Partitions
from recdistill.pipeline.preparation.prepared_data import UNLABELLED
from recdistill.pipeline.preparation.query_feature_values import QueryFeatureValues
from recdistill.pipeline.preparation.repeats import Seen
from recdistill.pipeline.preparation.row_parts import SPLITS, TRAIN

SEEN_ITEMS = 2**26
"""Largest number of seen items of all lists in one file."""


class ListShardWriter:
    """Writes the list shards, at least one file for each split and partition.

    Args:
        schema: The fitted features.
        features: The columns of the raw values.
        items: The catalogue.
        parts: The partitions of the interactions.
        dataset: The data set of these partitions.
        config: The pipeline's configuration.
        folder: Folder for `lists` and `training_rows`.
        seen: "exclude" leaves repeats out, because items that the query has seen are
            not candidates; "include" keeps them.
        query_ids: Id of each query, by its number, if there are more than those of the
            interactions.
        train_count: Training interactions of each item, by its number; None if all
            items of the vocabulary have some.

    Attributes:
        counts: Number of lists by split.
        unlabelled: Number of unlabelled lists.
        without_history: Number of these whose query has interacted with nothing before.
        without_row: Number of unlabelled lists that were left out, because the table of
            queries lacks a row that a feature needs.
        left_out: Number of repeats that were left out, by split.
        unlisted: Number of interactions with known items that are not in the catalogue,
            by split. They count in histories, and are in no list.
        unreachable: Number of lists without a positive in the catalogue, by split.
        unknown: Unknown values of the query features, by split.
    """

    def __init__(
        self,
        schema: Schema,
        features: FeatureColumns,
        items: ItemTable,
        parts: Partitions,
        dataset: Dataset,
        config: Config,
        folder: Path,
        seen: Seen = "exclude",
        query_ids: pa.Array | None = None,
        train_count: np.ndarray | None = None,
    ) -> None:
        self._schema, self._folder, self._seen = schema, folder, seen
        self._parts, self._per_query = parts, config.lists.per_query
        self._query_ids = parts.query_ids if query_ids is None else query_ids
        self._with_raw = needs_raw(config.teacher)
        self._values = QueryFeatureValues(schema, features, self._query_ids, dataset)
        (folder / "lists").mkdir()
        (folder / "training_rows").mkdir()
        self._items, self._item_row = items, items.rows_of(parts.item_ids)
        index = lookup_column(schema.items, parts.item_ids)
        self._item_index = np.asarray(index, "int32")
        self._item_unlisted = (self._item_row < 0) & (self._item_index > UNKNOWN)
        if train_count is not None:
            # An extended vocabulary also has items of earlier training parts only.
            self._item_unlisted &= train_count > 0
        self._shards = dict.fromkeys([*SPLITS, UNLABELLED], 0)
        self.unlabelled = self.without_history = self.without_row = 0
        self.counts = dict.fromkeys(SPLITS, 0)
        self.unreachable = dict.fromkeys(SPLITS, 0)
        self.left_out = dict.fromkeys(SPLITS, 0)
        self.unlisted = dict.fromkeys(SPLITS, 0)
        self.unknown = {name: UnknownValues() for name in SPLITS}

    def write(self, part: Partition, number: int, not_chosen: NotChosenRows) -> None:
        """Writes the lists and the training rows of one partition.

        Args:
            part: The partition.
            number: Number of the files.
            not_chosen: Rows that were shown and not chosen.
        """
        require_for_query_features(len(part), self._schema.query)
        item = self._item_row[part.item]
        self._write_training_rows(part, number)
        unlisted = self._item_unlisted[part.item]
        repeated = np.zeros(len(item), bool)
        if self._seen == "exclude":
            repeated = part.repeated & ~unlisted
        for split, name in enumerate(SPLITS):
            rows = np.flatnonzero((part.split == split) & ~repeated & ~unlisted)
            rows = self._once(part, rows)
            self.left_out[name] += int(repeated[part.split == split].sum())
            self.unlisted[name] += int(unlisted[part.split == split].sum())
            if split == TRAIN:
                rows = self._latest(part, rows)
            for piece in self._pieces(part, rows, item):
                with_raw = self._with_raw or name == "test"
                table = self._lists(part, piece, item, with_raw)
                if split != TRAIN:
                    table = table.append_column("rows", self._source_rows(part, piece))
                self._write_shard(table, part, not_chosen, name)
                self.counts[name] += len(table)
                for encoder in with_vocabulary(self._schema.query):
                    column = table[QUERY_PREFIX + encoder.feature].combine_chunks()
                    index = column if column.type == pa.int32() else column.flatten()
                    self.unknown[name].add(encoder.feature, np.asarray(index))
                numbers = self._list_numbers(part, piece)
                known = np.bincount(numbers, item[piece] >= 0)
                self.unreachable[name] += int((known == 0).sum())

    def write_unlabelled(
        self,
        part: Partition,
        rows: np.ndarray,
        not_chosen: NotChosenRows,
        weight: float,
    ) -> None:
        """Writes lists without positives.

        Args:
            part: A partition with a row for each of them.
            rows: These rows.
            not_chosen: Rows that were shown and not chosen.
            weight: Weight of each list.
        """
        require_for_query_features(len(rows), self._schema.query)
        item = self._item_row[part.item]
        known = self._values.are_known(part.query[rows])
        self.without_row += int(np.count_nonzero(~known))
        for piece in self._pieces(part, rows[known], item):
            columns = self._query_columns(part, piece, item, self._with_raw)
            nothing = np.zeros(len(piece) + 1, "int32")
            empty = {"candidates": pa.int32(), "relevance": pa.float32()}
            for name, kind in empty.items():
                values = pa.array([], kind)
                columns[name] = pa.ListArray.from_arrays(nothing, values)
            columns["list_weight"] = pa.array(np.full(len(piece), weight, "float32"))
            self._write_shard(pa.table(columns), part, not_chosen, UNLABELLED)
            self.unlabelled += len(piece)
            lengths = np.asarray(pc.list_value_length(columns["seen"]))
            self.without_history += int(np.count_nonzero(lengths == 0))

    def _write_shard(
        self, table: pa.Table, part: Partition, not_chosen: NotChosenRows, name: str
    ) -> None:
        """Writes the next file of a split, or of the unlabelled lists."""
        table = self._with_not_chosen(table, part, not_chosen)
        table = table.replace_schema_metadata({SEEN: self._seen})
        shard = f"{name}-{self._shards[name]:05d}.parquet"
        _write(table, self._folder / "lists" / shard)
        self._shards[name] += 1

    def _pieces(
        self, part: Partition, rows: np.ndarray, item: np.ndarray
    ) -> list[np.ndarray]:
        """The rows of each file: whole lists, with at most `SEEN_ITEMS` seen items.

        A query with many items has about half the square of their number as seen items
        of its lists, which is more than one column can hold.
        """
        if not len(rows):
            return []
        number = self._list_numbers(part, rows)
        first = rows[np.searchsorted(number, np.arange(number[-1] + 1))]
        _, low, high = self._seen_range(part, first, item)
        file = np.cumsum(high - low, dtype="int64") // SEEN_ITEMS
        cuts = np.flatnonzero(np.diff(file[number])) + 1
        return np.split(rows, cuts)

    def _once(self, part: Partition, rows: np.ndarray) -> np.ndarray:
        """The rows with each item once in a list, with its greatest relevance."""
        if (part.first_copy[rows] == rows).all():
            return rows
        own, place = part.item[rows], part.first_of_list[rows]
        order = np.lexsort((-self._number(part, rows, "relevance"), own, place))
        own, place = own[order], place[order]
        again = (own[1:] == own[:-1]) & (place[1:] == place[:-1])
        return np.delete(rows, order[1:][again])

    def _latest(self, part: Partition, rows: np.ndarray) -> np.ndarray:
        """The rows of the latest training lists of each query, at most `per_query`."""
        if self._per_query is None or not len(rows):
            return rows
        number = self._list_numbers(part, rows)
        last = np.append(np.flatnonzero(np.diff(part.first_of_query[rows])), -1)
        behind = np.repeat(number[last], np.diff(np.append(-1, last % len(rows))))
        return np.asarray(rows[behind - number < self._per_query])

    def _write_training_rows(self, part: Partition, number: int) -> None:
        """Writes one training row per query; their order is that of the numbers."""
        first, last = int(part.query[0]), int(part.query[-1])
        train = (part.split == TRAIN) & (self._item_index[part.item] > UNKNOWN)
        query = part.query[train].astype("int64") - first
        pairs = np.sort((query << 32) | self._item_index[part.item[train]])
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]
        length = np.bincount(pairs >> 32, minlength=last + 1 - first)
        offsets = np.concatenate([[0], np.cumsum(length)]).astype("int32")
        values = (pairs & 0xFFFFFFFF).astype("int32")
        table = pa.table(
            {
                "query_id": self._parts.query_ids.slice(first, last + 1 - first),
                "items": pa.ListArray.from_arrays(offsets, values),
            }
        )
        pq.write_table(table, self._folder / "training_rows" / f"{number:05d}.parquet")

    def _lists(
        self,
        part: Partition,
        rows: np.ndarray,
        item: np.ndarray,
        with_raw: bool,
    ) -> pa.Table:
        """The lists of these rows, each with the mean weight of its rows."""
        number, all_rows = self._list_numbers(part, rows), rows
        ends = np.concatenate([[0], np.cumsum(np.bincount(number))]).astype("int32")
        lengths = np.diff(ends)
        columns = self._query_columns(part, all_rows[ends[:-1]], item, with_raw)
        columns["candidates"] = pa.ListArray.from_arrays(ends, item[all_rows])
        columns["relevance"] = pa.ListArray.from_arrays(
            ends, self._number(part, all_rows, "relevance")
        )
        weights = np.bincount(number, self._number(part, all_rows, "weight"))
        columns["list_weight"] = pa.array(weights / lengths, pa.float32())
        return pa.table(columns)

    def _query_columns(
        self, part: Partition, rows: np.ndarray, item: np.ndarray, with_raw: bool
    ) -> dict[str, pa.Array]:
        """The columns of lists that do not depend on their positives.

        Args:
            part: The partition.
            rows: One row of each list.
            item: `(rows,)`: the catalogue row of each interaction.
            with_raw: Whether raw values are stored.
        """
        past_start, past_end = part.first_of_query[rows], part.first_of_moment[rows]
        past = past_end - past_start
        known = np.concatenate([[0], np.cumsum(item >= 0)])
        first, low, high = self._seen_range(part, rows, item)
        seen = np.repeat(low, high - low)
        offsets = np.concatenate([[0], np.cumsum(high - low)])
        seen = first[seen + np.arange(len(seen)) - np.repeat(offsets[:-1], high - low)]
        query = part.query[rows]
        interacts = query < len(self._parts.query_ids)
        columns = {
            "list_id": part.table["row"].take(pa.array(part.first_of_list[rows])),
            "query_id": self._query_ids.take(pa.array(query)),
            "query_row": pa.array(np.where(interacts, query, -1), pa.int64()),
            "seen": pa.ListArray.from_arrays(offsets.astype("int32"), item[seen]),
            "repeats": pa.array(known[past_end] - known[past_start] - (high - low)),
        }
        if self._parts.columns.list is not None:
            columns["source_list"] = part.table["list"].take(pa.array(rows))
        for encoder in self._schema.query:
            name = encoder.feature
            if isinstance(encoder.spec, HistorySpec):
                past = np.minimum(past, encoder.spec.length)
                values, raw = self._history(part, rows, past, encoder.spec.length)
            else:
                values, raw = self._values.of(encoder, part, rows)
            columns[QUERY_PREFIX + name] = _column(values)
            if with_raw:
                columns[RAW_PREFIX + name] = raw()
        return columns

    @staticmethod
    def _seen_range(
        part: Partition, rows: np.ndarray, item: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the query of each list has seen before, each item once.

        Args:
            part: The partition.
            rows: One row of each list.
            item: `(rows,)`: the catalogue row of each interaction.

        Returns:
            Rows of the partition, and the first and the last place among them of the
            items of each list, the last one excluded.
        """
        own = np.arange(len(part))
        first = np.flatnonzero((part.first_of_pair == own) & (item >= 0))
        low = np.searchsorted(first, part.first_of_query[rows])
        high = np.searchsorted(first, part.first_of_moment[rows])
        return first, low, high

    def _source_rows(self, part: Partition, rows: np.ndarray) -> pa.ListArray:
        """The numbers in the source of the rows of each list."""
        ends = np.cumsum(np.bincount(self._list_numbers(part, rows)))
        numbers = part.table["row"].take(pa.array(rows)).combine_chunks()
        offsets = np.concatenate([[0], ends]).astype("int32")
        return pa.ListArray.from_arrays(offsets, numbers)

    def _history(
        self, part: Partition, rows: np.ndarray, past: np.ndarray, length: int
    ) -> tuple[np.ndarray, Callable[[], pa.Array]]:
        """Indices of the history, latest first, and a function for its ids in order."""
        back = np.arange(1, length + 1)
        place = part.first_of_moment[rows][:, None] - back
        real = back <= past[:, None]
        index = self._item_index[part.item]
        latest = np.where(real, index[np.where(real, place, 0)], MISSING)

        def ids() -> pa.Array:
            offsets = np.concatenate([[0], np.cumsum(past)])
            first = part.first_of_moment[rows] - past - offsets[:-1]
            places = np.repeat(first, past) + np.arange(offsets[-1])
            texts = self._parts.item_ids.take(pa.array(part.item[places]))
            return pa.ListArray.from_arrays(offsets.astype("int32"), texts)

        return latest.astype("int32"), ids

    def _with_not_chosen(
        self, lists: pa.Table, part: Partition, rows: NotChosenRows
    ) -> pa.Table:
        """The lists with the column `not_chosen`, if the data has such rows."""
        if not rows.count:
            return lists
        table = rows.of(part)
        items = np.array([], "int32")
        if table is not None:
            items = self._items.rows_of(table["item"])
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

    @staticmethod
    def _number(part: Partition, rows: np.ndarray, role: str) -> np.ndarray:
        if role not in part.table.column_names:
            return np.ones(len(rows), "float32")
        values: np.ndarray = np.asarray(part.table[role], "float32")
        return np.asarray(values[rows])


def _write(table: pa.Table, path: Path) -> None:
    """Writes a shard; only text has dictionaries, which make numbers larger."""
    paths = {
        f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name
        for field in table.schema
        if field.type in (pa.string(), pa.list_(pa.string()))
    }
    pq.write_table(table, path, compression="lz4", use_dictionary=sorted(paths))


def _column(values: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
