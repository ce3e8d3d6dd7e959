r"""SLIT: the linear model of transitions from a history to the next item.

SLIT (Choe et al., 2021, "Session-aware Linear Item-Item Models for Session-based
Recommendation") predicts what follows a history. Row $s$ of $S$ has the weights of the
items of a history, and row $s$ of $T$ is 1 for the items that were chosen next:

$$ \min_B \lVert T - SB \rVert^2 + \lambda \lVert B \rVert^2
   \quad\Rightarrow\quad B = (S^\top S + \lambda I)^{-1} S^\top T $$

Unlike EASE (`recdistill.models.linear`), $B$ is not symmetric in time: it knows that a
sequel follows the first film. The two make different errors, so an ensemble of both is
better than either.

A training list is scored by a matrix that was fitted without the fold of its query
(`recdistill.models.cross_fitting`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import scipy.linalg
import scipy.sparse
import tensorflow as tf

from recdistill.features.encoders import FIRST
from recdistill.models.cross_fitting import score_by_fold
from recdistill.models.linear import HistoryScores, times

FOLDS = 4
"""Number of folds of the queries."""

PAIR_BYTES = 4 * (2 * FOLDS + FOLDS + 1) + 8 * 4
"""Bytes of memory that fitting takes for each pair of items: the sums of each fold and
the results in single precision, and four matrices in double precision."""


class Examples(NamedTuple):
    """Histories with the items that were chosen next.

    Attributes:
        history: `(lists, length)` int, vocabulary indices, the newest first, padded
            with 0.
        chosen: `(lists, n)` int, vocabulary indices, padded with 0.
        fold: `(lists,)` int, the fold of each list's query.
    """

    history: np.ndarray
    chosen: np.ndarray
    fold: np.ndarray


@keras.saving.register_keras_serializable("recdistill")
class Transitions(HistoryScores):
    """SLIT scores of candidates for a history, standardised for each query.

    Args:
        size: Number of items in the model, the most frequent ones.
        decay: Weight of a history item relative to the next more recent one.
        floor: Smallest weight of a history item.

    Examples:
        Item 1 (index 3) followed item 0 (index 2) in all examples.

        >>> layer = Transitions(3, decay=0.9, floor=0.05)
        >>> layer.build()
        >>> examples = Examples(
        ...     np.array([[2], [2], [3]]), np.array([[3], [3], [4]]), np.arange(3)
        ... )
        >>> layer.set_weights([layer.fitted([examples], 1.0)])
        >>> layer(np.array([[2]]), np.array([3, 4])).numpy().round(2)
        array([[ 1., -1.]], dtype=float32)
    """

    def build(self, input_shape: Any = None) -> None:
        """Creates the matrices: that of all folds, then those without each fold."""
        self.matrices = self.add_weight(
            name="matrices",
            shape=(FOLDS + 1, self.size, self.size),
            initializer="zeros",
            trainable=False,
        )
        self.built = True

    def fitted(self, examples: Iterable[Examples], l2: float) -> np.ndarray:
        """The matrices B, `(FOLDS + 1, size, size)` float32.

        Args:
            examples: The training examples, in pieces.
            l2: Ridge penalty, positive, in examples.

        Raises:
            ValueError: If `l2` is not positive.
        """
        if not l2 > 0.0:
            raise ValueError(f"`l2` must be positive. Received: l2={l2}")
        shape = (FOLDS, self.size, self.size)
        gram, cross = np.zeros(shape, "float32"), np.zeros(shape, "float32")
        for piece in examples:
            for fold in np.unique(piece.fold):
                rows = piece.fold == fold
                source = self._weighted(piece.history[rows])
                target = _indicators(piece.chosen[rows], self.size)
                gram[fold] += (source.T @ source).toarray()
                cross[fold] += (source.T @ target).toarray()
        found = np.empty((FOLDS + 1, self.size, self.size), "float32")
        for left_out in range(-1, FOLDS):
            kept = [fold for fold in range(FOLDS) if fold != left_out]
            total = gram[kept].sum(axis=0, dtype="float64")
            total[np.diag_indices(self.size)] += l2
            right = cross[kept].sum(axis=0, dtype="float64")
            factor = scipy.linalg.cho_factor(total, overwrite_a=True)
            found[left_out + 1] = scipy.linalg.cho_solve(
                factor, right, overwrite_b=True
            )
        return found

    def _weighted(self, history: np.ndarray) -> scipy.sparse.csr_array:
        """Histories as rows of weights, `(lists, size)`."""
        row, age = np.nonzero((history >= FIRST) & (history < FIRST + self.size))
        weight = self.floor + (1.0 - self.floor) * self.decay**age
        return scipy.sparse.csr_array(
            (weight.astype("float32"), (row, history[row, age] - FIRST)),
            shape=(len(history), self.size),
        )

    def _scores(self, rows: tf.Tensor, training_row: tf.Tensor | None) -> tf.Tensor:
        if training_row is None:
            return times(rows, self.matrices[0])
        scorers = [
            lambda part, number=number: times(part, self.matrices[number + 1])
            for number in range(FOLDS)
        ]
        return score_by_fold(rows, training_row, scorers)


def _indicators(chosen: np.ndarray, size: int) -> scipy.sparse.csr_array:
    """Chosen items as rows of zeros and ones, `(lists, size)`."""
    row, place = np.nonzero((chosen >= FIRST) & (chosen < FIRST + size))
    ones = np.ones(len(row), "float32")
    return scipy.sparse.csr_array(
        (ones, (row, chosen[row, place] - FIRST)), shape=(len(chosen), size)
    )
