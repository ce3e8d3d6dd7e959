"""Latency and operations of teacher and student on one query."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from recdistill.data.batches import Lists, raw_inputs
from recdistill.data.shard_reading import in_order
from recdistill.evaluation.latency.flops import flops_of_function
from recdistill.evaluation.latency.stopwatch import Comparison, compare
from recdistill.pipeline.models.model_building import Teacher, members_of
from recdistill.pipeline.models.scorers import Scorer
from recdistill.pipeline.preparation.prepared_data import Prepared


def time_models(
    teacher: Scorer | None,
    student: keras.Model,
    prepared: Prepared,
    list_sizes: Sequence[int],
    seed: int,
) -> Iterator[tuple[int, Comparison]]:
    """Times teacher and student in turns, ranking candidates for one query.

    The student ranks as it does in serving: candidate embeddings are computed before,
    the query is encoded, and the scores are dot products.

    Args:
        teacher: A batch to scores; None to time the student only.
        student: The distilled student.
        prepared: The prepared data.
        list_sizes: Numbers of candidates.
        seed: Seed of the candidates.

    Yields:
        The number of candidates and the comparison.
    """
    one = _OneQuery(student, prepared)
    # As in a server, the timed function is traced with fixed input types.
    index_spec = tf.TensorSpec([None], tf.int32)
    rank = tf.function(one.rank, input_signature=[index_spec], autograph=False)
    rng = np.random.default_rng(seed)
    with student.stored_history():
        rank = rank.get_concrete_function()
        for wanted in list_sizes:
            index = one.draw(wanted, rng)
            calls: dict[str, Callable[[], object]] = {}
            if teacher is not None:
                calls["teacher"] = partial(_call, teacher, one.batch(index))
            calls["student"] = partial(_call, rank, index)
            yield wanted, compare(calls, budget_s=5.0)


def count_operations(
    teacher: Teacher,
    student: keras.Model,
    prepared: Prepared,
    candidates: int,
    seed: int,
) -> dict[str, int | None]:
    """Floating-point operations of ranking candidates for one query, as in the timing.

    Args:
        teacher: The teacher.
        student: The distilled student.
        prepared: The prepared data.
        candidates: Number of candidates.
        seed: Seed of the candidates.

    Returns:
        The numbers for "teacher" and "student"; None for a model that is not a
        TensorFlow graph, or whose weights are too large to be copied.
    """
    one = _OneQuery(student, prepared)
    index = one.draw(candidates, np.random.default_rng(seed))
    counts: dict[str, int | None] = {"student": None, "teacher": None}
    # Weights may be too large to be copied.
    with contextlib.suppress(ValueError), student.stored_history():
        counts["student"] = flops_of_function(one.rank, index)
    if isinstance(teacher, keras.Model) and all(
        isinstance(member, keras.Model) for member in members_of(teacher)
    ):
        batch = one.batch(index)
        inputs = {name: batch[name] for name in ("query", "candidate_index", "mask")}
        # An external model may have operations that cannot be frozen.
        with contextlib.suppress(ValueError, tf.errors.OpError):
            counts["teacher"] = flops_of_function(
                lambda x: teacher(x, training=False), inputs
            )
    return counts


class _OneQuery:
    """The query that both models rank: the one with the most earlier interactions."""

    def __init__(self, student: keras.Model, prepared: Prepared) -> None:
        lists: Lists = next(in_order(prepared.shards("test"), 64))
        order = np.argsort(-lists.earlier, kind="stable")
        self.lists = lists.take(order[:1])
        self.query = {k: tf.constant(v) for k, v in self.lists.query.items()}
        rows = {name: tf.constant(value) for name, value in prepared.catalogue.items()}
        self.student, self.size = student, prepared.catalogue_size
        self.embeddings = student.encode_candidates(rows)

    def draw(self, count: int, rng: np.random.Generator) -> tf.Tensor:
        """`(count,)` random candidates, with repetition if the catalogue is smaller."""
        return tf.constant(
            rng.choice(self.size, count, replace=count > self.size), tf.int32
        )

    def rank(self, index: tf.Tensor) -> tf.Tensor:
        """The student's scores `(n,)`."""
        candidates = tf.gather(self.embeddings, index)
        return tf.linalg.matvec(candidates, self.student.encode_query(self.query)[0])

    def batch(self, index: tf.Tensor) -> dict[str, Any]:
        """The teacher's batch."""
        return {
            "query": self.query,
            "candidate_index": index[None],
            "mask": tf.ones([1, len(index)], tf.bool),
            "raw": raw_inputs(self.lists),
            "list_key": self.lists.list_key,
        }


def _call(function: Callable[[Any], Any], argument: Any) -> Any:
    """Calls the function and waits for its result."""
    return np.asarray(function(argument))
