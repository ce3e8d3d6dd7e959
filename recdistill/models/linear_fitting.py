r"""Fits the inverse matrix of EASE exactly, or approximately for large data.

EASE needs $P = (X^\top X + \lambda I)^{-1}$ of the query × item matrix $X$. Three forms
of the same matrix, of which `choose_form` takes the first that fits into memory:

* **Item inverse**, exact: $P$ itself, `(items, items)`.
* **Query inverse**, exact, for fewer queries than items (Woodbury identity): with the
  Cholesky factor $L$ of $X X^\top + \lambda I$ and $G = X^\top L^{-\top} /
  \sqrt\lambda$, `(items, queries)`, $P = I / \lambda - G G^\top$.
* **Low rank**, an approximation: $X^\top X$ is replaced by its leading eigenvectors
  plus a diagonal $D - \lambda I$ for the rest, so that each item nearly keeps its
  number of interactions. With the eigenvectors $V$ and eigenvalues $\sigma^2$ of
  $D^{-1/2} X^\top X D^{-1/2}$ (randomised subspace iteration; Halko et al., 2011),
  $P = D^{-1} - G G^\top$ and $G = D^{-1/2} V \,\mathrm{diag}(\sigma / \sqrt{1 +
  \sigma^2})$.

The exact forms are computed in float64, because the condition number of $X^\top X +
\lambda I$ is about the number of interactions of the most frequent items divided by
$\lambda$, and stored in float32. The low rank is computed in float32, except for its
small matrices: its own error is far larger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.linalg
import scipy.sparse

Form = Literal["item_inverse", "query_inverse", "low_rank"]

BLOCK = 1_024
"""Rows of a matrix that are computed at once."""

LAPACK_ORDER = 16_384
"""Largest order of a matrix that LAPACK factorises: 2³¹ bytes.

LAPACK's integers have 32 bits, and libraries crash without a message above a size of
their own. Larger matrices are inverted in blocks.
"""

MAX_RANK = 512
"""Largest rank of the approximation; `docs/experiments.md` compares ranks."""

MIN_RANK = 16
"""Smallest rank of the approximation; with fewer it would rank by popularity."""

EXTRA_RANK = 16
"""Vectors of the subspace iteration in addition to the rank."""

PASSES = 6
"""Products with the data in the subspace iteration."""


@dataclass(frozen=True)
class LinearForm:
    """The form of a linear item model.

    Attributes:
        form: "item_inverse", "query_inverse" or "low_rank".
        rank: Number of columns of the factor; 0 for "item_inverse".
        fit_bytes: Memory that fitting needs at most, without the training rows.
    """

    form: Form
    rank: int
    fit_bytes: int


def choose_form(
    queries: int,
    items: int,
    memory_bytes: int,
    wanted: Form | Literal["auto"] = "auto",
) -> LinearForm:
    """The form of a linear item model: the first that fits into the memory.

    The choice depends on the arguments only, so that every machine makes the same.

    Args:
        queries: Number of training rows.
        items: Number of items in the model.
        memory_bytes: Memory that fitting may use. It limits the forms and the rank.
        wanted: The form, or "auto".

    Raises:
        ValueError: If no form fits, or the wanted one is not possible.

    Examples:
        >>> choose_form(943, 1_682, 2**30).form
        'item_inverse'
        >>> choose_form(1_000, 50_000, 2**30).form
        'query_inverse'
        >>> choose_form(1_000_000, 50_000, 2**30)
        LinearForm(form='low_rank', rank=512, fit_bytes=528000000)
    """
    # The matrix in float64 while it is inverted, then twice in float32.
    exact = LinearForm("item_inverse", 0, 16 * items * items)
    # The factor twice in float32, and a block of it in float64.
    dual = LinearForm("query_inverse", queries, 8 * queries * (queries + items))
    # Two subspaces, a scaled copy, a product of a block, and one copy more in float32.
    per_rank = 20 * items
    rank = min(MAX_RANK, queries, items, memory_bytes // per_rank - EXTRA_RANK)
    low = LinearForm("low_rank", rank, per_rank * (rank + EXTRA_RANK))
    possible = {form.form: form for form in (exact, dual, low)}
    if wanted == "auto":
        if queries > LAPACK_ORDER or queries >= items:
            del possible["query_inverse"]
        fitting = [form for form in (exact, low) if form.fit_bytes <= memory_bytes]
        if "query_inverse" in possible and dual.fit_bytes <= memory_bytes:
            fitting.insert(exact in fitting, dual)
        chosen = fitting[0] if fitting else low
    else:
        chosen = possible[wanted]
    if chosen is dual and queries > LAPACK_ORDER:
        raise ValueError(
            f"`form` can be query_inverse for at most {LAPACK_ORDER:,} training rows. "
            f"Received: {queries:,}. Choose item_inverse, low_rank or auto."
        )
    if chosen is low and rank < min(MIN_RANK, queries, items):
        raise ValueError(
            f"`memory_gib` must be at least "
            f"{per_rank * (MIN_RANK + EXTRA_RANK) / 2**30:.2f} for a linear item model "
            f"of {items:,} items. Received: {memory_bytes / 2**30:.2f}. Raise it, or "
            "lower `max_items`."
        )
    return chosen


def fit_inverse(training_rows: scipy.sparse.csr_array, l2: float) -> np.ndarray:
    """Fits EASE: returns the matrix P, `(items, items)` float32.

    Args:
        training_rows: `(queries, items)`; 1 where the query interacted with the item
            in the training part.
        l2: Ridge penalty, positive, in interactions.

    Raises:
        ValueError: If `l2` is not positive or too small for the data, or if there are
            no items.

    Examples:
        The first query chose both items, the second query the first item only.

        >>> training_rows = scipy.sparse.csr_array(np.array([[1.0, 1.0], [1.0, 0.0]]))
        >>> fit_inverse(training_rows, l2=1.0)  # the inverse of [[3, 1], [1, 2]]
        array([[ 0.4, -0.2],
               [-0.2,  0.6]], dtype=float32)
    """
    _check(training_rows, l2)
    matrix = _gram(training_rows.T.tocsr(), l2)
    _sweep(matrix, l2)
    inverse = np.empty(matrix.shape, "float32")
    for start, stop in _blocks(len(matrix)):
        lower = -matrix[start:stop, :stop]
        inverse[start:stop, :stop] = lower
        inverse[:start, start:stop] = lower[:, :start].T
        own = inverse[start:stop, start:stop]
        own[:] = np.tril(own) + np.tril(own, -1).T
    return inverse


def fit_query_inverse(
    training_rows: scipy.sparse.csr_array, l2: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fits EASE by the smaller matrix of the queries: exactly the P of `fit_inverse`.

    Args:
        training_rows: As for `fit_inverse`, at most `LAPACK_ORDER` rows.
        l2: Ridge penalty, positive, in interactions.

    Returns:
        The factor G, `(items, queries)`, and the diagonal d, `(items,)`, of
        `P = diag(d) - G @ G.T`, in float32; they are computed in float64.

    Raises:
        ValueError: As for `fit_inverse`.

    Examples:
        >>> training_rows = scipy.sparse.csr_array(np.array([[1.0, 1.0], [1.0, 0.0]]))
        >>> factor, diagonal = fit_query_inverse(training_rows, l2=1.0)
        >>> np.round(np.diag(diagonal) - factor @ factor.T, 4)
        array([[ 0.4, -0.2],
               [-0.2,  0.6]], dtype=float32)
    """
    _check(training_rows, l2)
    queries, items = training_rows.shape
    gram = _gram(training_rows, l2)
    # The transpose has the order in memory that LAPACK overwrites without a copy.
    lower, failed = scipy.linalg.lapack.dpotrf(gram.T, lower=True, overwrite_a=True)
    if failed:
        raise _too_small(l2)
    columns = training_rows.T.tocsr()
    factor = np.empty((items, queries), "float32")
    for start, stop in _blocks(items):
        block = columns[start:stop].toarray().astype("float64").T
        solved = scipy.linalg.solve_triangular(
            lower, block, lower=True, overwrite_b=True, check_finite=False
        )
        factor[start:stop] = solved.T / np.sqrt(l2)
    return factor, np.full(items, 1.0 / l2, "float32")


def fit_low_rank(
    training_rows: scipy.sparse.csr_array, l2: float, rank: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Approximates EASE by a factor of low rank and a diagonal.

    Args:
        training_rows: As for `fit_inverse`.
        l2: Ridge penalty, positive, in interactions.
        rank: Number of eigenvectors.

    Returns:
        The factor G, `(items, rank)`, and the diagonal d, `(items,)`, of
        `P = diag(d) - G @ G.T`; and w, `(rank,)`: `G @ (w * (G.T @ x))` is `P @ x` for
        the part of a training row x that the factor represents. All float32.

    Raises:
        ValueError: As for `fit_inverse`.
    """
    _check(training_rows, l2)
    rows = training_rows.astype("float32")
    items = rows.shape[1]
    width = min(rank + EXTRA_RANK, items)
    count = np.asarray(rows.multiply(rows).sum(axis=0), "float64").ravel()
    # What the eigenvectors explain is known after the first pass.
    diagonal = l2 + count / 2
    image = np.random.default_rng(0).standard_normal((items, width), "float32")
    basis = _orthonormal(image)
    for number in range(PASSES):
        scale = np.sqrt(1.0 / diagonal).astype("float32")[:, None]
        image = _gram_product(rows, scale * basis)
        image *= scale
        values, turn = np.linalg.eigh((basis.T @ image).astype("float64"))
        if number == PASSES - 1:
            break
        explained = np.empty(items)
        for start, stop in _blocks(items):
            kept = np.square(basis[start:stop] @ turn[:, -rank:])
            explained[start:stop] = kept @ np.maximum(values[-rank:], 0.0)
        rest = l2 + diagonal * np.maximum(count / diagonal - explained, 0.0)
        if number < PASSES - 2:
            image *= np.sqrt(diagonal / rest).astype("float32")[:, None]
            diagonal = rest
        del basis
        basis = _orthonormal(image)
    del image
    variance = np.maximum(values[::-1][:rank], 0.0)
    vectors = basis @ turn[:, ::-1][:, :rank].astype("float32")
    del basis
    factor = vectors
    factor *= scale
    factor *= np.sqrt(variance / (1 + variance)).astype("float32")
    own = np.divide(1, variance, where=variance > 1e-9, out=np.zeros(len(variance)))
    return factor, (1.0 / diagonal).astype("float32"), own.astype("float32")


def _check(training_rows: scipy.sparse.csr_array, l2: float) -> None:
    if not l2 > 0:
        raise ValueError(f"`l2` must be positive. Received: l2={l2}")
    if training_rows.shape[1] == 0:
        raise ValueError(
            "`training_rows` must have an item. Received: a matrix without items"
        )


def _too_small(l2: float) -> ValueError:
    return ValueError(f"`l2` is too small for this data. Received: l2={l2}")


def _blocks(size: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK)]


def _gram(rows: scipy.sparse.csr_array, l2: float) -> np.ndarray:
    """`rows @ rows.T + l2 * I`, dense float64, without a sparse product of its size."""
    gram = np.empty((rows.shape[0], rows.shape[0]))
    columns = rows.T.tocsr()
    for start, stop in _blocks(len(gram)):
        gram[start:stop] = (rows[start:stop] @ columns).toarray()
    gram[np.diag_indices_from(gram)] += l2
    return gram


def _gram_product(rows: scipy.sparse.csr_array, matrix: np.ndarray) -> np.ndarray:
    """`rows.T @ (rows @ matrix)`, without an array of the number of rows."""
    total = np.zeros_like(matrix)
    step = 16 * BLOCK
    for start in range(0, rows.shape[0], step):
        part = rows[start : start + step]
        total += part.T @ (part @ matrix)
    return total


def _orthonormal(vectors: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the columns, `(rows, columns)`, with one copy of them."""
    columns = np.asfortranarray(vectors)
    found, _ = scipy.linalg.qr(
        columns, mode="economic", overwrite_a=True, check_finite=False
    )
    return np.asarray(found)


def _sweep(matrix: np.ndarray, l2: float) -> None:
    """Turns a symmetric positive definite matrix into minus its inverse, in place.

    The sweep operator in blocks (Goodnight, 1979). Only the lower triangle is read and
    written. All work is in products of blocks; LAPACK sees one block at a time.
    """
    size = len(matrix)
    for start, stop in _blocks(size):
        pivot = matrix[start:stop, start:stop]
        factor, failed = scipy.linalg.lapack.dpotrf(pivot, lower=True)
        if failed:
            raise _too_small(l2)
        lower = np.tril(scipy.linalg.lapack.dpotri(factor, lower=True)[0])
        inverse = lower + np.tril(lower, -1).T
        panel = np.concatenate(
            [matrix[start:stop, :start].T, pivot, matrix[stop:, start:stop]]
        )
        scaled = panel @ inverse
        for low, high in _blocks(size):
            if low != start:
                matrix[low:high, :high] -= scaled[low:high] @ panel[:high].T
        matrix[start:stop, :start] = scaled[:start].T
        matrix[stop:, start:stop] = scaled[stop:]
        matrix[start:stop, start:stop] = -inverse
