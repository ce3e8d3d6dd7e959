"""Lists from shards: in order, or as shuffled training batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from recdistill.data.batches import QUERY_PREFIX, RAW_PREFIX, Lists
from recdistill.data.collation import Batch, Collator
from recdistill.data.dense_columns import dense_column
from recdistill.data.ragged import Ragged

IN_MEMORY_BYTES = 2**29
"""Largest size of the shards that are in memory, and shuffled, together."""

DRAWN = b"recdistill.drawn"
"""Key in a file's metadata: number of the last stored candidates that were drawn."""

SEEN = b"recdistill.seen"
"""Key in a shard's metadata: "include" if seen items are candidates, else "exclude"."""


def read_lists(path: Path, *, with_raw: bool = True) -> Lists:
    """One shard in memory, with or without the raw query inputs."""
    names = pq.read_schema(path).names
    kept = [name for name in names if with_raw or not name.startswith(RAW_PREFIX)]
    return lists_of(pq.read_table(path, columns=kept))


def lists_of(table: pa.Table) -> Lists:
    """The lists of the columns of a shard."""
    metadata = table.schema.metadata or {}

    def dense(name: str) -> Any:
        return dense_column(table, name)

    def optional(name: str) -> Any:
        return dense(name) if name in table.column_names else None

    def prefixed(prefix: str) -> dict[str, Any]:
        names = [name for name in table.column_names if name.startswith(prefix)]
        return {name.removeprefix(prefix): dense(name) for name in names}

    query = prefixed(QUERY_PREFIX)
    return Lists(
        list_id=dense("list_id"),
        query_id=dense("query_id"),
        query={
            name: value.padded(0) if isinstance(value, Ragged) else value
            for name, value in query.items()
        },
        positives=dense("candidates"),
        relevance=dense("relevance"),
        seen=dense("seen"),
        weight=dense("list_weight"),
        query_row=dense("query_row"),
        candidates=optional("scored_candidates"),
        teacher_scores=optional("teacher_scores"),
        raw=prefixed(RAW_PREFIX),
        source_list=optional("source_list"),
        not_chosen=optional("not_chosen"),
        drawn=int(metadata.get(DRAWN, 0)),
        drawn_weight=optional("drawn_weight"),
        seen_excluded=metadata.get(SEEN) != b"include",
        repeats=optional("repeats"),
    )


def in_order(
    shards: Sequence[Path],
    batch_size: int,
    limit: int | None = None,
    seed: int = 0,
    rows: np.ndarray | None = None,
) -> Iterator[Lists]:
    """Lists of all shards in their order, at most `batch_size` at a time.

    Args:
        shards: Files of lists.
        batch_size: Largest number of lists in one piece.
        limit: Number of lists to read, sampled from all; None for all.
        seed: Seed of that sample.
        rows: Ascending row numbers of the lists that are read or sampled from; None for
            all.
    """
    sizes = [pq.read_metadata(path).num_rows for path in shards]
    chosen = np.arange(sum(sizes)) if rows is None else rows
    if limit is not None and limit < len(chosen):
        rng = np.random.default_rng(seed)
        chosen = chosen[np.sort(rng.choice(len(chosen), limit, replace=False))]
    start = 0
    for path, size in zip(shards, sizes, strict=True):
        own = chosen[(chosen >= start) & (chosen < start + size)] - start
        start += size
        if not len(own):
            continue
        lists = read_lists(path)
        for k in range(0, len(own), batch_size):
            yield lists.take(own[k : k + batch_size])


def batches(
    shards: Sequence[Path],
    collate: Collator,
    batch_size: int,
    *,
    seed: int,
    epochs: int | None = None,
    delivered: int = 0,
) -> tf.data.Dataset:
    """Shuffled training batches; the same seed gives the same batches.

    Each epoch has each list exactly once, in an order of its own. A batch that the end
    of an epoch does not fill is completed with lists of the next one, so all batches
    have the same size, except the last one if there is a number of epochs.

    Args:
        shards: Files of lists.
        collate: Function from lists to a batch.
        batch_size: Number of lists in a batch.
        seed: Seed of the order and of the sampled candidates.
        epochs: Number of passes over the data; None to repeat without end.
        delivered: Number of batches that were delivered before an interruption. The
            batches go on with the next one, and those before are not read again.

    Raises:
        ValueError: If the shards have no lists.
    """
    source = _ShuffledLists(shards, seed)
    if not source.lists:
        raise ValueError("`shards` must hold a list to train on. Received: none")
    size = min(batch_size, source.lists)

    def batch(number: int, parts: Sequence[Lists]) -> Batch:
        # Each batch has a generator of its own, so that it depends on its number only.
        return collate(Lists.joined(parts), np.random.default_rng([seed, 1, number]))

    def produce() -> Iterator[Batch]:
        number = delivered
        first, skipped = divmod(delivered * size, source.lists)
        held: list[Lists] = []
        for epoch in itertools.count(first) if epochs is None else range(first, epochs):
            for lists, rows in source.epoch(epoch, skipped):
                start = 0
                while start < len(rows):
                    end = start + size - sum(map(len, held))
                    held.append(lists.take(rows[start:end]))
                    start = end
                    if sum(map(len, held)) == size:
                        yield batch(number, held)
                        number, held = number + 1, []
            skipped = 0
        if held:
            yield batch(number, held)

    signature = tf.nest.map_structure(_any_size, batch(0, [source.example()]))
    dataset = tf.data.Dataset.from_generator(produce, output_signature=signature)
    return dataset.prefetch(4)


class _ShuffledLists:
    """Lists of all shards in a random order, in bounded memory.

    Shards that fit in memory together are shuffled as a whole. More shards are read in
    groups that fit; each epoch forms other groups, and shuffles the lists of each.

    Args:
        shards: Files of lists.
        seed: Seed of the order.

    Attributes:
        lists: Number of lists.
    """

    def __init__(self, shards: Sequence[Path], seed: int) -> None:
        metadata = [pq.read_metadata(path) for path in shards]
        self._sizes = np.array([each.num_rows for each in metadata], "int64")
        self._bytes = np.array([_size_in_memory(each) for each in metadata], "int64")
        self._shards, self._seed = shards, seed
        self._whole: Lists | None = None
        self.lists = int(self._sizes.sum())

    def example(self) -> Lists:
        """One list."""
        path = self._shards[int(np.argmax(self._sizes > 0))]
        return read_lists(path, with_raw=False).take(np.arange(1))

    def epoch(self, number: int, skipped: int) -> Iterator[tuple[Lists, np.ndarray]]:
        """The groups of an epoch, each with the order of its lists.

        Args:
            number: Number of the epoch, from 0.
            skipped: Number of lists that are left out at the beginning.
        """
        rng = np.random.default_rng([self._seed, 0, number])
        for group in self._groups(rng):
            rows = rng.permutation(int(self._sizes[group].sum()))
            if skipped < len(rows):
                yield self._read(group), rows[skipped:]
            skipped = max(0, skipped - len(rows))

    def _groups(self, rng: np.random.Generator) -> list[np.ndarray]:
        if self._bytes.sum() <= IN_MEMORY_BYTES:
            return [np.arange(len(self._shards))]
        order = rng.permutation(len(self._shards))
        groups, size = [[order[0]]], self._bytes[order[0]]
        for shard in order[1:]:
            size += self._bytes[shard]
            if size > IN_MEMORY_BYTES:
                groups.append([])
                size = self._bytes[shard]
            groups[-1].append(shard)
        return [np.array(group) for group in groups]

    def _read(self, group: np.ndarray) -> Lists:
        if self._whole is not None:
            return self._whole
        paths = [self._shards[number] for number in group if self._sizes[number]]
        lists = Lists.joined([read_lists(path, with_raw=False) for path in paths])
        if len(group) == len(self._shards):
            self._whole = lists
        return lists


def _size_in_memory(metadata: pq.FileMetaData) -> int:
    """Bytes of the columns that training reads, before compression."""
    columns = (
        metadata.row_group(group).column(column)
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    )
    return sum(
        column.total_uncompressed_size
        for column in columns
        if not column.path_in_schema.startswith(RAW_PREFIX)
    )


def _any_size(value: np.ndarray) -> tf.TensorSpec:
    return tf.TensorSpec([None] * value.ndim, value.dtype)
