"""The last word on the models: full rankings of the test lists, and latency."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from recdistill.data.batches import Lists, catalogue_mask, raw_inputs
from recdistill.data.collation import score_catalogue
from recdistill.data.shard_reading import in_order
from recdistill.evaluation.latency.flops import flops_of_function
from recdistill.evaluation.latency.stopwatch import Comparison, compare
from recdistill.evaluation.rows import ListRows, agreement
from recdistill.lists.numpy_ranks import first_k, real_scores
from recdistill.models.two_tower import TwoTowerStudent
from recdistill.pipeline.model_building import Teacher, members_of
from recdistill.pipeline.partitions import Progress
from recdistill.pipeline.prepared_data import Prepared
from recdistill.pipeline.validation import PAIRS_AT_ONCE, Scorer, judge

TOP = 10
SURVIVAL = (50, 100, 200)


def popularity_scorer(popularity: np.ndarray) -> Scorer:
    """The baseline: every query gets the items by their training interactions."""

    def score(x: Mapping[str, Any]) -> np.ndarray:
        rows = len(x["mask"])
        return np.broadcast_to(popularity, (rows, len(popularity)))

    return score


@dataclass(frozen=True)
class TestRows:
    """Rows of the test lists, one table a model, and what the lists are like.

    Attributes:
        models: One row a list, by model.
        agreement: One row a list: the distilled student against the teacher.
        segments: For each list, "head" where its positive is among the items that make
            up half of the training interactions, else "tail".
        unreachable: Lists whose positive the catalogue lacks.
    """

    __test__ = False  # the name must not make pytest collect it
    models: dict[str, pa.Table]
    agreement: pa.Table
    segments: list[str]
    unreachable: int


def rank_test_lists(
    scorers: Mapping[str, Scorer],
    prepared: Prepared,
    metrics: Sequence[str],
    progress: Progress,
    judged_lists: Iterable[Lists] | None = None,
) -> TestRows:
    """Ranks the whole catalogue for every test list, by every model.

    Args:
        scorers: The models by name; "teacher" and "distilled" are compared.
        prepared: The prepared data.
        metrics: Metric names.
        progress: Told how far the work is.
        judged_lists: What to judge instead of all test lists, in pieces that can be
            scored at once; lists may say what their candidates are.
    """
    size = prepared.catalogue_size
    rows = {name: ListRows() for name in scorers}
    alike, segments, unreachable = ListRows(), list[str](), 0
    head = _head_items(prepared.popularity)
    shards = prepared.shards("test")
    total = sum(pq.read_metadata(path).num_rows for path in shards)
    done = 0
    survival = [n for n in SURVIVAL if n < size] or [size]
    if judged_lists is None:
        judged_lists = in_order(shards, max(1, PAIRS_AT_ONCE // size))
    for lists in judged_lists:
        mask = catalogue_mask(lists, size)
        scores = {name: score_catalogue(s, lists, size) for name, s in scorers.items()}
        for name, values in scores.items():
            judged = judge(lists, values, metrics)
            top = first_k(real_scores(values, mask, name=name), TOP)
            rows[name].add(lists.list_id, list(lists.query_id), judged, top)
        pair = (scores["teacher"], scores["distilled"], mask)
        same = agreement(*pair, k=min(TOP, size), survival_at=survival)
        alike.add(lists.list_id, list(lists.query_id), same)
        positives = lists.positives.padded(-1).max(axis=1)
        segments += ["head" if head[p] and p >= 0 else "tail" for p in positives]
        unreachable += int((positives < 0).sum())
        done += len(lists)
        progress("Ranking the test lists", done, total)
    tables = {name: each.table() for name, each in rows.items()}
    return TestRows(tables, alike.table(), segments, unreachable)


def _head_items(popularity: np.ndarray) -> np.ndarray:
    """`(items,)` bool: the items that make up half of the interactions."""
    order = np.argsort(-popularity, kind="stable")
    before = np.cumsum(popularity[order]) - popularity[order]
    head = np.zeros(len(popularity), bool)
    head[order] = before < popularity.sum() / 2
    return head


def time_models(
    teacher: Scorer | None,
    student: TwoTowerStudent,
    prepared: Prepared,
    list_sizes: Sequence[int],
    seed: int,
) -> Iterator[tuple[int, Comparison]]:
    """Times teacher and student in turns, ranking candidates for one query.

    The student ranks as it is served: candidate embeddings are there already, the query
    is encoded, and scores are a gather and a product.

    Args:
        teacher: Scores a batch; None to time the baseline.
        student: The distilled student.
        prepared: The prepared data.
        list_sizes: Candidates of the list, at most the catalogue.
        seed: Draws the candidates.

    Yields:
        The number of candidates and the comparison.
    """
    one = _OneQuery(student, prepared)
    # As a server calls it: traced, with its inputs bound.
    rank = tf.function(one.rank, input_signature=[tf.TensorSpec([None], tf.int32)])
    rank = rank.get_concrete_function()
    rng = np.random.default_rng(seed)
    for wanted in list_sizes:
        index = one.draw(wanted, rng)
        calls: dict[str, Callable[[], object]] = {}
        if teacher is not None:
            calls["teacher"] = partial(_call, teacher, one.batch(index))
        calls["student"] = partial(_call, rank, index)
        yield wanted, compare(calls, budget_s=5.0)


def count_operations(
    teacher: Teacher,
    student: TwoTowerStudent,
    prepared: Prepared,
    candidates: int,
    seed: int,
) -> dict[str, int | None]:
    """Floating-point operations of ranking candidates for one query, as it is timed.

    Args:
        teacher: The teacher.
        student: The distilled student.
        prepared: The prepared data.
        candidates: How many.
        seed: Draws the candidates.

    Returns:
        For "teacher" and "student". None for a model that cannot be seen into.
    """
    one = _OneQuery(student, prepared)
    index = one.draw(candidates, np.random.default_rng(seed))
    counts: dict[str, int | None] = {"student": flops_of_function(one.rank, index)}
    counts["teacher"] = None
    if isinstance(teacher, keras.Model) and all(
        isinstance(member, keras.Model) for member in members_of(teacher)
    ):
        batch = one.batch(index)
        inputs = {name: batch[name] for name in ("query", "candidate_index", "mask")}
        # A model of somebody else's may hold what cannot be frozen.
        with contextlib.suppress(ValueError, tf.errors.OpError):
            counts["teacher"] = flops_of_function(
                lambda x: teacher(x, training=False), inputs
            )
    return counts


class _OneQuery:
    """The test query with the longest history among the first, asked of both models."""

    def __init__(self, student: TwoTowerStudent, prepared: Prepared) -> None:
        lists: Lists = next(in_order(prepared.shards("test"), 64))
        order = np.argsort(-np.diff(lists.seen.offsets), kind="stable")
        self.lists = lists.take(order[:1])
        self.query = {k: tf.constant(v) for k, v in self.lists.query.items()}
        rows = {name: tf.constant(value) for name, value in prepared.catalogue.items()}
        self.student, self.size = student, prepared.catalogue_size
        self.embeddings = student.encode_candidates(rows)

    def draw(self, count: int, rng: np.random.Generator) -> tf.Tensor:
        """`(count,)` candidates; a smaller catalogue is drawn from again."""
        return tf.constant(
            rng.choice(self.size, count, replace=count > self.size), tf.int32
        )

    def rank(self, index: tf.Tensor) -> tf.Tensor:
        """The student's scores `(n,)`."""
        candidates = tf.gather(self.embeddings, index)
        return tf.linalg.matvec(candidates, self.student.encode_query(self.query)[0])

    def batch(self, index: tf.Tensor) -> dict[str, Any]:
        """What the teacher is given."""
        return {
            "query": self.query,
            "candidate_index": index[None],
            "mask": tf.ones([1, len(index)], tf.bool),
            "raw": raw_inputs(self.lists),
            "list_key": self.lists.list_key,
        }


def _call(function: Callable[[Any], Any], argument: Any) -> Any:
    """Calls, and waits for the numbers."""
    return np.asarray(function(argument))
