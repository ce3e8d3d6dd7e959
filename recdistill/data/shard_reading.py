"""Lists from shards: in order, or as shuffled training batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from recdistill.data.batches import QUERY_PREFIX, RAW_PREFIX, Lists
from recdistill.data.collation import Batch, Collator
from recdistill.data.ragged import Ragged

IN_MEMORY_BYTES = 2**30
"""Largest size on disk of all shards together that are kept in memory."""

DRAWN = b"recdistill.drawn"
"""Key in a file's metadata: number of the last stored candidates that were drawn."""

SEEN = b"recdistill.seen"
"""Key in a shard's metadata: "include" if seen items are candidates, else "exclude"."""


def read_lists(path: Path, *, with_raw: bool = True) -> Lists:
    """One shard in memory, with or without the raw query inputs."""
    schema = pq.read_schema(path)
    kept = [
        name for name in schema.names if with_raw or not name.startswith(RAW_PREFIX)
    ]
    table = pq.read_table(path, columns=kept)

    def dense(name: str) -> Any:
        return dense_column(table[name])

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
        drawn=int((schema.metadata or {}).get(DRAWN, 0)),
        drawn_weight=optional("drawn_weight"),
        seen_excluded=(schema.metadata or {}).get(SEEN) != b"include",
    )


def dense_column(column: pa.ChunkedArray) -> Any:
    """A column as an array; lists of equal length as a matrix, others as `Ragged`."""
    whole = column.combine_chunks()
    if pa.types.is_fixed_size_list(whole.type):
        flat = whole.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(whole), whole.type.list_size)
    if pa.types.is_list(whole.type):
        return Ragged.from_arrow(whole)
    return whole.to_numpy(zero_copy_only=False)


def in_order(
    shards: Sequence[Path], batch_size: int, limit: int | None = None, seed: int = 0
) -> Iterator[Lists]:
    """Lists of all shards in their order, at most `batch_size` at a time.

    Args:
        shards: Files of lists.
        batch_size: Largest number of lists in one piece.
        limit: Number of lists to read, sampled from all; None for all.
        seed: Seed of that sample.
    """
    sizes = [pq.read_metadata(path).num_rows for path in shards]
    chosen = np.arange(sum(sizes))
    if limit is not None and limit < len(chosen):
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.choice(len(chosen), limit, replace=False))
    start = 0
    for path, size in zip(shards, sizes, strict=True):
        rows = chosen[(chosen >= start) & (chosen < start + size)] - start
        start += size
        if not len(rows):
            continue
        lists = read_lists(path)
        for k in range(0, len(rows), batch_size):
            yield lists.take(rows[k : k + batch_size])


def batches(
    shards: Sequence[Path],
    collate: Collator,
    batch_size: int,
    *,
    seed: int,
    epochs: int | None = None,
) -> tf.data.Dataset:
    """Shuffled training batches; the same seed gives the same batches.

    Shards are read one at a time, and their order and their rows are shuffled in each
    epoch. Lists of different shards do not mix, so each shard should hold a random part
    of the queries. Lists that do not fill a batch are left out for the epoch.

    Args:
        shards: Files of lists.
        collate: Function from lists to a batch.
        batch_size: Number of lists in a batch.
        seed: Seed of the order and of the sampled candidates.
        epochs: Number of passes over the data; None to repeat without end.

    Raises:
        ValueError: If the shards have no lists.
    """
    sizes = [pq.read_metadata(path).num_rows for path in shards]
    if not sum(sizes):
        raise ValueError("`shards` must hold a list to train on. Received: none")
    on_disk = sum(path.stat().st_size for path in shards)
    cache = _ShardCache(keep=on_disk <= IN_MEMORY_BYTES)

    def produce() -> Iterator[Batch]:
        rng = np.random.default_rng(seed)
        epoch = 0
        while epochs is None or epoch < epochs:
            epoch += 1
            for number in rng.permutation(len(shards)):
                lists = cache.read(shards[number])
                order = rng.permutation(len(lists))
                size = min(batch_size, max(1, len(lists)))
                for start in range(0, len(lists) - size + 1, size):
                    yield collate(lists.take(order[start : start + size]), rng)

    signature = tf.nest.map_structure(_any_size, next(produce()))
    dataset = tf.data.Dataset.from_generator(produce, output_signature=signature)
    return dataset.prefetch(4)


class _ShardCache:
    """Shards by path, kept in memory if `keep`."""

    def __init__(self, keep: bool) -> None:
        self._keep, self._shards = keep, dict[Path, Lists]()

    def read(self, path: Path) -> Lists:
        """Lists of the shard."""
        if path not in self._shards:
            lists = read_lists(path, with_raw=False)
            if not self._keep:
                return lists
            self._shards[path] = lists
        return self._shards[path]


def _any_size(value: np.ndarray) -> tf.TensorSpec:
    return tf.TensorSpec([None] * value.ndim, value.dtype)
