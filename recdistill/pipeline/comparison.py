"""The last word on the models: full rankings of the test lists, the gate, latency."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from recdistill.batches import (
    Lists,
    catalogue_mask,
    in_order,
    score_catalogue,
)
from recdistill.evaluation import ListRows, agreement
from recdistill.intervals import Interval, paired_difference
from recdistill.latency import Comparison, compare
from recdistill.pipeline.partitions import Progress
from recdistill.pipeline.prepared import Prepared
from recdistill.pipeline.training import PAIRS_AT_ONCE, Scorer, judge
from recdistill.ranks import first_k, real_scores
from recdistill.report import GatePart
from recdistill.student import TwoTowerStudent

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
) -> TestRows:
    """Ranks the whole catalogue for every test list, by every model.

    Args:
        scorers: The models by name; "teacher" and "distilled" are compared.
        prepared: The prepared data.
        metrics: Metric names.
        progress: Told how far the work is.
    """
    size = prepared.catalogue_size
    rows = {name: ListRows() for name in scorers}
    alike, segments, unreachable = ListRows(), list[str](), 0
    head = _head_items(prepared.popularity)
    shards = prepared.shards("test")
    total = sum(pq.read_metadata(path).num_rows for path in shards)
    done = 0
    survival = [n for n in SURVIVAL if n < size] or [size]
    for lists in in_order(shards, max(1, PAIRS_AT_ONCE // size)):
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


def decide(
    teacher: pa.Table,
    others: Mapping[str, pa.Table],
    metric: str,
    *,
    samples: int,
    seed: int,
    override: bool,
) -> GatePart:
    """The gate: does the teacher beat every other model beyond noise, on validation?

    Args:
        teacher: Rows of the teacher.
        others: Rows of what it must beat, by name.
        metric: The metric that counts.
        samples: Resamples of the queries.
        seed: Seeds them.
        override: Whether the run goes on all the same.
    """
    differences: dict[str, Interval] = {
        f"teacher_minus_{name}": paired_difference(
            teacher, rows, [metric], samples=samples, seed=seed
        )[metric]
        for name, rows in others.items()
    }
    failed = [
        name
        for name, gap in differences.items()
        if not (gap.excludes(0.0) and (gap.value or 0.0) > 0.0)
    ]
    figures = "; ".join(
        f"{n.replace('_', ' ')} {_shown(g)}" for n, g in differences.items()
    )
    verdict = (
        "The teacher is worth distilling"
        if not failed
        else (
            "The teacher does not beat "
            + " and ".join(
                n.removeprefix("teacher_minus_").replace("_", " ") for n in failed
            )
            + " beyond noise"
        )
    )
    return GatePart(
        passed=not failed,
        overridden=bool(failed) and override,
        message=f"{verdict}: {metric} on validation, {figures}.",
        differences=differences,
    )


def _shown(gap: Interval) -> str:
    if gap.value is None or gap.low is None or gap.high is None:
        return f"unknown ({gap.reason})"
    return f"{gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"


def time_models(
    teacher: Scorer,
    student: TwoTowerStudent,
    prepared: Prepared,
    list_sizes: Sequence[int],
    seed: int,
) -> Iterator[tuple[int, Comparison]]:
    """Times teacher and student in turns, ranking candidates for one query.

    The student ranks as it is served: candidate embeddings are there already, the query
    is encoded, and scores are a gather and a product.

    Args:
        teacher: Scores a batch.
        student: The distilled student.
        prepared: The prepared data.
        list_sizes: Candidates of the list, at most the catalogue.
        seed: Draws the candidates.

    Yields:
        The number of candidates and the comparison.
    """
    lists: Lists = next(in_order(prepared.shards("test"), 64))
    longest = lists.take(np.argsort(-np.diff(lists.seen.offsets), kind="stable")[:1])
    query = {name: tf.constant(value) for name, value in longest.query.items()}
    size = prepared.catalogue_size
    rows = {name: tf.constant(value) for name, value in prepared.catalogue.items()}
    embeddings = student.encode_candidates(rows)

    def dot(index: tf.Tensor) -> tf.Tensor:
        candidates = tf.gather(embeddings, index)
        return tf.linalg.matvec(candidates, student.encode_query(query)[0])

    # As a server calls it: traced, with its inputs bound.
    rank = tf.function(dot, input_signature=[tf.TensorSpec([None], tf.int32)])
    rank = rank.get_concrete_function()

    rng = np.random.default_rng(seed)
    for wanted in list_sizes:
        # A catalogue smaller than the list is drawn from again.
        index = tf.constant(rng.choice(size, wanted, replace=wanted > size), tf.int32)
        batch = {
            "query": query,
            "candidate_index": index[None],
            "mask": tf.ones([1, wanted], tf.bool),
        }
        calls: dict[str, Callable[[], object]] = {
            "teacher": partial(_call, teacher, batch),
            "student": partial(_call, rank, index),
        }
        yield wanted, compare(calls, budget_s=5.0)


def _call(function: Callable[[Any], Any], argument: Any) -> Any:
    """Calls, and waits for the numbers."""
    return np.asarray(function(argument))
