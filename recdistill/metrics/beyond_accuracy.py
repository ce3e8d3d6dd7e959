"""Coverage, Gini index, popularity, novelty and diversity of recommended lists.

These metrics depend on the recommended items alone, not on relevance. They take `top`
`(batch, k)`: row numbers of recommended items in the catalogue, best first, padded with
-1, as `recdistill.lists.numpy_ranks.first_k` returns them.
"""

import numpy as np
import numpy.typing as npt
import scipy.sparse

from recdistill.lists.numpy_ranks import FloatArray, IntArray
from recdistill.metrics.ranking import ratio


def catalogue_coverage(top: npt.ArrayLike, n_items: int) -> float:
    """Catalogue coverage: the share of all items that appear in at least one list.

    Args:
        top: `(batch, k)`, integers; -1 is padding.
        n_items: Number of items in the catalogue, at least 1.

    Returns:
        From 0 to 1.

    Raises:
        ValueError: If `top` is not a matrix of integers between -1 and `n_items` - 1.

    Reference: Ge, Delgado-Battenfeld and Jannach (2010).

    Examples:
        >>> catalogue_coverage([[0, 1], [0, 2]], n_items=4)
        0.75
    """
    return float(np.count_nonzero(_times_recommended(top, n_items)) / n_items)


def gini_index(top: npt.ArrayLike, n_items: int) -> float:
    r"""Gini index of how often each item is recommended: concentration on few items.

    With $x_1 \le \dots \le x_n$ the numbers of lists that contain each item,

    $$ G = \frac{\sum_i (2 i - n - 1) \, x_i}{n \sum_i x_i}. $$

    Args:
        top: `(batch, k)`, integers; -1 is padding.
        n_items: Number of items in the catalogue, at least 1.

    Returns:
        0 if all items are recommended equally often, 1 - 1 / `n_items` if only one is;
        NaN if none is.

    Raises:
        ValueError: As `catalogue_coverage`.

    Reference: Fleder and Hosanagar (2009).

    Examples:
        >>> gini_index([[0, 1], [0, 2]], n_items=4)  # 2, 1, 1 and 0 times
        0.375
    """
    times = np.sort(_times_recommended(top, n_items))
    weights = 2.0 * np.arange(1, n_items + 1) - n_items - 1
    total = times.sum()
    return float(weights @ times / (n_items * total)) if total else float("nan")


def mean_popularity(top: npt.ArrayLike, popularity: npt.ArrayLike) -> FloatArray:
    """Mean popularity of the recommended items of each list (ARP).

    Args:
        top: `(batch, k)`, integers; -1 is padding.
        popularity: `(n_items,)`, for example the number of training interactions.

    Returns:
        `(batch,)`; NaN for an empty list.

    Raises:
        ValueError: As `catalogue_coverage`.

    Reference: Yin, Cui, Li, Yao and Chen (2012).

    Examples:
        >>> mean_popularity([[0, 1], [2, -1]], [10, 20, 4])
        array([15.,  4.])
    """
    return _mean_over_list(top, np.asarray(popularity, np.float64))


def novelty(top: npt.ArrayLike, popularity: npt.ArrayLike) -> FloatArray:
    r"""Novelty: mean self-information of the recommended items of each list, in bits.

    An item with share $p_i$ of all interactions has $-\log_2 p_i$ bits. One interaction
    is added to each item, so that an item without any has a finite value.

    Args:
        top: `(batch, k)`, integers; -1 is padding.
        popularity: `(n_items,)`, numbers of training interactions, at least 0.

    Returns:
        `(batch,)`; NaN for an empty list.

    Raises:
        ValueError: As `catalogue_coverage`, or if a popularity is negative.

    Reference: Zhou et al. (2010).

    Examples:
        >>> novelty([[0], [1]], [2, 0])  # shares 3/4 and 1/4
        array([0.4150375, 2.       ])
    """
    counts = np.asarray(popularity, np.float64) + 1
    if not (counts >= 1).all():
        raise ValueError(
            f"`popularity` must be at least 0. Received: {counts.min() - 1:g}"
        )
    return _mean_over_list(top, np.log2(counts.sum()) - np.log2(counts))


def intra_list_diversity(top: npt.ArrayLike, vectors: npt.ArrayLike) -> FloatArray:
    """Intra-list diversity: mean cosine distance between the items of each list.

    Args:
        top: `(batch, k)`, integers; -1 is padding.
        vectors: `(n_items, dim)`, for example indicators of categories. A vector of
            zeros has the distance 1 to all others.

    Returns:
        `(batch,)`, from 0 to 2; NaN for a list with fewer than two items.

    Raises:
        ValueError: As `catalogue_coverage`.

    Reference: Ziegler, McNee, Konstan and Lausen (2005).

    Examples:
        >>> intra_list_diversity([[0, 1], [0, 2]], [[1, 0], [2, 0], [0, 1]])
        array([0., 1.])
    """
    table = np.asarray(vectors, np.float64)
    rows = _checked_top(top, len(table))
    length = np.linalg.norm(table, axis=1, keepdims=True)
    unit = np.divide(table, length, out=np.zeros_like(table), where=length > 0)
    real = rows >= 0
    n = real.sum(1)
    # Row by row the items of a list, so that no array has all their vectors.
    ends = np.concatenate([[0], np.cumsum(n)])
    chosen = scipy.sparse.csr_array(
        (np.ones(ends[-1]), rows[real], ends), shape=(len(rows), len(table))
    )
    # The cosines of all pairs sum to the squared norm of the sum, minus the diagonal.
    total = ((chosen @ unit) ** 2).sum(1) - chosen @ (unit**2).sum(1)
    pairs = n * (n - 1.0)
    return ratio(pairs - total, pairs)


def _times_recommended(top: npt.ArrayLike, n_items: int) -> IntArray:
    rows = _checked_top(top, n_items)
    return np.bincount(rows[rows >= 0], minlength=n_items)


def _mean_over_list(top: npt.ArrayLike, values: FloatArray) -> FloatArray:
    rows = _checked_top(top, len(values))
    real = rows >= 0
    return ratio(np.where(real, values[rows], 0.0).sum(1), real.sum(1))


def _checked_top(top: npt.ArrayLike, n_items: int) -> IntArray:
    rows = np.asarray(top)
    if rows.ndim != 2 or rows.dtype.kind not in "iu":
        raise ValueError(
            "`top` must be a matrix of integers (batch, k). Received: "
            f"{rows.dtype} of shape {rows.shape}"
        )
    if rows.size and not (-1 <= rows.min() and rows.max() < n_items):
        raise ValueError(
            f"`top` must be between -1 and {n_items - 1}, the last item. Received: "
            f"{rows.min()} to {rows.max()}"
        )
    return rows.astype(np.int64)
