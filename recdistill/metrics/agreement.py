"""Agreement of two rankings: overlap, survival, Kendall's tau, Spearman's rho and RBO.

The functions take arrays `(batch, list_size)` and return `(batch,)` in float64. Padding
never ranks. The scores of teacher and student may have different scales.
"""

import numpy as np
import numpy.typing as npt

from recdistill.lists.numpy_ranks import (
    FloatArray,
    IntArray,
    Scores,
    check_cutoff,
    chunks,
    first_k,
    in_top,
    real_scores,
)
from recdistill.metrics.ranking import ratio


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
    return ratio(
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


def spearman_rho(
    teacher_scores: npt.ArrayLike,
    student_scores: npt.ArrayLike,
    mask: npt.ArrayLike,
    k: int,
) -> FloatArray:
    r"""Spearman's rho between teacher and student over the teacher's first k.

    The correlation of the ranks among the compared candidates; tied candidates share
    their mean rank.

    Args:
        teacher_scores, student_scores: `(batch, list_size)`, each on its own scale.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        k: Number of the teacher's first candidates that are compared, at least 1.

    Returns:
        `(batch,)`, from -1 to 1; NaN if all scores compared are equal for the teacher
        or for the student, or fewer than two candidates are compared.

    Raises:
        ValueError: As `relevant_ranks`, or if k is below 1.

    Reference: Spearman (1904).

    Examples:
        >>> spearman_rho([[3.0, 2.0, 1.0]], [[9.0, 7.0, 8.0]], [[True] * 3], k=3)
        array([0.5])
    """
    teacher, student = _teacher_and_student(teacher_scores, student_scores, mask)
    head = first_k(teacher, k)
    t, s = (_centred_ranks(_scores_at(scores, head)) for scores in (teacher, student))
    return ratio((t * s).sum(1), np.sqrt((t**2).sum(1)) * np.sqrt((s**2).sum(1)))


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
    """Row and depth (from 0) at which each common candidate is in both top lists."""
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


def _centred_ranks(scores: Scores) -> FloatArray:
    """`(batch, k)`. Ranks minus their mean in each row; 0 where the score is NaN."""
    from scipy.stats import rankdata  # The import takes a second.

    ranks = rankdata(scores, axis=1, nan_policy="omit") if scores.size else scores
    real = ~np.isnan(scores)
    mean = np.where(real, ranks, 0.0).sum(1) / np.maximum(real.sum(1), 1)
    return np.where(real, ranks - mean[:, None], 0.0)
