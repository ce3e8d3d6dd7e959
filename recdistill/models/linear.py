r"""EASE: the linear item model in closed form.

EASE (Steck, 2019, "Embarrassingly Shallow Autoencoders for Sparse Data") predicts the
row $x_u$ of a query in the binary query × item matrix $X$ from itself, with an item to
item matrix $B$ whose diagonal is zero:

$$ \min_B \lVert X - XB \rVert^2 + \lambda \lVert B \rVert^2, \; \mathrm{diag}(B) = 0
   \quad\Rightarrow\quad P = (X^\top X + \lambda I)^{-1}, \;
   B_{ij} = -P_{ij} / P_{jj} \; (i \ne j) $$

Two additions make it a good teacher:

* **Recency.** History items have the weights $a_h = \phi + (1 - \phi)\,\delta^{age(h)}$
  instead of 1, so the most recent items count most.
* **Leave one query out.** A row that was used to fit $B$ gets overconfident scores,
  which are poor training targets. Removing one row is a rank-one change of $X^\top X$,
  so the matrix without this row follows in closed form (Sherman & Morrison, 1950): with
  $v = P x_u$ and $s = 1 - x_u^\top v$,

  $$ P^{(-u)} = P + v v^\top / s. $$

  Scores of training lists under $P^{(-u)}$ are distributed like the scores of new
  queries. The cost is one additional product.

For large data $P$ is a diagonal minus a factor times its transpose;
`recdistill.models.linear_fitting` describes the three forms and fits them. With many
items such a factor scores only the candidates of a list
(`recdistill.models.low_rank_scores`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf

from recdistill.features.encoders import FIRST
from recdistill.models.candidate_table import CandidateTable, CatalogueModel
from recdistill.models.linear_fitting import (
    Form,
    fit_inverse,
    fit_low_rank,
    fit_query_inverse,
)
from recdistill.models.low_rank_scores import LowRank, moments

SPARSE_COST = 100
"""Cost of a non-zero entry in the sparse product, relative to the dense product."""

SCORES_AT_ONCE = 4_000_000
"""Number of scores `(queries, items)` that the layer computes at once."""

GATHERED_AT_ONCE = 16_000_000
"""Numbers of the factor that are gathered at once for the candidates of some lists."""

ITEMS_SCORED_WHOLE = 16_384
"""Largest number of items that a factor scores for each list. Of more items, it scores
the candidates, and has mean and variance of the others from sums. An item inverse and
the matrices of transitions of more items do not fit into memory by default."""

ITEMS_OF_A_COLUMN = 10
"""Up to so many items for each column of the factor, they are scored for each list: the
sums of a list cost the square of the columns."""

ROUNDING = 16 * float(np.finfo("float32").eps)
"""Relative deviation of a row's scores below which they are considered equal."""


class HistoryScores(keras.layers.Layer):  # type: ignore[misc]
    """Base class of linear scores of candidates for a history.

    A history item of age `a` has the weight `floor + (1 - floor) * decay ** a`. Scores
    are z-scores over the items of the model that are not in the history. They are
    therefore comparable between long and short histories, and do not depend on the
    list.

    Args:
        size: Number of items in the model, the most frequent ones.
        decay: Weight of a history item relative to the next more recent one.
        floor: Smallest weight of a history item.
    """

    def __init__(self, size: int, decay: float, floor: float, **kwargs: Any) -> None:
        # Half precision would be too coarse for the sums over a history.
        super().__init__(**{"trainable": False, "dtype": "float32", **kwargs})
        self.size, self.decay, self.floor = size, decay, floor

    def call(
        self,
        history: tf.Tensor,
        candidates: tf.Tensor,
        training_row: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Scores candidates for histories.

        Args:
            history: `(batch, length)` int, indices in the vocabulary of item ids, the
                newest first, padded with 0.
            candidates: `(list_size,)` or `(batch, list_size)` int, indices in the same
                vocabulary.
            training_row: `(batch, n)` int, the training row of each query, padded with
                0. If given, the scores are those of a model fitted without that row.

        Returns:
            `(batch, list_size)` float32; 0 for candidates that are not in the model.
        """
        history, candidates = map(tf.convert_to_tensor, (history, candidates))
        own = None if training_row is None else tf.convert_to_tensor(training_row)
        at_once = self._lists_at_once(history, candidates, own)

        def block(start: Any) -> tf.Tensor:
            stop = start + at_once
            return self._standardised(
                history[start:stop],
                candidates if candidates.shape.rank == 1 else candidates[start:stop],
                None if own is None else own[start:stop],
            )

        batch, most = history.shape[0], tf.get_static_value(at_once)
        if batch is not None and most is not None and batch <= most:
            scores = block(0)
        else:
            scores = _in_blocks(block, tf.shape(history)[0], at_once)
        return tf.ensure_shape(scores, [history.shape[0], candidates.shape[-1]])

    def _lists_at_once(
        self, history: tf.Tensor, candidates: tf.Tensor, training_row: tf.Tensor | None
    ) -> Any:
        """Number of lists that are scored at once."""
        return max(1, SCORES_AT_ONCE // self.size)

    def _standardised(
        self, history: tf.Tensor, candidates: tf.Tensor, training_row: tf.Tensor | None
    ) -> tf.Tensor:
        """The scores of some of the histories."""
        rows = self._rows(history, self._weight(history))
        scores = _standardise(self._scores(rows, training_row), free=rows == 0.0)
        column = tf.clip_by_value(candidates - FIRST, 0, self.size - 1)
        known = (candidates >= FIRST) & (candidates < FIRST + self.size)
        batch_dims = candidates.shape.rank - 1
        picked = tf.gather(scores, column, axis=1, batch_dims=batch_dims)
        return tf.where(known, picked, tf.zeros_like(picked))

    def _weight(self, history: tf.Tensor) -> tf.Tensor:
        """The weight of each place of the histories, `(batch, length)`."""
        age = tf.range(tf.shape(history)[1], dtype="float32")
        weight = self.floor + (1.0 - self.floor) * self.decay**age
        return tf.broadcast_to(weight, tf.shape(history))

    def _rows(self, index: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
        """Adds up the weights of indices `(batch, n)` in dense rows `(batch, size)`."""
        batch = tf.shape(index, tf.int64)[0]
        index = tf.cast(index, tf.int64)
        inside = (index >= FIRST) & (index < FIRST + self.size)
        place = tf.range(batch)[:, None] * self.size + index - FIRST
        # `unsorted_segment_sum` ignores negative places.
        place = tf.reshape(tf.where(inside, place, -1), [-1])
        weight = tf.reshape(weight, [-1])
        flat = tf.math.unsorted_segment_sum(weight, place, batch * self.size)
        return tf.reshape(flat, [batch, self.size])

    def _scores(self, rows: tf.Tensor, training_row: tf.Tensor | None) -> tf.Tensor:
        """Scores of all items for weighted histories, both `(batch, size)`."""
        raise NotImplementedError(f"{type(self).__name__} must define _scores.")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        own = {"size": self.size, "decay": self.decay, "floor": self.floor}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("recdistill")
class Affinity(HistoryScores):
    """EASE scores of candidates for a history, standardised for each query.

    Args:
        size: Number of items in the model, the most frequent ones.
        decay: Weight of a history item relative to the next more recent one.
        floor: Smallest weight of a history item.
        form: Form of the matrix P; see `recdistill.models.linear_fitting`.
        rank: Number of columns of the factor; 0 for the form "item_inverse".

    Examples:
        After item 1 (index 3), item 0 has the highest score of the other three.

        >>> training_rows = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1.0]])
        >>> layer = Affinity(4, decay=0.9, floor=0.05)
        >>> layer.build()
        >>> layer.set_weights(layer.fitted(scipy.sparse.csr_array(training_rows), 1.0))
        >>> layer(np.array([[3, 0, 0]]), np.array([2, 4, 5])).numpy().round(2)
        array([[ 1.3 , -0.16, -1.14]], dtype=float32)
    """

    def __init__(
        self,
        size: int,
        decay: float,
        floor: float,
        form: Form = "item_inverse",
        rank: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(size, decay, floor, **kwargs)
        self.form, self.rank = form, rank

    def build(self, input_shape: Any = None) -> None:
        """Creates the weights, as zeros; `set_weights` or a file sets the values."""
        shapes: dict[str, tuple[int, ...]] = {"inverse": (self.size, self.size)}
        if self.form != "item_inverse":
            shapes = {"factor": (self.size, self.rank), "diagonal": (self.size,)}
        if self.form == "low_rank":
            shapes["own_weight"] = (self.rank,)
        if self.form == "low_rank" or self._scores_candidates_only:
            shapes["score_mean"] = (self.rank,)
            shapes["score_moment"] = (self.rank, self.rank)
        for name, shape in shapes.items():
            weight = self.add_weight(
                name=name, shape=shape, initializer="zeros", trainable=False
            )
            setattr(self, name, weight)
        self.built = True

    def fitted(
        self, training_rows: scipy.sparse.csr_array, l2: float
    ) -> list[np.ndarray]:
        """The weights of the model that is fitted on the training rows.

        Args:
            training_rows: `(queries, size)`; 1 where the query interacted with the item
                in the training part.
            l2: Ridge penalty, positive, in interactions.

        Raises:
            ValueError: If `l2` is not positive or too small for the data.
        """
        if self.form == "item_inverse":
            return [fit_inverse(training_rows, l2)]
        if self.form == "query_inverse":
            factor, diagonal = fit_query_inverse(training_rows, l2)
            if not self._scores_candidates_only:
                return [factor, diagonal]
            return [factor, diagonal, *moments(factor, diagonal)]
        factor, diagonal, own_weight = fit_low_rank(training_rows, l2, self.rank)
        return [factor, diagonal, own_weight, *moments(factor, diagonal)]

    @property
    def _scores_candidates_only(self) -> bool:
        fewest = max(ITEMS_SCORED_WHOLE, ITEMS_OF_A_COLUMN * self.rank)
        return self.form != "item_inverse" and self.size > fewest

    def _lists_at_once(
        self, history: tf.Tensor, candidates: tf.Tensor, training_row: tf.Tensor | None
    ) -> Any:
        if not self._scores_candidates_only:
            return super()._lists_at_once(history, candidates, training_row)
        parts = [history, *([] if training_row is None else [training_row])]
        if candidates.shape.rank == 2:
            parts.append(candidates)
        places = tf.add_n([tf.shape(part)[1] for part in parts])
        each = places * self.rank + tf.shape(candidates)[-1]
        return tf.maximum(1, GATHERED_AT_ONCE // tf.maximum(1, each))

    def _standardised(
        self, history: tf.Tensor, candidates: tf.Tensor, training_row: tf.Tensor | None
    ) -> tf.Tensor:
        if not self._scores_candidates_only:
            return super()._standardised(history, candidates, training_row)
        model = LowRank(
            self.factor,
            self.diagonal,
            self.own_weight if self.form == "low_rank" else None,
            self.score_mean,
            self.score_moment,
        )
        return model.scores(history, self._weight(history), candidates, training_row)

    def _product(self, rows: tf.Tensor) -> tf.Tensor:
        """`rows @ P`."""
        if self.form == "item_inverse":
            return times(rows, self.inverse)
        along = times(rows, self.factor)
        return rows * self.diagonal - tf.matmul(along, self.factor, transpose_b=True)

    def _own_product(self, own: tf.Tensor) -> tf.Tensor:
        """`own @ P` for training rows.

        For a low rank it is that of the part of a row that the factor represents: only
        this part is surely in the approximated matrix, and can be left out of it.
        """
        if self.form != "low_rank":
            return self._product(own)
        along = times(own, self.factor) * self.own_weight
        return tf.matmul(along, self.factor, transpose_b=True)

    def _scores(self, rows: tf.Tensor, training_row: tf.Tensor | None) -> tf.Tensor:
        if self.form == "item_inverse":
            diagonal = tf.linalg.diag_part(self.inverse)
        else:
            diagonal = self.diagonal - tf.reduce_sum(self.factor * self.factor, axis=1)
        total = self._product(rows) - rows * diagonal
        if training_row is None:
            return -total / diagonal
        own = self._rows(training_row, tf.ones(tf.shape(training_row)))
        v = self._own_product(own)
        s = 1.0 - tf.reduce_sum(own * v, axis=1, keepdims=True)
        along = tf.reduce_sum(rows * v, axis=1, keepdims=True) - rows * v
        return -(total + along * v / s) / (diagonal + v * v / s)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "form": self.form, "rank": self.rank}


@keras.saving.register_keras_serializable("recdistill")
class LinearTeacher(CatalogueModel):
    """A linear item model as a teacher.

    Args:
        scores: The fitted layer: `Affinity` (EASE) or
            `recdistill.models.transitions.Transitions`.
        catalogue_items: `(items,)` int32, the vocabulary index of each catalogue row.
        history: Name of the query's history feature.
    """

    def __init__(
        self,
        scores: HistoryScores,
        catalogue_items: np.ndarray | CandidateTable,
        history: str = "history",
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"name": "linear_teacher", **kwargs})
        self.scores, self._history = scores, history
        if not isinstance(catalogue_items, CandidateTable):
            items = np.asarray(catalogue_items, "int32")
            catalogue_items = CandidateTable({"item_id": items})
        self.candidate_table = catalogue_items
        if not scores.built:
            scores.build()
        self.built = True

    def call(self, batch: Mapping[str, Any], training: bool = False) -> tf.Tensor:
        """Scores the batch's candidates, `(batch, list_size)`."""
        items = self.candidate_table(batch["candidate_index"])["item_id"]
        training_row = batch.get("training_row")
        return self.scores(batch["query"][self._history], items, training_row)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; the catalogue as a checksum."""
        own = {
            "scores": self.scores,
            "catalogue_items": self.candidate_table,
            "history": self._history,
        }
        return {**super().get_config(), **keras.saving.serialize_keras_object(own)}


def _in_blocks(
    block: Callable[[Any], tf.Tensor], rows: tf.Tensor, at_once: int
) -> tf.Tensor:
    """Concatenates `block(0)`, `block(at_once)`, …, computed one after the other."""
    count = tf.maximum(1, -(-rows // at_once))
    done = tf.TensorArray("float32", size=count, infer_shape=False)
    _, done = tf.while_loop(
        lambda number, _: number < count,
        lambda number, done: (
            number + 1,
            done.write(number, block(number * at_once)),
        ),
        (0, done),
        parallel_iterations=1,
    )
    return done.concat()


def times(rows: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """`rows @ matrix`, sparse or dense, whichever is faster."""
    filled = tf.where(rows != 0.0)

    def sparse() -> tf.Tensor:
        values = tf.gather_nd(rows, filled)
        left = tf.SparseTensor(filled, values, tf.shape(rows, tf.int64))
        return tf.sparse.sparse_dense_matmul(left, matrix)

    crowded = SPARSE_COST * tf.shape(filled)[0] > tf.size(rows)
    return tf.cond(crowded, lambda: tf.matmul(rows, matrix), sparse)


def _standardise(scores: tf.Tensor, free: tf.Tensor) -> tf.Tensor:
    """z-scores over the free entries of each row; zeros if these do not vary."""
    weight = tf.cast(free, tf.float32)
    count = tf.maximum(tf.reduce_sum(weight, axis=1, keepdims=True), 1.0)
    gap = scores - tf.reduce_sum(scores * weight, axis=1, keepdims=True) / count
    variance = tf.reduce_sum(gap * gap * weight, axis=1, keepdims=True) / count
    # Without a history, or if the scores differ only by rounding, all scores are 0.
    largest = tf.reduce_max(tf.abs(scores) * weight, axis=1, keepdims=True)
    deviation = tf.sqrt(variance)
    varies = deviation > ROUNDING * largest
    return tf.where(varies, tf.math.divide_no_nan(gap, deviation), 0.0)
