r"""NDCG, recall, hit rate, MRR and MAP as Keras metrics: masked and deterministic.

They give the mean of the NumPy function with the same name over all lists that have a
relevant candidate, for use in `compile(metrics=[...])` of a `recdistill.Distiller`, or
of any Keras model that scores lists. The names are those of the report: `ndcg@10`,
`recall@10`, `hit@10`, `mrr`, `map@10`. To load a saved model that was compiled with one
of them, import the metric or `recdistill.Distiller` first.

Conventions, the same as in `recdistill.metrics`: a candidate is relevant if its
relevance is above 0, NDCG uses the relevance itself as gain, ties are broken by
position (the earlier candidate ranks first), padding never ranks, and a list without a
relevant candidate does not count.

The metrics of keras-rs differ: by default they break ties at random, their NDCG has the
gain $2^y - 1$, their MAP, MRR and recall treat a candidate as relevant from 1 on, and a
list without a relevant candidate counts as 0. If relevance is 0 or 1, no two scores of
a list are equal and every list has a relevant candidate, both libraries give the same
numbers.

Examples:
    The relevant candidate of the first list ranks second. The second list has no
    relevant candidate, so it does not count.

    >>> metric = NDCG(k=10)
    >>> relevance = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> scores = np.array([[0.5, 0.9, 0.1], [0.3, 0.2, 0.1]])
    >>> metric.update_state(relevance, scores)
    >>> metric.name, round(float(metric.result()), 4)  # 1 / log2(3)
    ('ndcg@10', 0.6309)
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from recdistill.lists import graph_ranks, masked_ops
from recdistill.lists.masked_ops import Tensor
from recdistill.lists.numpy_ranks import check_cutoff


class RankingMetric(keras.metrics.Mean):  # type: ignore[misc]
    """Base class of ranking metrics: the mean over all lists with relevance.

    A subclass has a `label`, the first part of its default name, and a method `values`.

    Args:
        k: The cut-off, at least 1. It may exceed the list size. None for no cut-off.
        name: Name of the metric. The default is the label and the cut-off, such as
            `ndcg@10`, or the label alone without a cut-off.
        dtype: Keras's dtype of the mean. The default is its float type, float32.

    Raises:
        ValueError: If `k` is neither None nor a positive integer.
    """

    label = ""

    def __init__(
        self, k: int | None = 10, name: str | None = None, dtype: Any = None
    ) -> None:
        if k is not None:
            check_cutoff("k", k)
        default = self.label if k is None else f"{self.label}@{k}"
        super().__init__(name=name or default, dtype=dtype)
        # NumPy's integers have another type than the sizes in a graph.
        self.k = None if k is None else int(k)

    def update_state(
        self,
        y_true: Tensor | dict[str, Tensor],
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
    ) -> None:
        """Add a batch of lists to the mean.

        A list without a relevant candidate, or of weight 0, does not count. If a real
        candidate of a list that counts has a score of NaN or `+inf`, the result becomes
        NaN.

        Args:
            y_true: Relevance `(batch, list_size)`, or `{"labels": …, "mask": …}` with a
                boolean mask. Relevance below 0 counts as 0. Without a mask all
                candidates are real.
            y_pred: The scores, `(batch, list_size)`.
            sample_weight: `(batch,)` or a single number: the weight of each list in the
                mean. The default is 1.

        Raises:
            ValueError: If the shapes of relevance, mask and scores differ, or the
                weights have another shape.
        """
        relevance, mask = masked_ops.labels_and_mask(y_true)
        # Each keeps its own type: float64 scores that are cast could become equal.
        _, relevance = masked_ops.as_lists(mask, relevance=relevance)
        mask, scores = masked_ops.as_lists(mask, scores=y_pred)
        relevance = ops.where(mask, ops.maximum(relevance, 0.0), 0.0)
        # `-inf` is a valid score: it must rank behind the others, but before padding.
        lowest = np.finfo(scores.dtype.name).min
        order = graph_ranks.best_first(ops.maximum(scores, lowest), mask, self.k)
        values = self.values(relevance, graph_ranks.gather(relevance, order))
        valid = ops.all(ops.where(mask, scores < np.inf, True), axis=-1)
        values = ops.where(valid, values, np.nan)
        weight = ops.cast(ops.any(relevance > 0.0, axis=-1), values.dtype)
        if sample_weight is not None:
            weight *= ops.cast(_list_weights(sample_weight, mask), values.dtype)
        super().update_state(ops.where(weight > 0.0, values, 0.0), weight)

    def result(self) -> Tensor:
        """The weighted mean of all lists so far; NaN if no list counts."""
        defined = self.count > 0.0
        mean = self.total / ops.where(defined, self.count, 1.0)
        return ops.where(defined, mean, np.nan)

    def values(self, relevance: Tensor, ranked: Tensor) -> Tensor:
        """The metric of each list.

        Args:
            relevance: `(batch, list_size)`, at least 0; 0 under padding.
            ranked: `(batch, n)`, the relevance of the first `k` candidates, best first;
                `n` is the smaller of `k` and the list size.

        Returns:
            `(batch,)`. Any finite number for a list without a relevant candidate.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `values`")

    def get_config(self) -> dict[str, Any]:
        """The arguments from which `from_config` creates the same metric."""
        return {**super().get_config(), "k": self.k}


@keras.saving.register_keras_serializable(package="recdistill")
class NDCG(RankingMetric):
    """NDCG@k, normalised discounted cumulative gain, linear gain, as a Keras metric.

    See `recdistill.metrics.ndcg` for the formula and `RankingMetric` for the arguments.

    Examples:
        >>> metric = NDCG(k=2)
        >>> y_true = {"labels": [[1.0, 3.0, 9.0]], "mask": [[True, True, False]]}
        >>> metric.update_state(y_true, [[0.9, 0.1, 5.0]])
        >>> round(float(metric.result()), 4)
        0.7967
        >>> float(round((1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3)), 4))
        0.7967
    """

    label = "ndcg"

    def values(self, relevance: Tensor, ranked: Tensor) -> Tensor:
        """NDCG of each list, `(batch,)`."""
        best = tf.math.top_k(relevance, k=tf.shape(ranked)[-1]).values
        discounts = 1.0 / ops.log1p(_rank(ranked))
        return ops.divide_no_nan(
            ops.sum(ranked * discounts, axis=-1), ops.sum(best * discounts, axis=-1)
        )


@keras.saving.register_keras_serializable(package="recdistill")
class Recall(RankingMetric):
    """Recall@k: the share of the relevant candidates in the first k, as a Keras metric.

    See `recdistill.metrics.recall` and, for the arguments, `RankingMetric`.

    Examples:
        >>> metric = Recall(k=2)
        >>> metric.update_state([[1.0, 0.0, 1.0]], [[0.9, 0.5, 0.1]])
        >>> float(metric.result())
        0.5
    """

    label = "recall"

    def values(self, relevance: Tensor, ranked: Tensor) -> Tensor:
        """Recall of each list, `(batch,)`."""
        return ops.divide_no_nan(_relevant(ranked), _relevant(relevance))


@keras.saving.register_keras_serializable(package="recdistill")
class HitRate(RankingMetric):
    """Hit rate@k: 1 if a relevant candidate is in the first k, as a Keras metric.

    See `recdistill.metrics.hit_rate` and, for the arguments, `RankingMetric`.

    Examples:
        >>> metric = HitRate(k=1)
        >>> metric.update_state([[1.0, 0.0], [0.0, 1.0]], [[0.9, 0.5], [0.9, 0.5]])
        >>> float(metric.result())
        0.5
    """

    label = "hit"

    def values(self, relevance: Tensor, ranked: Tensor) -> Tensor:
        """1 or 0 for each list, `(batch,)`."""
        return ops.cast(_relevant(ranked) > 0.0, ranked.dtype)


@keras.saving.register_keras_serializable(package="recdistill")
class ReciprocalRank(RankingMetric):
    """MRR, mean reciprocal rank of the first relevant candidate, as a Keras metric.

    See `recdistill.metrics.reciprocal_rank` and, for the arguments, `RankingMetric`;
    here `k` is None by default, and the name `mrr`.

    Examples:
        >>> metric = ReciprocalRank()
        >>> metric.update_state([[0.0, 1.0, 1.0]], [[0.9, 0.5, 0.1]])
        >>> float(metric.result())
        0.5
    """

    label = "mrr"

    def __init__(
        self, k: int | None = None, name: str | None = None, dtype: Any = None
    ) -> None:
        super().__init__(k, name, dtype)

    def values(self, relevance: Tensor, ranked: Tensor) -> Tensor:
        """One over the rank of the first relevant candidate of each list, `(batch,)`.

        It is 0 if none is in the first `k`.
        """
        return ops.max(ops.where(ranked > 0.0, 1.0 / _rank(ranked), 0.0), axis=-1)


@keras.saving.register_keras_serializable(package="recdistill")
class AveragePrecision(RankingMetric):
    """MAP@k, mean average precision, as a Keras metric.

    See `recdistill.metrics.average_precision` and, for the arguments, `RankingMetric`.

    Examples:
        >>> metric = AveragePrecision(k=2)
        >>> metric.update_state([[1.0, 0.0, 1.0]], [[0.9, 0.5, 0.1]])
        >>> float(metric.result())
        0.5
    """

    label = "map"

    def values(self, relevance: Tensor, ranked: Tensor) -> Tensor:
        """Average precision of each list, `(batch,)`."""
        hits = ops.cast(ranked > 0.0, ranked.dtype)
        precision = ops.cumsum(hits, axis=-1) / _rank(ranked)
        found = ops.sum(hits * precision, axis=-1)
        return ops.divide_no_nan(found, _relevant(relevance))


def _rank(ranked: Tensor) -> Tensor:
    """The rank of each column, from 1; `(batch, n)`."""
    return ops.cumsum(ops.ones_like(ranked), axis=-1)


def _relevant(relevance: Tensor) -> Tensor:
    """The number of relevant candidates of each list, `(batch,)`."""
    return ops.sum(ops.cast(relevance > 0.0, relevance.dtype), axis=-1)


def _list_weights(sample_weight: Tensor, mask: Tensor) -> Tensor:
    """The weights as a tensor, `(batch,)` or a single number."""
    weight = tf.convert_to_tensor(sample_weight)
    if weight.shape.rank == 0 or mask.shape[:1].is_compatible_with(weight.shape):
        return weight
    raise ValueError(
        "`sample_weight` must have shape (batch,), one weight for each list. Received: "
        f"sample_weight.shape={weight.shape}, scores.shape={mask.shape}"
    )
