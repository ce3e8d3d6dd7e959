"""NDCG, DCG, recall, precision, hit rate, MRR, MAP, RBP and ERR in NumPy.

The functions take arrays `(batch, list_size)` and return `(batch,)` in float64. Padding
never ranks, and ties are broken by position (`recdistill.lists.numpy_ranks`). A
candidate is *relevant* if its relevance is above 0, and its gain is its relevance. A
list for which a metric is undefined gives NaN, not 0.

The relevance metrics depend only on the *ranks of the relevant candidates*, of which
there are few. `relevant_ranks` computes each rank by counting the higher scores,
without sorting the catalogue.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from recdistill.lists.numpy_ranks import (
    BoolArray,
    FloatArray,
    IntArray,
    check_cutoff,
    check_same_shape,
    checked_mask,
    ranks_of,
    real_scores,
)

MAX_GRADE = 4.0
"""Highest relevance in ERR by default, as in TREC's gdeval."""

MISSED = np.iinfo(np.int64).max - 1
"""Rank of a relevant item that is not a candidate; 1 can be added to it."""


@dataclass(frozen=True)
class RelevantRanks:
    """Ranks of the relevant items of a batch of lists.

    One entry for each relevant item, ordered by list and then by rank. Created by
    `relevant_ranks`, where these are the relevant real candidates; use it to compute
    several metrics from one ranking.

    Attributes:
        batch_size: The number of lists, including those without relevant candidates.
        row: `(n,)`. The list of each entry.
        rank: `(n,)`. Its rank among the real candidates of the list, from 1. `MISSED`
            for a relevant item that is not a candidate: it counts as relevant, and adds
            nothing to a metric.
        gain: `(n,)`. Its relevance, above 0.
    """

    batch_size: int
    row: IntArray
    rank: IntArray
    gain: FloatArray

    @cached_property
    def relevant(self) -> IntArray:
        """`(batch,)`. The number of relevant items of each list."""
        return np.bincount(self.row, minlength=self.batch_size)

    @cached_property
    def _ordinal(self) -> IntArray:
        """`(n,)`. 1 for the best relevant item of a list, 2 for the next."""
        first = np.cumsum(self.relevant) - self.relevant
        return np.arange(len(self.row)) - first[self.row] + 1

    def ndcg(self, k: int) -> FloatArray:
        """`(batch,)`. See the function `ndcg`."""
        ideal_gain = self.gain[np.lexsort((-self.gain, self.row))]
        best = self._sum(ideal_gain / np.log2(self._ordinal + 1), self._ordinal <= k)
        return ratio(self.dcg(k), best)

    def dcg(self, k: int) -> FloatArray:
        """`(batch,)`. See the function `dcg`."""
        check_cutoff("k", k)
        found = self._sum(self.gain / np.log2(self.rank + 1), self.rank <= k)
        return self._where_relevant(found)

    def recall(self, k: int) -> FloatArray:
        """`(batch,)`. See the function `recall`."""
        check_cutoff("k", k)
        return ratio(self._sum(1.0, self.rank <= k), self.relevant)

    def precision(self, k: int) -> FloatArray:
        """`(batch,)`. See the function `precision`."""
        check_cutoff("k", k)
        return self._where_relevant(self._sum(1.0, self.rank <= k) / k)

    def hit_rate(self, k: int) -> FloatArray:
        """`(batch,)`. See the function `hit_rate`."""
        check_cutoff("k", k)
        hit = (self._ordinal == 1) & (self.rank <= k)
        return ratio(self._sum(1.0, hit), np.sign(self.relevant))

    def reciprocal_rank(self, k: int | None = None) -> FloatArray:
        """`(batch,)`. See the function `reciprocal_rank`."""
        first = (self._ordinal == 1) & self._within(k)
        return ratio(self._sum(1.0 / self.rank, first), np.sign(self.relevant))

    def average_precision(self, k: int) -> FloatArray:
        """`(batch,)`. See the function `average_precision`."""
        check_cutoff("k", k)
        precision = self._ordinal / self.rank
        return ratio(self._sum(precision, self.rank <= k), self.relevant)

    def rank_biased_precision(self, k: int | None = None, p: float = 0.8) -> FloatArray:
        """`(batch,)`. See the function `rank_biased_precision`."""
        if not 0 < p < 1:
            raise ValueError(f"`p` must be between 0 and 1. Received: p={p}")
        weights = (1 - p) * np.float64(p) ** (self.rank - 1)
        return self._where_relevant(self._sum(weights, self._within(k)))

    def expected_reciprocal_rank(
        self, k: int | None = None, max_grade: float = MAX_GRADE
    ) -> FloatArray:
        """`(batch,)`. See the function `expected_reciprocal_rank`."""
        highest = self.gain.max(initial=0.0)
        if not highest <= max_grade < 1_000:
            raise ValueError(
                "`max_grade` must be at least the highest relevance and below 1000. "
                f"Received: max_grade={max_grade} with relevance {highest}"
            )
        satisfied = (2.0**self.gain - 1) / 2.0**max_grade
        # Above 53, the probability of the highest grade would be rounded to 1.
        satisfied = np.minimum(satisfied, np.nextafter(1.0, 0.0))
        # Log-probability that the user passes all earlier candidates of the list.
        passed = np.cumsum(np.log1p(-satisfied)) - np.log1p(-satisfied)
        before = passed - passed[np.arange(len(passed)) - self._ordinal + 1]
        return self._where_relevant(
            self._sum(np.exp(before) * satisfied / self.rank, self._within(k))
        )

    def _within(self, k: int | None) -> BoolArray:
        """`(n,)`. Whether the rank is at most k; without a cut-off, unless missed."""
        if k is None:
            return self.rank < MISSED
        check_cutoff("k", k)
        return self.rank <= k

    def _where_relevant(self, values: FloatArray) -> FloatArray:
        """The values, with NaN for lists without relevant candidates."""
        return np.where(self.relevant > 0, values, np.nan)

    def _sum(self, values: FloatArray | float, chosen: BoolArray) -> FloatArray:
        """`(batch,)`. The sum of the chosen entries over each list."""
        weights = np.where(chosen, values, 0.0)
        return np.bincount(self.row, weights, self.batch_size).astype(np.float64)


def relevant_ranks(
    scores: npt.ArrayLike, relevance: npt.ArrayLike, mask: npt.ArrayLike
) -> RelevantRanks:
    """Find the rank of each relevant candidate.

    Args:
        scores: `(batch, list_size)`. Unnormalised; entries under padding are ignored.
        relevance: `(batch, list_size)`, at least 0; entries under padding are ignored.
        mask: `(batch, list_size)`, bool. True marks a real candidate.

    Returns:
        The ranks, from which all relevance metrics are computed.

    Raises:
        ValueError: If the shapes differ, `mask` is not boolean, or a real candidate has
            a score of NaN or `+inf` or a relevance that is negative or not finite.

    Examples:
        >>> ranks = relevant_ranks([[0.1, 0.9, 0.5]], [[1, 0, 2]], [[True] * 3])
        >>> ranks.rank
        array([2, 3])
        >>> ranks.gain
        array([2., 1.])
    """
    real = real_scores(scores, mask, name="scores")
    row, column, gain = _relevant_candidates(relevance, checked_mask(mask))
    rank = ranks_of(real, row, column)
    order = np.lexsort((rank, row))
    return RelevantRanks(len(real), row[order], rank[order], gain[order])


def ndcg(
    scores: npt.ArrayLike, relevance: npt.ArrayLike, mask: npt.ArrayLike, k: int
) -> FloatArray:
    r"""NDCG@k, normalised discounted cumulative gain, with linear gain.

    $$ \mathrm{DCG}@k = \sum_{r_i \le k} \frac{y_i}{\log_2(r_i + 1)} $$

    divided by the DCG@k of the ideal order. For relevance 0 and 1 the linear gain $y$
    equals the exponential gain $2^y - 1$ that some libraries use; for graded relevance
    the two differ.

    Args:
        scores, relevance, mask: `(batch, list_size)`; see `relevant_ranks`.
        k: The cut-off, at least 1. It may exceed the list size.

    Returns:
        `(batch,)`, from 0 to 1; NaN for a list without relevant candidates.

    Raises:
        ValueError: As `relevant_ranks`, or if k is below 1.

    Reference: Järvelin and Kekäläinen (2002).

    Examples:
        >>> ndcg([[0.1, 0.9, 0.5]], [[1, 0, 0]], [[True, True, True]], k=10)
        array([0.5])
    """
    return relevant_ranks(scores, relevance, mask).ndcg(k)


def recall(
    scores: npt.ArrayLike, relevance: npt.ArrayLike, mask: npt.ArrayLike, k: int
) -> FloatArray:
    """Recall@k: the share of the relevant candidates that are in the first k.

    The denominator is the number of relevant candidates, even if it exceeds k.

    Args:
        scores, relevance, mask: `(batch, list_size)`; see `relevant_ranks`.
        k: The cut-off, at least 1.

    Returns:
        `(batch,)`, from 0 to 1; NaN for a list without relevant candidates.

    Raises:
        ValueError: As `relevant_ranks`, or if k is below 1.

    Examples:
        >>> recall([[0.9, 0.5, 0.1]], [[1, 0, 1]], [[True, True, True]], k=2)
        array([0.5])
    """
    return relevant_ranks(scores, relevance, mask).recall(k)


def hit_rate(
    scores: npt.ArrayLike, relevance: npt.ArrayLike, mask: npt.ArrayLike, k: int
) -> FloatArray:
    """Hit rate@k: 1 if a relevant candidate is among the first k, else 0.

    Args:
        scores, relevance, mask: `(batch, list_size)`; see `relevant_ranks`.
        k: The cut-off, at least 1.

    Returns:
        `(batch,)`, 0 or 1; NaN for a list without relevant candidates.

    Raises:
        ValueError: As `relevant_ranks`, or if k is below 1.

    Examples:
        >>> hit_rate([[0.9, 0.5, 0.1]], [[0, 1, 1]], [[True, True, True]], k=2)
        array([1.])
    """
    return relevant_ranks(scores, relevance, mask).hit_rate(k)


def reciprocal_rank(
    scores: npt.ArrayLike,
    relevance: npt.ArrayLike,
    mask: npt.ArrayLike,
    k: int | None = None,
) -> FloatArray:
    """Reciprocal rank of the first relevant candidate; its mean is the MRR.

    Args:
        scores, relevance, mask: `(batch, list_size)`; see `relevant_ranks`.
        k: A first relevant candidate beyond this rank counts 0; None for no cut-off.

    Returns:
        `(batch,)`, from 0 to 1; NaN for a list without relevant candidates.

    Raises:
        ValueError: As `relevant_ranks`, or if k is below 1.

    Examples:
        >>> reciprocal_rank([[0.9, 0.5, 0.1]], [[0, 1, 1]], [[True, True, True]])
        array([0.5])
    """
    return relevant_ranks(scores, relevance, mask).reciprocal_rank(k)


def average_precision(
    scores: npt.ArrayLike, relevance: npt.ArrayLike, mask: npt.ArrayLike, k: int
) -> FloatArray:
    """Average precision@k over the relevant candidates; its mean is the MAP.

    The sum of the precisions at the ranks of the relevant candidates in the first k is
    divided by the number of relevant candidates (the trec_eval convention), not by the
    smaller of that number and k: a list with more than k relevant candidates cannot
    reach 1.

    Args:
        scores, relevance, mask: `(batch, list_size)`; see `relevant_ranks`.
        k: The cut-off, at least 1.

    Returns:
        `(batch,)`, from 0 to 1; NaN for a list without relevant candidates.

    Raises:
        ValueError: As `relevant_ranks`, or if k is below 1.

    Examples:
        >>> average_precision([[0.9, 0.5, 0.1]], [[1, 0, 1]], [[True] * 3], k=2)
        array([0.5])
    """
    return relevant_ranks(scores, relevance, mask).average_precision(k)


def dcg(
    scores: npt.ArrayLike, relevance: npt.ArrayLike, mask: npt.ArrayLike, k: int
) -> FloatArray:
    """DCG@k, discounted cumulative gain, with linear gain: the numerator of `ndcg`.

    Args:
        scores, relevance, mask: `(batch, list_size)`; see `relevant_ranks`.
        k: The cut-off, at least 1.

    Returns:
        `(batch,)`, at least 0; NaN for a list without relevant candidates.

    Raises:
        ValueError: As `relevant_ranks`, or if k is below 1.

    Examples:
        >>> dcg([[0.1, 0.9, 0.5]], [[3, 1, 0]], [[True, True, True]], k=10)
        array([2.5])
    """
    return relevant_ranks(scores, relevance, mask).dcg(k)


def precision(
    scores: npt.ArrayLike, relevance: npt.ArrayLike, mask: npt.ArrayLike, k: int
) -> FloatArray:
    """Precision@k: the number of relevant candidates in the first k, divided by k.

    The denominator is k even for a list with fewer candidates (the trec_eval
    convention).

    Args:
        scores, relevance, mask: `(batch, list_size)`; see `relevant_ranks`.
        k: The cut-off, at least 1.

    Returns:
        `(batch,)`, from 0 to 1; NaN for a list without relevant candidates.

    Raises:
        ValueError: As `relevant_ranks`, or if k is below 1.

    Examples:
        >>> precision([[0.9, 0.5, 0.1]], [[1, 0, 1]], [[True, True, True]], k=2)
        array([0.5])
    """
    return relevant_ranks(scores, relevance, mask).precision(k)


def rank_biased_precision(
    scores: npt.ArrayLike,
    relevance: npt.ArrayLike,
    mask: npt.ArrayLike,
    k: int | None = None,
    p: float = 0.8,
) -> FloatArray:
    r"""RBP, rank-biased precision: precision with weights that decrease by rank.

    $$ \mathrm{RBP} = (1 - p) \sum_i [y_i > 0] \, p^{r_i - 1} $$

    Args:
        scores, relevance, mask: `(batch, list_size)`; see `relevant_ranks`.
        k: Relevant candidates beyond this rank count 0; None for no cut-off.
        p: Persistence, above 0 and below 1: the probability that a user continues to
            the next candidate.

    Returns:
        `(batch,)`, from 0 to 1; NaN for a list without relevant candidates.

    Raises:
        ValueError: As `relevant_ranks`, or if k is below 1, or p not between 0 and 1.

    Reference: Moffat and Zobel (2008).

    Examples:
        >>> lists = ([[0.9, 0.5, 0.1]], [[1, 0, 1]], [[True, True, True]])
        >>> rank_biased_precision(*lists, p=0.5)  # 0.5 * (1 + 0.25)
        array([0.625])
    """
    return relevant_ranks(scores, relevance, mask).rank_biased_precision(k, p)


def expected_reciprocal_rank(
    scores: npt.ArrayLike,
    relevance: npt.ArrayLike,
    mask: npt.ArrayLike,
    k: int | None = None,
    max_grade: float = MAX_GRADE,
) -> FloatArray:
    r"""ERR, expected reciprocal rank at which a user is satisfied (cascade model).

    With the relevance $y$ in the order of the scores and $g$ the `max_grade`,

    $$ \mathrm{ERR} = \sum_r \frac{R_r}{r} \prod_{q < r} (1 - R_q), \qquad
       R_r = \frac{2^{y_r} - 1}{2^g}. $$

    Args:
        scores, relevance, mask: `(batch, list_size)`; see `relevant_ranks`.
        k: Candidates beyond this rank count 0; None for no cut-off.
        max_grade: The highest possible relevance. The default is that of TREC's gdeval.

    Returns:
        `(batch,)`, from 0 to 1; NaN for a list without relevant candidates.

    Raises:
        ValueError: As `relevant_ranks`, or if k is below 1, or a relevance exceeds
            `max_grade`.

    Reference: Chapelle, Metzler, Zhang and Grinspan (2009).

    Examples:
        >>> lists = ([[0.9, 0.5]], [[1, 1]], [[True, True]])
        >>> expected_reciprocal_rank(*lists, max_grade=1)  # 1/2 + 1/2 * 1/2 * 1/2
        array([0.625])
    """
    ranks = relevant_ranks(scores, relevance, mask)
    return ranks.expected_reciprocal_rank(k, max_grade)


def _relevant_candidates(
    relevance: npt.ArrayLike, mask: BoolArray
) -> tuple[IntArray, IntArray, FloatArray]:
    """Row, column and gain of the real candidates whose relevance is not 0."""
    array = np.asarray(relevance)
    check_same_shape(array, mask, name="relevance")
    row, column = np.nonzero(mask & (array != 0))  # NaN is not 0, so it is checked too
    gain = array[row, column].astype(np.float64)
    wrong = np.flatnonzero(~((gain > 0) & (gain < np.inf)))
    if wrong.size:
        first = wrong[0]
        raise ValueError(
            "`relevance` must be finite and at least 0 for a real candidate. Received: "
            f"{gain[first]} in row {row[first]} at position {column[first]}"
        )
    return row, column, gain


def ratio(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> FloatArray:
    """The quotient of each list; NaN if the denominator is 0."""
    result: FloatArray = np.divide(
        numerator,
        denominator,
        out=np.full(len(numerator), np.nan),
        where=denominator > 0,
    )
    return result
