"""NDCG, recall, MRR, MAP, Kendall's tau and RBO as NumPy functions.

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
    Scores,
    check_cutoff,
    check_same_shape,
    checked_mask,
    chunks,
    first_k,
    in_top,
    ranks_of,
    real_scores,
)


@dataclass(frozen=True)
class RelevantRanks:
    """Ranks of the relevant candidates of a batch of lists.

    One entry for each relevant real candidate, ordered by list and then by rank.
    Created by `relevant_ranks`; use it to compute several metrics from one ranking.

    Attributes:
        batch_size: The number of lists, including those without relevant candidates.
        row: `(n,)`. The list of each entry.
        rank: `(n,)`. Its rank among the real candidates of the list, from 1.
        gain: `(n,)`. Its relevance, above 0.
    """

    batch_size: int
    row: IntArray
    rank: IntArray
    gain: FloatArray

    @cached_property
    def relevant(self) -> IntArray:
        """`(batch,)`. The number of relevant real candidates in each list."""
        return np.bincount(self.row, minlength=self.batch_size)

    @cached_property
    def _ordinal(self) -> IntArray:
        """`(n,)`. 1 for the best relevant candidate of a list, 2 for the next."""
        first = np.cumsum(self.relevant) - self.relevant
        return np.arange(len(self.row)) - first[self.row] + 1

    def ndcg(self, k: int) -> FloatArray:
        """`(batch,)`. See the function `ndcg`."""
        check_cutoff("k", k)
        ideal_gain = self.gain[np.lexsort((-self.gain, self.row))]
        return _ratio(
            self._sum(self.gain / np.log2(self.rank + 1), self.rank <= k),
            self._sum(ideal_gain / np.log2(self._ordinal + 1), self._ordinal <= k),
        )

    def recall(self, k: int) -> FloatArray:
        """`(batch,)`. See the function `recall`."""
        check_cutoff("k", k)
        return _ratio(self._sum(1.0, self.rank <= k), self.relevant)

    def hit_rate(self, k: int) -> FloatArray:
        """`(batch,)`. See the function `hit_rate`."""
        check_cutoff("k", k)
        hit = (self._ordinal == 1) & (self.rank <= k)
        return _ratio(self._sum(1.0, hit), np.sign(self.relevant))

    def reciprocal_rank(self, k: int | None = None) -> FloatArray:
        """`(batch,)`. See the function `reciprocal_rank`."""
        first = self._ordinal == 1
        if k is not None:
            check_cutoff("k", k)
            first &= self.rank <= k
        return _ratio(self._sum(1.0 / self.rank, first), np.sign(self.relevant))

    def average_precision(self, k: int) -> FloatArray:
        """`(batch,)`. See the function `average_precision`."""
        check_cutoff("k", k)
        precision = self._ordinal / self.rank
        return _ratio(self._sum(precision, self.rank <= k), self.relevant)

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


def overlap(
    teacher_scores: npt.ArrayLike,
    student_scores: npt.ArrayLike,
    mask: npt.ArrayLike,
    k: int,
) -> FloatArray:
    """Overlap@k: the share of the teacher's first k that are in the student's first k.

    Args:
        teacher_scores, student_scores: `(batch, list_size)`, each on its own scale.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        k: The cut-off, at least 1. Lists with fewer candidates than that give 1.

    Returns:
        `(batch,)`, from 0 to 1; NaN for a list without real candidates.

    Raises:
        ValueError: As `relevant_ranks`, or if k is below 1.

    Examples:
        >>> overlap([[3.0, 2.0, 1.0]], [[9.0, 7.0, 8.0]], [[True] * 3], k=2)
        array([0.5])
    """
    return survival(teacher_scores, student_scores, mask, k, k)


def survival(
    teacher_scores: npt.ArrayLike,
    student_scores: npt.ArrayLike,
    mask: npt.ArrayLike,
    k: int,
    n: int,
) -> FloatArray:
    """Survival: the share of the teacher's first k that are in the student's first n.

    It measures a first-stage retriever: if the student passes n candidates to the
    teacher, this share of the teacher's first k is among them.

    Args:
        teacher_scores, student_scores: `(batch, list_size)`, each on its own scale.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        k: Number of the teacher's first candidates, at least 1.
        n: Number of candidates that the student passes on, at least 1.

    Returns:
        `(batch,)`, from 0 to 1; NaN for a list without real candidates.

    Raises:
        ValueError: As `relevant_ranks`, or if k or n is below 1.

    Examples:
        >>> survival([[3.0, 2.0, 1.0]], [[9.0, 7.0, 8.0]], [[True] * 3], k=2, n=3)
        array([1.])
    """
    check_cutoff("k", k)
    check_cutoff("n", n)
    teacher, student = _teacher_and_student(teacher_scores, student_scores, mask)
    wanted = in_top(teacher, k)
    return _ratio(
        np.count_nonzero(wanted & in_top(student, n), axis=1),
        np.count_nonzero(wanted, axis=1),
    )


def kendall_tau(
    teacher_scores: npt.ArrayLike,
    student_scores: npt.ArrayLike,
    mask: npt.ArrayLike,
    k: int,
) -> FloatArray:
    r"""Kendall's tau-b between teacher and student over the teacher's first k.

    The number of pairs in the same order minus those in opposite order, normalised:

    $$ \tau_b = (C - D) / \sqrt{(P - T_t)(P - T_s)} $$

    with $P$ pairs, $C$ of them in the same order, $D$ in opposite order, and $T_t$ and
    $T_s$ tied in the teacher's and the student's scores. Ties are not broken by
    position here. The tail, whose order is mostly noise, is not compared.

    Args:
        teacher_scores, student_scores: `(batch, list_size)`, each on its own scale.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        k: Number of the teacher's first candidates that are compared, at least 1.

    Returns:
        `(batch,)`, from -1 to 1; NaN if all scores compared are equal for the teacher
        or for the student, or fewer than two candidates are compared.

    Raises:
        ValueError: As `relevant_ranks`, or if k is below 1.

    Reference: Kendall (1945).

    Examples:
        >>> kendall_tau([[3.0, 2.0, 1.0]], [[9.0, 7.0, 8.0]], [[True] * 3], k=3)
        array([0.33333333])
    """
    teacher, student = _teacher_and_student(teacher_scores, student_scores, mask)
    head = first_k(teacher, k)
    taus = np.full(len(head), np.nan)
    for rows in chunks(len(head), k * k):
        t = _pair_signs(_scores_at(teacher[rows], head[rows]))
        s = _pair_signs(_scores_at(student[rows], head[rows]))
        distinct = np.sqrt(np.count_nonzero(t, axis=(1, 2))) * np.sqrt(
            np.count_nonzero(s, axis=(1, 2))
        )
        agreeing = (t * s).sum(axis=(1, 2), dtype=np.int64)
        np.divide(agreeing, distinct, out=taus[rows], where=distinct > 0)
    return taus


def rank_biased_overlap(
    teacher_scores: npt.ArrayLike,
    student_scores: npt.ArrayLike,
    mask: npt.ArrayLike,
    p: float = 0.9,
    k: int = 100,
) -> FloatArray:
    r"""RBO, rank-biased overlap: a mean overlap with weights that decrease with depth.

    With $A_d$ the share of the first $d$ candidates that teacher and student have in
    common:

    $$ \mathrm{RBO} = (1 - p) \sum_{d=1}^{k} p^{d-1} A_d + p^k A_k $$

    This is the extrapolated form: the agreement at depth k is assumed to continue.

    Args:
        teacher_scores, student_scores: `(batch, list_size)`, each on its own scale.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        p: Persistence, above 0 and below 1: the probability that a user continues to
            the next candidate. At 0.9 the first ten depths carry 65 % of the weight of
            the sum.
        k: The depth at which the comparison ends, at least 1.

    Returns:
        `(batch,)`, from 0 to 1; NaN for a list without real candidates.

    Raises:
        ValueError: As `relevant_ranks`, or if p is not between 0 and 1, or k is below
            1.

    Reference: Webber, Moffat and Zobel (2010), equation 23 for extrapolation.

    Examples:
        >>> rank_biased_overlap([[2.0, 1.0]], [[1.0, 2.0]], [[True] * 2], p=0.5)
        array([0.5])
    """
    if not 0 < p < 1:
        raise ValueError(f"`p` must be between 0 and 1. Received: p={p}")
    teacher, student = _teacher_and_student(teacher_scores, student_scores, mask)
    batch = len(teacher)
    row, depth = _depths_of_common_candidates(first_k(teacher, k), first_k(student, k))
    common = np.bincount(row * k + depth, minlength=batch * k).reshape(batch, k)
    candidates = np.count_nonzero(~np.isnan(teacher), axis=1)
    # Beyond the end of a short list both contain all candidates: the agreement stays 1.
    compared = np.minimum(np.arange(1, k + 1), np.maximum(candidates, 1)[:, None])
    agreement = common.cumsum(axis=1) / compared
    total = (1 - p) * (agreement @ p ** np.arange(k)) + p**k * agreement[:, -1]
    return np.where(candidates > 0, total, np.nan)


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


def _ratio(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> FloatArray:
    """The quotient of each list; NaN if the denominator is 0."""
    result: FloatArray = np.divide(
        numerator,
        denominator,
        out=np.full(len(numerator), np.nan),
        where=denominator > 0,
    )
    return result


def _teacher_and_student(
    teacher_scores: npt.ArrayLike, student_scores: npt.ArrayLike, mask: npt.ArrayLike
) -> tuple[Scores, Scores]:
    return (
        real_scores(teacher_scores, mask, name="teacher_scores"),
        real_scores(student_scores, mask, name="student_scores"),
    )


def _scores_at(scores: Scores, positions: npt.NDArray[np.int32]) -> Scores:
    """`(batch, k)`. The scores at the given positions, NaN at -1."""
    taken = np.take_along_axis(scores, np.maximum(positions, 0), axis=1)
    return np.where(positions >= 0, taken, np.nan)


def _pair_signs(scores: Scores) -> npt.NDArray[np.int8]:
    """`(batch, k, k)`. 1 if the first of a pair scores higher, -1 if lower, else 0."""
    first, second = scores[:, :, None], scores[:, None, :]
    return (first > second).astype(np.int8) - (first < second).astype(np.int8)


def _depths_of_common_candidates(
    teacher_first: npt.NDArray[np.int32], student_first: npt.NDArray[np.int32]
) -> tuple[IntArray, IntArray]:
    """Row and depth, from 0, from which on a candidate is in both top lists."""
    batch, k = teacher_first.shape
    # One number for each (row, candidate); the padding of the two sides never matches.
    width = 1 + max(teacher_first.max(initial=0), student_first.max(initial=0))
    offset = np.arange(batch)[:, None] * width
    teacher_key = np.where(teacher_first >= 0, teacher_first + offset, -1)
    student_key = np.where(student_first >= 0, student_first + offset, -2)
    _, teacher_at, student_at = np.intersect1d(
        teacher_key, student_key, return_indices=True
    )
    return teacher_at // k, np.maximum(teacher_at % k, student_at % k)
