"""Retriever: the candidates of a training list, from a catalogue of any size.

A teacher cannot score a large catalogue for each list. It scores what the retriever
proposes, in this order and each item once:

1. the *observed* items: the positives, and what was shown with them;
2. the items with the highest scores of the *baseline*, and *popular* items;
3. in the second round, the items with the highest scores of a *pilot student*;
4. a *tail*: items drawn uniformly from all others, without replacement.

Seen items are left out if they are not candidates. The first three groups are certain;
an item of the tail was drawn with the probability $\\pi = M / F$ ($M$ drawn of $F$
others) and stands for $1 / \\pi$ items, so that a sum over the list with these weights
is an unbiased estimate of the sum over the catalogue (Horvitz and Thompson, 1952).

The third group closes the lists: a listwise loss on a subset of the catalogue bounds
the ranking metric of the whole only if the subset holds what the student itself ranks
first (Zhu and Zhang, 2026).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from recdistill.data.batches import Lists, item_weight
from recdistill.data.ragged import Ragged
from recdistill.data.shard_reading import read_lists
from recdistill.pipeline.candidates.candidate_selection import distinct, of_width
from recdistill.pipeline.candidates.uniform_tail import UniformTail
from recdistill.pipeline.config import ListsConfig

TopItems = Callable[[Lists], np.ndarray]
"""A model's highest items for each list, `(lists, n)` int32, the best first.

Excluded items are left out; -1 pads lists with fewer items.
"""


@dataclass(frozen=True)
class Candidates:
    """Candidates of some lists.

    Attributes:
        items: `(lists, n)` int32, item rows; -1 for no candidate.
        drawn: Number of the last columns that were drawn.
        drawn_weight: `(lists,)` float32, number of items that each of these stands for.
    """

    items: np.ndarray
    drawn: int
    drawn_weight: np.ndarray

    def item_weight(self) -> np.ndarray:
        """Number of items that each candidate stands for, `(lists, n)` float32."""
        return item_weight(self.items, self.drawn, self.drawn_weight)


def most_observed(sizes: np.ndarray, config: ListsConfig) -> int:
    """Number of observed items of a list that are certain candidates, at most.

    All stored lists have the width of the longest one. So that one list, such as an
    import of a day, does not make all others as long as itself, the longest 0.1 % of
    the lists keep only their first observed items, if they have more than all other
    candidates together.

    Args:
        sizes: `(lists,)`, number of observed items of each training list.
        config: Numbers of candidates.
    """
    usual = int(np.quantile(sizes, 0.999, method="higher"))
    return min(int(sizes.max()), max(usual, config.drawn))


@dataclass(frozen=True)
class Retriever:
    """Proposes the candidates of the first round.

    Attributes:
        top: The baseline's highest items.
        popularity: `(items,)`, training interactions of each item.
        config: Numbers of candidates.
        observed: Largest number of observed items of a list; further ones are left
            out, the positives last.
        ids: `(items,)` uint64, hash of the id of each item.
    """

    top: TopItems
    popularity: np.ndarray
    config: ListsConfig
    observed: int
    ids: np.ndarray

    @property
    def _chosen(self) -> int:
        config = self.config
        width = self.observed + config.retriever_top + config.popular
        return min(width, len(self.popularity))

    @property
    def _drawn(self) -> int:
        return min(self.config.tail, len(self.popularity))

    @cached_property
    def _tail(self) -> UniformTail:
        return UniformTail(self.ids)

    @cached_property
    def _popular(self) -> np.ndarray:
        """The most popular items, in descending order."""
        order = np.argsort(-self.popularity, kind="stable")
        return np.asarray(order[: self.config.popular], "int32")

    def __call__(self, lists: Lists, keys: np.ndarray, file: str) -> Candidates:
        """The candidates of some lists.

        Args:
            lists: The lists.
            keys: `(lists,)` uint64, the random key of each list.
            file: Not used.
        """
        own = lists.observed()[0].padded(-1)[:, : self.observed]
        shape = len(lists), len(self._popular)
        popular = np.broadcast_to(self._popular, shape)
        proposed = np.concatenate([own, self.top(lists), popular], axis=1)
        excluded = lists.excluded.distinct()
        chosen = distinct(np.where(excluded.holds(proposed), -1, proposed))
        chosen = of_width(chosen, self._chosen)
        taken = _rows(chosen).followed_by(excluded)
        count = self._drawn
        tail, free = self._tail.draw(taken, count, keys)
        weight = np.maximum(free, 1) / np.clip(free, 1, count)
        items = np.concatenate([chosen, tail], axis=1).astype("int32")
        return Candidates(items, count, weight.astype("float32"))


@dataclass(frozen=True)
class SecondRound:
    """Adds the highest items of a pilot student to the candidates of the first round.

    An added item that the first round had drawn moves from the tail to the certain
    candidates. The others of the tail keep their weight, because each item outside the
    first two groups had the same chance to be drawn.

    Attributes:
        top: The pilot student's highest items.
        first: Folder with the files of the first round.
        added: Number of added candidates of a list, at most.
    """

    top: TopItems
    first: Path
    added: int

    def __call__(self, lists: Lists, keys: np.ndarray, file: str) -> Candidates:
        """The candidates of some lists.

        Args:
            lists: All lists of a file of the first round.
            keys: Not used.
            file: Name of that file.
        """
        before = read_lists(self.first / file, with_raw=False)
        items, drawn = before.candidates, before.drawn
        if items is None or before.drawn_weight is None:
            raise ValueError(f"{file} must have retrieved lists. Received: no drawn")
        head, tail = np.split(items, [items.shape[1] - drawn], axis=1)
        top = self.top(lists)
        new = distinct(np.where(_rows(head).holds(top), -1, top))
        new = of_width(new, self.added)
        tail = np.where(_rows(new).holds(tail), -1, tail)
        items = np.concatenate([head, new, tail], axis=1)
        return Candidates(items.astype("int32"), drawn, before.drawn_weight)


def _rows(items: np.ndarray) -> Ragged:
    """The items of each row that are not below 0."""
    kept = items >= 0
    lengths = np.concatenate([[0], np.cumsum(np.count_nonzero(kept, axis=1))])
    return Ragged(items[kept], lengths)
