"""Replicas of a `tf.distribute` strategy, which train in step on parts of a batch."""

from __future__ import annotations

import tensorflow as tf

from recdistill.lists.masked_ops import Tensor

__all__ = ["replica_mean", "replicas"]


def replicas() -> int:
    """Number of replicas that train in step; their gradients are summed."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def replica_mean(value: Tensor) -> Tensor:
    """Mean of a number over the replicas.

    Outside a replica, and where there is one replica, this is the number itself.

    Args:
        value: A scalar of this replica.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, value)
