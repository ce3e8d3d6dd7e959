"""The tensor contract, and how shards of lists become batches of it.

A batch is a dict. The **list is the last axis**; the mask is never inferred.

* `query`: {feature name: `(batch, …)`}, looked-up values;
* `candidate_index`: int32 rows of the item table, `(batch, list_size)`, or
  `(list_size,)` where all lists of the batch share their candidates;
* `mask`: `(batch, list_size)` bool, True for a real candidate;
* `teacher_scores`: `(batch, list_size)` float32, where they are stored;
* `training_row`: `(batch, n)` int32, the query's training row, where a linear item
model
  must not see itself (`recdistill.models.linear`);
* `raw` {input name: `(batch, …)`}, raw query inputs as the exported student takes them,
  and `list_key` `(batch,)` text, for teachers from outside (`recdistill.teachers`).

`y` is `{"labels": relevance, "mask": mask}` and the sample weight is `(batch,)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

QUERY_PREFIX, RAW_PREFIX = "query.", "raw."


@dataclass(frozen=True)
class Ragged:
    """Rows of unequal length: row `i` is `values[offsets[i]:offsets[i + 1]]`.

    The offsets start at 0 and end at the number of values.

    Example:
        >>> rows = Ragged(np.array([5, 6, 7]), np.array([0, 2, 2, 3]))
        >>> rows.padded(-1)
        array([[ 5,  6],
               [-1, -1],
               [ 7, -1]])
        >>> rows.take(np.array([2, 0])).values
        array([7, 5, 6])
        >>> rows.row_numbers()
        array([0, 0, 2])
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_arrow(cls, column: pa.ListArray) -> Ragged:
        """A list column."""
        offsets = column.offsets.to_numpy()
        values = column.flatten().to_numpy(zero_copy_only=False)
        return cls(values, (offsets - offsets[0]).astype("int64"))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    def take(self, rows: np.ndarray) -> Ragged:
        """The given rows, in the given order."""
        lengths = (self.offsets[1:] - self.offsets[:-1])[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Ragged(
            self.values[np.repeat(self.offsets[:-1][rows], lengths) + place], offsets
        )

    def padded(self, fill: Any) -> np.ndarray:
        """`(rows, longest)`, at least one column, filled on the right."""
        lengths = self.offsets[1:] - self.offsets[:-1]
        width = max(1, int(lengths.max(initial=0)))
        dense = np.full((len(self), width), fill, self.values.dtype)
        dense[np.arange(width)[None] < lengths[:, None]] = self.values
        return dense

    def row_numbers(self) -> np.ndarray:
        """For each value the row it stands in."""
        return np.repeat(np.arange(len(self)), self.offsets[1:] - self.offsets[:-1])


@dataclass(frozen=True)
class Lists:
    """Lists in memory: one shard, or rows of it.

    Attributes:
        list_id: `(lists,)` int64.
        query_id: `(lists,)` str.
        query: Looked-up query features by name, `(lists, …)`.
        positives: Item rows of the relevant candidates; -1 for an item that the
            catalogue lacks.
        relevance: Beside `positives`.
        seen: Item rows that the query interacted with before: never candidates.
        weight: `(lists,)` float32.
        query_row: `(lists,)`, the row of the query in the training matrix, or
        -1.
        candidates: Candidates of a scored list; None for the whole catalogue.
        teacher_scores: Beside `candidates`, or over the catalogue; None if unscored.
        raw: Raw query inputs by name, where the shard keeps them.
        scored_candidates: Item rows that may be candidates at all; None for the whole
        catalogue.
        source_list: `(lists,)` str, the id of the list in the source, where that comes
            in lists.
    """

    list_id: np.ndarray
    query_id: np.ndarray
    query: dict[str, np.ndarray]
    positives: Ragged
    relevance: Ragged
    seen: Ragged
    weight: np.ndarray
    query_row: np.ndarray
    candidates: np.ndarray | None = None
    teacher_scores: np.ndarray | None = None
    raw: dict[str, np.ndarray | Ragged] = field(default_factory=dict)
    scored_candidates: Ragged | None = None
    source_list: np.ndarray | None = None

    @property
    def list_key(self) -> np.ndarray:
        """`(lists,)` str: what a table of scores knows the list by."""
        return self.query_id if self.source_list is None else self.source_list

    def with_scored_candidates(self, scored: Ragged) -> Lists:
        """These lists with no candidates but those; lists that have none are left out.

        Args:
            scored_candidates: Item rows for each list. Where these lists are
            restricted already,
                what is in both counts.
        """
        if self.scored_candidates is not None:
            scored = _in_both(scored, self.scored_candidates)
        rows = np.flatnonzero(np.diff(scored.offsets))
        return replace(self, scored_candidates=scored).take(rows)

    def with_positive(self) -> Lists:
        """Those lists that have a positive among their candidates."""
        if self.scored_candidates is None:
            return self
        found = _in_both(self.positives, self.scored_candidates)
        return self.take(np.flatnonzero(np.diff(found.offsets)))

    def __len__(self) -> int:
        """Number of lists."""
        return len(self.list_id)

    def take(self, rows: np.ndarray) -> Lists:
        """The given lists, in the given order."""

        def pick(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: pick(each) for name, each in value.items()}
            if isinstance(value, Ragged):
                return value.take(rows)
            return None if value is None else value[rows]

        fields: dict[str, Any] = {k: pick(v) for k, v in vars(self).items()}
        return Lists(**fields)


def _in_both(one: Ragged, other: Ragged) -> Ragged:
    """Of each row of `one` the values that the same row of `other` has, too."""
    size = 1 + max(one.values.max(initial=0), other.values.max(initial=0))
    places = [each.row_numbers() * size + each.values for each in (one, other)]
    # A value below 0, an item that the catalogue lacks, is in no row.
    kept = np.isin(*places) & (one.values >= 0)
    length = np.bincount(one.row_numbers()[kept], minlength=len(one))
    return Ragged(one.values[kept], np.concatenate([[0], np.cumsum(length)]))


def read_lists(path: Path, *, with_raw: bool = True) -> Lists:
    """One shard into memory; without the raw inputs where nobody reads them."""
    names = pq.read_schema(path).names
    kept = [name for name in names if with_raw or not name.startswith(RAW_PREFIX)]
    table = pq.read_table(path, columns=kept)

    def dense(name: str) -> Any:
        column = table[name].combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            flat = column.flatten().to_numpy(zero_copy_only=False)
            return flat.reshape(len(column), column.type.list_size)
        if pa.types.is_list(column.type):
            return Ragged.from_arrow(column)
        return column.to_numpy(zero_copy_only=False)

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
    )


def raw_inputs(lists: Lists) -> dict[str, np.ndarray]:
    """Raw query inputs by name, each `(lists, …)`: what the exported student takes.

    Rows of several values are padded with "" on the right; `<name>_length` says how
    many there are.
    """
    raw: dict[str, np.ndarray] = {}
    for name, value in lists.raw.items():
        if isinstance(value, Ragged):
            raw[f"{name}_length"] = np.diff(value.offsets).astype("int32")
        raw[name] = value.padded("") if isinstance(value, Ragged) else value
    return raw


Batch = tuple[dict[str, Any], dict[str, np.ndarray], np.ndarray]


def catalogue_mask(lists: Lists, catalogue_size: int) -> np.ndarray:
    """`(lists, catalogue_size)` bool: False for what the query has seen.

    An observed positive is a candidate, also where the query saw it before. Where lists
    say what may be a candidate at all (`listed`), nothing else is.
    """
    mask = np.full((len(lists), catalogue_size), lists.scored_candidates is None)
    if lists.scored_candidates is not None:
        mask[lists.scored_candidates.row_numbers(), lists.scored_candidates.values] = (
            True
        )
    rows, items, _ = _reachable_positives(lists)
    positive = mask[rows, items]
    mask[lists.seen.row_numbers(), lists.seen.values] = False
    mask[rows, items] = positive
    return mask


def catalogue_relevance(lists: Lists, catalogue_size: int) -> np.ndarray:
    """`(lists, catalogue_size)` float32: the relevance of every item."""
    relevance = np.zeros((len(lists), catalogue_size), "float32")
    rows, items, value = _reachable_positives(lists)
    relevance[rows, items] = value
    return relevance


def _reachable_positives(lists: Lists) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    inside = lists.positives.values >= 0
    return (
        lists.positives.row_numbers()[inside],
        lists.positives.values[inside],
        lists.relevance.values[inside],
    )


@dataclass(frozen=True)
class Collator:
    """Turns lists into one batch of the tensor contract.

    Attributes:
        catalogue_size: Number of items.
        tail: None: every list is the whole catalogue; else its positives and so many
            uniformly drawn candidates. Lists with stored candidates keep those.
        shared: Whether drawn lists share one `candidate_index`, which holds the
            positives of all. For models that encode a candidate once and multiply, it
            saves a gather for each pair; one that looks at each pair has less to do
            without.
        training_rows: Training rows of all queries, as vocabulary indices; None where
        the
            teacher does not need them.
        with_teacher: Whether stored teacher scores go into the batch.
        with_raw: Whether `raw` and `list_key` go into the batch, for teachers from
            outside.
    """

    catalogue_size: int
    tail: int | None = None
    shared: bool = False
    training_rows: Ragged | None = None
    with_teacher: bool = False
    with_raw: bool = False

    def __call__(self, lists: Lists, rng: np.random.Generator) -> Batch:
        """A batch of these lists; `rng` draws the candidates."""
        if lists.candidates is not None and self.with_teacher:
            x, mask, relevance = self._stored(lists)
        elif self.tail is None:
            mask = catalogue_mask(lists, self.catalogue_size)
            relevance = catalogue_relevance(lists, self.catalogue_size)
            index = np.arange(self.catalogue_size, dtype="int32")
            x = {"candidate_index": index}
        else:
            draw = self._shared if self.shared else self._sampled
            x, mask, relevance = draw(lists, rng)
        x |= {"query": dict(lists.query), "mask": mask}
        if self.with_teacher and lists.teacher_scores is not None:
            x["teacher_scores"] = lists.teacher_scores.astype("float32")
        if self.training_rows is not None:
            training_row = self.training_rows.take(
                np.maximum(lists.query_row, 0)
            ).padded(0)
            x["training_row"] = np.where(lists.query_row[:, None] >= 0, training_row, 0)
        if self.with_raw:
            x |= {"raw": raw_inputs(lists), "list_key": lists.list_key}
        return x, {"labels": relevance, "mask": mask}, lists.weight

    def _sampled(
        self, lists: Lists, rng: np.random.Generator
    ) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
        positives = lists.positives.padded(-1)
        relevance = lists.relevance.padded(0.0)
        size = min(self.tail or 0, self.catalogue_size)
        drawn = rng.choice(self.catalogue_size, size, replace=False).astype("int32")
        tail = np.broadcast_to(drawn, (len(lists), size))
        rows = np.arange(len(lists))[:, None]
        allowed = np.ones((len(lists), self.catalogue_size), bool)
        allowed[lists.seen.row_numbers(), lists.seen.values] = False
        # A positive that is drawn again would be its own negative.
        training_rows, own_items, _ = _reachable_positives(lists)
        allowed[training_rows, own_items] = False
        mask = np.concatenate([positives >= 0, allowed[rows, tail]], axis=1)
        index = np.concatenate([np.maximum(positives, 0), tail], axis=1)
        relevance = np.concatenate(
            [relevance * (positives >= 0), np.zeros(tail.shape, "float32")], axis=1
        )
        return {"candidate_index": index.astype("int32")}, mask, relevance

    def _shared(
        self, lists: Lists, rng: np.random.Generator
    ) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
        """All positives of the batch and one tail: candidates that lists share.

        The positive of one list is no candidate of another unless it is drawn, or
        popular items would be negatives more often than they should.
        """
        size = min(self.tail or 0, self.catalogue_size)
        drawn = rng.choice(self.catalogue_size, size, replace=False).astype("int32")
        rows, items, value = _reachable_positives(lists)
        own, place = np.unique(items, return_inverse=True)
        index = np.concatenate([own, drawn]).astype("int32")
        allowed = np.ones((len(lists), self.catalogue_size), bool)
        allowed[lists.seen.row_numbers(), lists.seen.values] = False
        # A positive that is drawn again would be its own negative.
        allowed[rows, items] = False
        mask = np.zeros((len(lists), len(index)), bool)
        mask[:, len(own) :] = allowed[:, drawn]
        mask[rows, place] = True
        relevance = np.zeros(mask.shape, "float32")
        relevance[rows, place] = value
        return {"candidate_index": index}, mask, relevance

    def _stored(self, lists: Lists) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
        stored = np.asarray(lists.candidates)
        mask = stored >= 0
        index = np.maximum(stored, 0).astype("int32")
        positives, value = lists.positives.padded(-1), lists.relevance.padded(0.0)
        same = (index[:, :, None] == positives[:, None, :]) & mask[:, :, None]
        return {"candidate_index": index}, mask, (same * value[:, None, :]).sum(2)


def batches(
    shards: Sequence[Path],
    collate: Collator,
    batch_size: int,
    *,
    seed: int,
    epochs: int | None = None,
) -> tf.data.Dataset:
    """Shuffled training batches, the same for the same seed.

    Shards are read one at a time, in an order and with rows shuffled anew each epoch;
    lists of different shards do not mix, so each shard should hold a random part of
    the queries. Lists of an epoch that do not fill a batch are left for the next.

    Args:
        shards: Files of lists.
        collate: Makes the batch.
        batch_size: Lists in a batch.
        seed: Seeds order and sampling.
        epochs: Passes over the data; None to go on for ever.

    Raises:
        ValueError: If there is no list to train on.
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


IN_MEMORY_BYTES = 2**30
"""Shards of so many bytes on disk stay in memory from one epoch to the next."""


class _ShardCache:
    """Keeps shards in memory where all of them fit comfortably."""

    def __init__(self, keep: bool) -> None:
        self._keep, self._shards = keep, dict[Path, Lists]()

    def read(self, path: Path) -> Lists:
        """The shard's lists."""
        if path not in self._shards:
            lists = read_lists(path, with_raw=False)
            if not self._keep:
                return lists
            self._shards[path] = lists
        return self._shards[path]


def _any_size(value: np.ndarray) -> tf.TensorSpec:
    return tf.TensorSpec([None] * value.ndim, value.dtype)


def in_order(
    shards: Sequence[Path], batch_size: int, limit: int | None = None, seed: int = 0
) -> Iterator[Lists]:
    """Lists of all shards in their order, `batch_size` at a time.

    Args:
        shards: Files of lists.
        batch_size: Most lists in one piece.
        limit: Read only so many lists, drawn at random from all; None for all.
        seed: Seeds that draw.
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


def score_catalogue(
    score: Callable[[Mapping[str, Any]], Any], lists: Lists, catalogue_size: int
) -> np.ndarray:
    """Scores of the whole catalogue, `(lists, catalogue_size)` float32.

    Args:
        score: A model of the tensor contract: batch to `(batch, list_size)` scores.
        lists: The queries.
        catalogue_size: Number of items.
    """
    collate = Collator(catalogue_size, with_raw=True)
    (x, _, _) = collate(lists, np.random.default_rng(0))
    return np.asarray(score(x))
