"""Scales of an ensemble's members, and weights that are chosen on validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb

import numpy as np
import pyarrow as pa
import tensorflow as tf

from recdistill.data.batches import Lists
from recdistill.distillation.score_transforms import Transform, transformed
from recdistill.evaluation.intervals import paired_difference
from recdistill.evaluation.rows import ListRows, measure_ranks
from recdistill.pipeline.models.scorers import Scorer
from recdistill.pipeline.ranking.candidate_ranker import (
    CandidateRanker,
    candidate_blocks,
)
from recdistill.pipeline.ranking.catalogue_ranking import rank_candidates
from recdistill.pipeline.ranking.validation import Validation

PARTS = {1: 1, 2: 20, 3: 10, 4: 6, 5: 5}
"""Number of equal parts of the total weight that are shared out, by members."""

LISTS_OF_A_SCALE = 500
"""Number of validation lists whose scores give a member's scale."""

DIGITS = 6
"""Significant digits of a factor, so that a configuration can state it."""

SAMPLES = 1_000
"""Resamples of the queries for the noise between them."""

ONE_ERROR = 0.6827
"""Confidence level of an interval of one standard error on each side."""


@dataclass(frozen=True)
class EnsembleChoice:
    """Weights of an ensemble's members and what each member adds on validation.

    Attributes:
        weights: One weight for each member, with a sum of 1; 0 for a member that is
            left out.
        alone: The metric of each member alone.
        without: The metric of the best ensemble without each member, for members that
            are not left out; None for the others, and if there is only one.
        value: The metric of the ensemble.
    """

    weights: tuple[float, ...]
    alone: tuple[float, ...]
    without: tuple[float | None, ...]
    value: float


def scales_of(members: Sequence[Scorer], validation: Validation) -> tuple[float, ...]:
    """The mean distance of a list's highest score from its mean, for each member.

    Members with this scale differ by as much where a ranking is decided, whatever the
    rest of their scores is like. The standard deviation of a heavy tail is small, and
    the best weight of such a member would be between the first points of a grid.

    Args:
        members: Each a function of a batch to scores `(batch, list_size)`.
        validation: Validation lists; `LISTS_OF_A_SCALE` are enough.

    Returns:
        One number above 0 for each member; 1 if all its scores are equal.
    """
    size = validation.catalogue_size
    rankers = [CandidateRanker(member, size) for member in members]
    distances: list[list[np.ndarray]] = [[] for _ in members]
    for lists, candidates in _blocks(validation.lists, size):
        for found, ranker in zip(distances, rankers, strict=True):
            scores = _finite(ranker.scores(lists, candidates)).astype("float64")
            listed = np.ma.array(scores, mask=candidates < 0)
            high = listed.max(axis=1)
            gaps = (high - listed.mean(axis=1)).filled(0.0)
            # The mean of equal scores may be a rounding error away from them.
            found.append(np.where((high > listed.min(axis=1)).filled(False), gaps, 0.0))
    means = (float(np.concatenate(found).mean()) for found in distances)
    return tuple(mean if mean > 0.0 else 1.0 for mean in means)


def factors(
    weights: Sequence[float], scales: Sequence[float] | None
) -> tuple[float, ...]:
    """What each member's scores are multiplied by: weight over scale, summing to 1.

    Args:
        weights: One weight for each member.
        scales: The members' scales, from `scales_of`; None for the weights themselves.

    Examples:
        >>> factors((0.75, 0.25), (3.0, 1.0))
        (0.5, 0.5)
    """
    if scales is None:
        return tuple(weights)
    each = [weight / scale for weight, scale in zip(weights, scales, strict=True)]
    total = sum(each)
    return tuple(float(f"{factor / total:.{DIGITS}g}") for factor in each)


def choose_weights(
    members: Sequence[Scorer],
    validation: Validation,
    normalize: Transform,
    seed: int,
    scales: Sequence[float] | None = None,
) -> EnsembleChoice:
    """Chooses the weights with the best first metric on validation.

    All weights on a grid are tried. A larger set of members is preferred only if it is
    better than the smaller one by more than the standard error of the difference
    between queries (the one-standard-error rule of Breiman et al., 1984).

    Args:
        members: Each a function of a batch to scores `(batch, list_size)`.
        validation: The validation lists and the metric.
        normalize: Transform of each member's scores within a list.
        seed: Seed of the resamples.
        scales: What the transformed scores of each member are divided by; 1 by default.
    """
    grid = list(_shares(len(members)))
    rows = [ListRows() for _ in grid]
    metric, size = validation.metrics[:1], validation.catalogue_size
    rankers = [CandidateRanker(member, size) for member in members]
    scales = [1.0] * len(members) if scales is None else scales
    for lists, candidates in _blocks(validation.lists, size):
        mask = candidates >= 0
        parts = [
            _normalized(ranker.scores(lists, candidates), mask, normalize) / scale
            for ranker, scale in zip(rankers, scales, strict=True)
        ]
        for found, weights in zip(rows, grid, strict=True):
            scores = sum(w * part for w, part in zip(weights, parts, strict=True) if w)
            ranking = rank_candidates(np.asarray(scores), candidates, lists, 0)
            values = measure_ranks(ranking.ranks, metric)
            found.add(lists.list_id, list(lists.query_id), values)
    tables = [found.table() for found in rows]
    means = np.array([validation.mean(table) for table in tables])
    best = {
        support: max(inside, key=means.__getitem__)
        for support, inside in _by_support(grid).items()
    }
    chosen = _smallest_that_is_not_beaten(best, tables, means, metric[0], seed)
    kept = _support(grid[chosen])

    def without(member: int) -> float | None:
        others = tuple(m for m in kept if m != member)
        subsets = [s for s in best if set(s) <= set(others)]
        if member not in kept or not subsets:
            return None
        return float(max(means[best[s]] for s in subsets))

    return EnsembleChoice(
        weights=grid[chosen],
        alone=tuple(float(means[best[m,]]) for m in range(len(members))),
        without=tuple(without(m) for m in range(len(members))),
        value=float(means[chosen]),
    )


def _blocks(pieces: Sequence[Lists], size: int) -> Iterator[tuple[Lists, np.ndarray]]:
    return (block for lists in pieces for block in candidate_blocks(lists, size))


def _finite(scores: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(scores), scores, np.float32(0.0))


def _normalized(scores: np.ndarray, mask: np.ndarray, how: Transform) -> np.ndarray:
    finite = tf.constant(_finite(scores))
    return np.asarray(transformed(finite, tf.constant(mask), how))


def _shares(members: int) -> Iterator[tuple[float, ...]]:
    """All weights that are multiples of one part and have a sum of 1."""
    parts = PARTS[members]
    # Stars and bars: a choice of the places of the bars between the members.
    for bars in combinations(range(parts + members - 1), members - 1):
        ends = (-1, *bars, parts + members - 1)
        yield tuple((stop - start - 1) / parts for start, stop in pairwise(ends))


def number_of_weights(members: int) -> int:
    """Number of the weights that `choose_weights` tries."""
    return comb(PARTS[members] + members - 1, members - 1)


def _support(weights: Sequence[float]) -> tuple[int, ...]:
    return tuple(m for m, weight in enumerate(weights) if weight)


def _by_support(grid: Sequence[Sequence[float]]) -> dict[tuple[int, ...], list[int]]:
    """Numbers of the weights by the members that they use."""
    found: dict[tuple[int, ...], list[int]] = {}
    for number, weights in enumerate(grid):
        found.setdefault(_support(weights), []).append(number)
    return found


def _smallest_that_is_not_beaten(
    best: dict[tuple[int, ...], int],
    tables: Sequence[pa.Table],
    means: np.ndarray,
    metric: str,
    seed: int,
) -> int:
    """Number of the chosen weights."""
    by_size: dict[int, int] = {}
    for support, number in best.items():
        other = by_size.get(len(support), number)
        by_size[len(support)] = max(number, other, key=means.__getitem__)
    chosen = by_size.pop(1)
    for _, candidate in sorted(by_size.items()):
        gain = paired_difference(
            tables[candidate],
            tables[chosen],
            [metric],
            samples=SAMPLES,
            seed=seed,
            confidence=ONE_ERROR,
        )[metric]
        if (gain.low or 0.0) > 0.0:
            chosen = candidate
    return chosen
