"""Training batches of students and rankers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from recdistill.data.collation import Collator
from recdistill.data.shard_reading import batches
from recdistill.distillation.score_transforms import differ, transformed
from recdistill.pipeline.training.soft_targets import SoftTargets

unconverted = tf.autograph.experimental.do_not_convert
"""Decorator: the function has no Python control flow for AutoGraph to convert."""


def training_batches(
    shards: Sequence[Path],
    collate: Collator,
    batch_size: int,
    seed: int,
    targets: SoftTargets | None = None,
    delivered: int = 0,
) -> tf.data.Dataset:
    """Endless training batches.

    Args:
        shards: Files of lists.
        collate: Makes a batch.
        batch_size: Number of lists in a batch.
        seed: Seed of order and sampling.
        targets: How stored teacher scores become soft targets; None leaves them
            unchanged.
        delivered: Number of batches that were delivered before an interruption.
    """
    dataset = batches(shards, collate, batch_size, seed=seed, delivered=delivered)
    if targets is None:
        return dataset
    transform, temperature = targets.transform, targets.teacher_temperature

    def prepare(x: dict[str, Any], y: Any, weight: Any) -> Any:
        given, mask = x["teacher_scores"], x["mask"]
        scores = transformed(given, mask, transform, x.get("item_weight"))
        says = tf.cast(differ(given, mask), tf.float32)
        x = {**x, "teacher_scores": scores / temperature, "teacher_weight": says}
        return x, y, weight

    return dataset.map(unconverted(prepare))


def averaged_with(assistant: keras.Model, dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Training batches whose soft targets are the mean of these and an assistant's.

    The assistant's scores need neither transform nor temperature: it has learned them
    at the scale of the loss.

    Args:
        assistant: A student that was distilled on such batches.
        dataset: Training batches.
    """

    def average(x: dict[str, Any], y: Any, weight: Any) -> Any:
        own = {k: v for k, v in x.items() if k != "teacher_scores"}
        scores = tf.cast(assistant(own, training=False), tf.float32)
        return {**own, "teacher_scores": (x["teacher_scores"] + scores) / 2}, y, weight

    return dataset.map(unconverted(average))


def with_strata(dataset: tf.data.Dataset, stratum: np.ndarray) -> tf.data.Dataset:
    """Adds the stratum of each candidate to training batches.

    Args:
        dataset: Training batches.
        stratum: `(items,)` int32, the stratum of each item.
    """

    def add(x: dict[str, Any], y: Any, weight: Any) -> Any:
        return {**x, "stratum": tf.gather(stratum, x["candidate_index"])}, y, weight

    return dataset.map(unconverted(add))


def with_few_untrained(
    dataset: tf.data.Dataset,
    trained: np.ndarray,
    share: float,
    seed: int,
    delivered: int = 0,
) -> tf.data.Dataset:
    """Masks the items without training interactions, except a random share of them.

    They share the embedding of unknown ids with the items whose ids are hidden by id
    dropout, and they are never positives. With the same share of both, this embedding
    is that of an average item of the catalogue; with all of them, it would learn from
    negatives mostly.

    Args:
        dataset: Training batches.
        trained: `(items,)` bool, whether each item has training interactions.
        share: The share that stays, in each batch.
        seed: Seed of the random share.
        delivered: Number of the first batch.
    """

    def mask(step: tf.Tensor, batch: Any) -> Any:
        x, y, weight = batch
        index = x["candidate_index"]
        drawn = tf.random.stateless_uniform(tf.shape(index), (seed, step)) < share
        kept = tf.gather(trained, index) | drawn
        if "mask" in y:
            y = {**y, "mask": y["mask"] & kept}
        return {**x, "mask": x["mask"] & kept}, y, weight

    return dataset.enumerate(delivered).map(unconverted(mask))
