"""Rankings of the test lists by all models, and their agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.data.batches import catalogue_mask
from recdistill.data.collation import score_catalogue
from recdistill.data.dataset import Progress
from recdistill.evaluation.rows import ListRows, agreement
from recdistill.lists.numpy_ranks import first_k, real_scores
from recdistill.pipeline.evaluated_lists import EvaluatedLists
from recdistill.pipeline.prepared_data import Prepared
from recdistill.pipeline.scored_candidates import lists_to_evaluate
from recdistill.pipeline.scorers import Scorer
from recdistill.pipeline.validation import measure_lists
from recdistill.teachers import ScoreTable

TOP = 10
"""Length of the rankings that are stored and compared."""

SURVIVAL = (50, 100, 200)
"""Values of n for survival@n: the teacher's top k within the student's first n."""


@dataclass(frozen=True)
class ComparisonRows:
    """Metrics of the test lists.

    Attributes:
        models: One table per model, with one row per list.
        agreement: Agreement of the distilled student with the teacher, one row per
            list.
        segments: For each list, "new" if its positive is in the catalogue but without
            training interactions, "head" if it is among the most frequent items that
            make up half of the training interactions, else "tail".
        unreachable: Number of lists whose positive is not in the catalogue.
        lists: What the lists are, to compare runs list by list.
    """

    models: dict[str, pa.Table]
    agreement: pa.Table
    segments: list[str]
    unreachable: int
    lists: EvaluatedLists

    @property
    def slices(self) -> dict[str, dict[str, np.ndarray]]:
        """For each kind of slice and each slice, the lists that belong to it."""
        segment = np.array(self.segments)
        return {"item": {name: segment == name for name in np.unique(segment).tolist()}}


def rank_test_lists(
    scorers: Mapping[str, Scorer],
    prepared: Prepared,
    metrics: Sequence[str],
    progress: Progress,
    score_tables: Sequence[ScoreTable] = (),
) -> ComparisonRows:
    """Ranks the whole catalogue for every test list with every model.

    Args:
        scorers: The models by name; "teacher" and "distilled" are compared.
        prepared: The prepared data.
        metrics: Metric names.
        progress: Callback for progress.
        score_tables: Partial scores of the teacher. All models then rank the scored
            candidates, in the lists with a scored positive.
    """
    size = prepared.catalogue_size
    rows = {name: ListRows() for name in scorers}
    agreements, segments, unreachable = ListRows(), list[str](), 0
    segment = _segments(prepared.popularity)
    evaluated = EvaluatedLists(prepared.item_ids)
    shards = prepared.shards("test")
    total = sum(pq.read_metadata(path).num_rows for path in shards)
    done = 0
    survival = [n for n in SURVIVAL if n < size] or [size]
    for lists in lists_to_evaluate(prepared, "test", score_tables):
        mask = catalogue_mask(lists, size)
        scores = {name: score_catalogue(s, lists, size) for name, s in scorers.items()}
        for name, values in scores.items():
            measured = measure_lists(lists, values, metrics)
            top = first_k(real_scores(values, mask, name=name), TOP)
            rows[name].add(lists.list_id, list(lists.query_id), measured, top)
        evaluated.add(lists, mask)
        pair = (scores["teacher"], scores["distilled"], mask)
        agreed = agreement(*pair, k=min(TOP, size), survival_at=survival)
        agreements.add(lists.list_id, list(lists.query_id), agreed)
        positives = lists.positives.padded(-1).max(axis=1)
        segments += [segment[p] if p >= 0 else "tail" for p in positives]
        unreachable += int((positives < 0).sum())
        done += len(lists)
        progress("Ranking the test lists", done, total)
    tables = {name: each.table() for name, each in rows.items()}
    return ComparisonRows(tables, agreements.table(), segments, unreachable, evaluated)


def _segments(popularity: np.ndarray) -> list[str]:
    """Segment of each item, as in `ComparisonRows`."""
    warm = np.where(_head_items(popularity), "head", "tail")
    segments: list[str] = np.where(popularity > 0, warm, "new").tolist()
    return segments


def _head_items(popularity: np.ndarray) -> np.ndarray:
    """`(items,)` bool: the most frequent items with half of the interactions."""
    order = np.argsort(-popularity, kind="stable")
    before = np.cumsum(popularity[order]) - popularity[order]
    head = np.zeros(len(popularity), bool)
    head[order] = before < popularity.sum() / 2
    return head
