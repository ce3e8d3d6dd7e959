"""Rankings of the whole catalogue by a two-tower model, of any number of items.

The scores of some queries are computed for a part of the catalogue at a time: a
product of two matrices. The product of a few queries with all items would be limited by
reading the items' embeddings. Of a part only the scores above the lowest selected one
are looked at, and for the rank of a positive the scores ahead of it are counted.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from recdistill.data.batches import Lists
from recdistill.models.two_tower import TwoTowers
from recdistill.pipeline.candidates.candidate_selection import (
    highest_of_parts,
    of_width,
)
from recdistill.pipeline.ranking.catalogue_ranking import (
    Ranking,
    check_scores,
    in_blocks,
    ordered_ranks,
    positives_of,
    rank_catalogue,
)

ITEMS_AT_ONCE = 2**14
"""Items of a part of the catalogue."""

PRODUCT_SIZE = 2**21 - 2**15
"""Scores of a product: less than 8 MiB in float32, so that the next product gets its
memory (`allocation.return_large_arrays`), of which the kernel has no page to clear."""

ENCODED_AT_ONCE = 65_536
"""Candidates that are encoded at once."""

QUERIES_AT_ONCE = 1_024
"""Queries that are encoded at once."""

_COLUMNS = 1_024
"""The number of items in a product is a multiple of this. Otherwise the last bit of a
score often depends on the number of items, so that the scores of the positives would
not be those of the catalogue's parts."""


def item_embeddings(model: TwoTowers) -> tf.Tensor:
    """Embeddings of the whole catalogue by a two-tower model, `(items, dim)` float32.

    Args:
        model: The model.
    """
    pieces, items = [], model.candidate_table.size
    for low in range(0, items, ENCODED_AT_ONCE):
        rows = tf.range(low, min(low + ENCODED_AT_ONCE, items))
        pieces.append(model.encode_candidates(model.candidate_table(rows)))
    return tf.cast(tf.concat(pieces, axis=0), tf.float32)


class TwoTowerCatalogue:
    """Ranks the whole catalogue by a two-tower model with its present weights.

    Candidates are encoded once, and each query once.

    Args:
        model: The model.
    """

    def __init__(self, model: TwoTowers) -> None:
        self._model = model
        self._embeddings = item_embeddings(model)
        self._items = len(self._embeddings)
        self._parts = [
            self._embeddings[low : low + ITEMS_AT_ONCE]
            for low in range(0, self._items, ITEMS_AT_ONCE)
        ]
        if len(self._parts) > 1:
            self._parts[-1] = _wide(self._parts[-1])

    def scores(self, lists: Lists) -> np.ndarray:
        """Scores of the whole catalogue for some lists, `(lists, items)` float32."""
        return _products(self._queries(lists), self._embeddings)

    def top(self, lists: Lists, count: int) -> np.ndarray:
        """The highest items of each list, without the excluded ones.

        Args:
            lists: The lists.
            count: Number of items of each list.

        Returns:
            `(lists, min(count, items))` int32, the best first; -1 fills lists with
            fewer items.

        Raises:
            NotRankableError: If a score is NaN or infinity.
        """
        count = min(count, self._items)
        found = [
            highest_of_parts(self._of_parts(queries), count, block.excluded)
            for block, queries in self._blocks(lists)
        ]
        return np.concatenate(found)

    def rank(self, lists: Lists, top: int) -> Ranking:
        """Ranks the whole catalogue, without the excluded items of each list.

        Args:
            lists: The lists. Their `scored_candidates` are not used.
            top: Number of first items; 0 if only the positives are of interest.

        Raises:
            NotRankableError: If a score is NaN or infinity.
        """
        if len(self._parts) == 1:
            return rank_catalogue(self.scores, lists, self._items, top)
        return Ranking.joined([self._rank(*each, top) for each in self._blocks(lists)])

    def _rank(self, lists: Lists, queries: tf.Tensor, top: int) -> Ranking:
        row, item, gain = positives_of(lists)
        # Rows of a product do not depend on each other, so these scores are those that
        # the parts have.
        distinct, place = np.unique(item, return_inverse=True)
        own = _wide(tf.gather(self._embeddings, distinct))
        value = _products(queries, own)[row, place]
        count = _CountAhead(lists, row, item, value)
        parts = count.each(self._of_parts(queries))
        best = highest_of_parts(parts, min(top, self._items), lists.excluded)
        if not count.exact:
            return rank_catalogue(self.scores, lists, self._items, top)
        ranks = ordered_ranks(lists, row, 1 + count.total(), gain)
        return Ranking(of_width(best, top), ranks)

    def _blocks(self, lists: Lists) -> Iterator[tuple[Lists, tf.Tensor]]:
        """The lists of each product, with their embeddings."""
        rows = max(1, PRODUCT_SIZE // min(self._items, ITEMS_AT_ONCE))
        for some in in_blocks(lists, QUERIES_AT_ONCE):
            queries = self._queries(some)
            for number, block in enumerate(in_blocks(some, rows)):
                yield block, queries[number * rows : number * rows + len(block)]

    def _of_parts(self, queries: tf.Tensor) -> Iterator[np.ndarray]:
        """The scores of each part of the catalogue, `(lists, items of the part)`."""
        for number, part in enumerate(self._parts):
            columns = self._items - number * ITEMS_AT_ONCE
            scores = _products(queries, part)[:, :columns]
            check_scores(scores)
            yield scores

    def _queries(self, lists: Lists) -> tf.Tensor:
        query = lists.query.items()
        queries = {name: tf.convert_to_tensor(value) for name, value in query}
        return tf.cast(self._model.encode_query(queries), tf.float32)


class _CountAhead:
    """Counts the items ahead of each positive, in the parts of a catalogue.

    An item is ahead if its score is higher, or equal and its row is lower. Excluded
    items are not ahead.

    Args:
        lists: The lists.
        row: `(n,)`, number of the list of each positive, in ascending order.
        item: `(n,)`, its row in the catalogue.
        value: `(n,)`, its score.

    Attributes:
        exact: Whether the scores of the positives are those of the parts, bit by bit.
    """

    def __init__(
        self, lists: Lists, row: np.ndarray, item: np.ndarray, value: np.ndarray
    ) -> None:
        self.exact = True
        self._positives = list(zip(row.tolist(), item.tolist(), value, strict=True))
        self._ahead = np.zeros(len(row), np.int64)
        self._excluded = lists.excluded.distinct()
        self._excluded_rows = self._excluded.row_numbers()
        self._excluded_scores = np.empty(len(self._excluded.values), "float32")

    def each(self, parts: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The same parts, after the items of each have been counted."""
        low = 0
        for scores in parts:
            self._add(scores, low)
            yield scores
            low += scores.shape[1]

    def total(self) -> np.ndarray:
        """The number of items ahead of each positive, `(n,)`, after all parts."""
        offsets = self._excluded.offsets
        total = self._ahead.copy()
        for number, (row, item, value) in enumerate(self._positives):
            own = slice(offsets[row], offsets[row + 1])
            scores, items = self._excluded_scores[own], self._excluded.values[own]
            ahead = (scores > value) | ((scores == value) & (items < item))
            total[number] -= np.count_nonzero(ahead)
        return total

    def _add(self, scores: np.ndarray, low: int) -> None:
        columns = scores.shape[1]
        place = self._excluded.values - low
        here = (place >= 0) & (place < columns)
        self._excluded_scores[here] = scores[self._excluded_rows[here], place[here]]
        for number, (row, item, value) in enumerate(self._positives):
            line, before = scores[row], min(max(item - low, 0), columns)
            self._ahead[number] += np.count_nonzero(line[:before] >= value)
            self._ahead[number] += np.count_nonzero(line[before:] > value)
            if before == item - low and before < columns:
                self.exact &= bool(line[before] == value)


def _products(queries: tf.Tensor, items: tf.Tensor) -> np.ndarray:
    return np.asarray(tf.matmul(queries, items, transpose_b=True))


def _wide(items: tf.Tensor) -> tf.Tensor:
    """Embeddings `(items, dim)`, with zeros for a multiple of `_COLUMNS` items."""
    return tf.pad(items, [(0, -len(items) % _COLUMNS), (0, 0)])
