"""Replicas, which train in step on parts of each batch.

Replicas are those of a `tf.distribute` strategy, or the processes of a worker group
(`joined`). In a worker group each process trains an ordinary Keras model; what must be
the same in all of them is exchanged through the group.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import tensorflow as tf

from recdistill.lists.masked_ops import Tensor

__all__ = [
    "Group",
    "first_workers_value",
    "group_mean",
    "group_of_workers",
    "joined",
    "replica_mean",
    "replicas",
    "slice_of_batch",
    "summed_gradients",
]


class Group(Protocol):
    """Processes that train in step. All of them make the same calls in one order.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
    """

    rank: int
    size: int

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum over all processes of a flat array, the same bytes in all."""

    def gather(self, values: np.ndarray) -> list[np.ndarray]:
        """The arrays of all processes in the order of rank; first axes may differ."""


_joined: list[Group] = []
_last_exchange: WeakKeyDictionary[Any, tf.Tensor] = WeakKeyDictionary()


@contextlib.contextmanager
def joined(group: Group) -> Iterator[None]:
    """Context manager in which this process trains as a member of a worker group."""
    _joined.append(group)
    try:
        yield
    finally:
        _joined.pop()


def group_of_workers() -> Group | None:
    """The worker group that this process has joined; None if there is none."""
    return _joined[-1] if _joined else None


def replicas() -> int:
    """Number of replicas that train in step; their gradients are summed."""
    group = group_of_workers()
    if group is not None:
        return group.size
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def replica_mean(value: Tensor) -> Tensor:
    """Mean of a number over the replicas.

    Outside a replica, and where there is one replica, this is the number itself.

    Args:
        value: A scalar of this replica.
    """
    group = group_of_workers()
    if group is not None:
        value = tf.convert_to_tensor(value)
        [mean] = _exchanged(lambda own: [_mean(group, own)], [value])
        return tf.ensure_shape(mean, value.shape)
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, value)


def summed_gradients(gradients: Sequence[Any]) -> list[Any]:
    """The gradients summed over the worker group; unchanged outside a group.

    The rows of sparse gradients are joined in the order of rank. Where all processes
    have the same rows in the same order, as for candidates that all lists share, they
    are summed, so that a row occurs as often as in the gradient of the whole batch.

    Args:
        gradients: Tensors and `tf.IndexedSlices`; None stays None.
    """
    group = group_of_workers()
    if group is None:
        return list(gradients)
    sparse = [g for g in gradients if isinstance(g, tf.IndexedSlices)]
    dense = [
        tf.convert_to_tensor(g)
        for g in gradients
        if g is not None and not isinstance(g, tf.IndexedSlices)
    ]

    def exchange(*own: np.ndarray) -> list[np.ndarray]:
        count = len(dense)
        found = _summed(group, own[:count]) if count else []
        for indices, values in zip(own[count::2], own[count + 1 :: 2], strict=True):
            found += _joined_rows(group, indices, values)
        return found

    flat = [*dense, *(part for g in sparse for part in (g.indices, g.values))]
    results = iter(_exchanged(exchange, flat))
    totals = iter(
        [tf.ensure_shape(next(results), each.shape) for each in dense]
        + [_rows(next(results), next(results), each) for each in sparse]
    )
    by_kind = {True: [], False: []}  # type: dict[bool, list[Any]]
    for total in totals:
        by_kind[isinstance(total, tf.IndexedSlices)].append(total)
    return [
        None if g is None else by_kind[isinstance(g, tf.IndexedSlices)].pop(0)
        for g in gradients
    ]


def group_mean(values: dict[str, float]) -> dict[str, float]:
    """The mean over the worker group of each number; unchanged outside a group."""
    group = group_of_workers()
    if group is None or not values:
        return values
    total = group.sum(np.array([*values.values()], "float64"))
    return dict(zip(values, (total / group.size).tolist(), strict=True))


def first_workers_value(measure: Callable[[], float]) -> float:
    """A number that the first process of the group measures and all receive."""
    group = group_of_workers()
    if group is None:
        return measure()
    own = [measure()] if group.rank == 0 else []
    return float(group.gather(np.array(own, "float64"))[0][0])


def slice_of_batch(batch: Any) -> Any:
    """The part of a batch that this process trains on.

    Candidates that all lists share, and their strata, stay whole. A batch with fewer
    lists than processes gives a process without lists the first one with weight 0.

    Args:
        batch: `(x, y, weight)` as `recdistill.data.batches` describes it, or a batch of
            windows from `recdistill.data.sequences`, of which a process without rows
            has a row of zeros.
    """
    group = group_of_workers()
    if group is None:
        return batch
    whole = tf.nest.flatten(batch)
    size = tf.shape(whole[-1])[0]
    low = size * group.rank // group.size
    high = size * (group.rank + 1) // group.size
    empty = low == high
    low = tf.where(empty, 0, low)
    high = tf.maximum(high, low + 1)
    x = batch[0] if isinstance(batch, tuple) else {}
    of_candidates = [x[name] for name in ("candidate_index", "stratum") if name in x]
    shared = [each for each in of_candidates if each.shape.rank == 1]
    parts = [
        each if any(each is other for other in shared) else each[low:high]
        for each in whole
    ]
    zeroed = range(len(parts) - 1 if isinstance(batch, tuple) else 0, len(parts))
    for number in zeroed:
        zeros = tf.zeros_like(parts[number])
        parts[number] = tf.where(empty, zeros, parts[number])
    return tf.nest.pack_sequence_as(batch, parts)


def _mean(group: Group, own: np.ndarray) -> np.ndarray:
    total = group.sum(np.array([own], own.dtype)) / group.size
    return np.asarray(total[0], own.dtype)


def _summed(group: Group, own: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Sums of several arrays with one exchange."""
    flat = np.concatenate([np.ravel(each).astype("float32") for each in own])
    total = group.sum(flat)
    ends = np.cumsum([each.size for each in own])[:-1]
    return [
        part.reshape(each.shape).astype(each.dtype)
        for part, each in zip(np.split(total, ends), own, strict=True)
    ]


def _joined_rows(
    group: Group, indices: np.ndarray, values: np.ndarray
) -> list[np.ndarray]:
    """Indices and values of the sparse gradients of all processes."""
    every = group.gather(indices)
    if all(np.array_equal(each, indices) for each in every):
        return [indices, *_summed(group, [values])]
    return [np.concatenate(every), np.concatenate(group.gather(values))]


def _rows(
    indices: tf.Tensor, values: tf.Tensor, own: tf.IndexedSlices
) -> tf.IndexedSlices:
    values = tf.ensure_shape(values, [None, *own.values.shape[1:]])
    indices = tf.ensure_shape(indices, [None])
    return tf.IndexedSlices(values, indices, own.dense_shape)


def _exchanged(
    exchange: Callable[..., list[np.ndarray]], own: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """The results of an exchange, which takes place after those before it in a graph.

    Without an order, a graph may run two exchanges in another order than its peers.
    """
    kinds = [each.dtype for each in own]
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    before = [_last_exchange[graph]] if graph in _last_exchange else []
    with tf.control_dependencies(before):
        found: list[tf.Tensor] = tf.numpy_function(exchange, list(own), kinds)
    if graph is not None and found:
        _last_exchange[graph] = found[0]
    return [tf.stop_gradient(each) for each in found]
