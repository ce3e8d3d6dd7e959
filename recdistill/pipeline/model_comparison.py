"""Rankings of the test lists by all models, and their agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.data.batches import catalogue_mask
from recdistill.data.collation import score_catalogue
from recdistill.data.dataset import Progress
from recdistill.evaluation.rows import ListRows, agreement
from recdistill.lists.numpy_ranks import first_k, real_scores
from recdistill.pipeline.evaluated_lists import EvaluatedLists, Members
from recdistill.pipeline.list_slices import ListSlices
from recdistill.pipeline.prepared_data import Prepared
from recdistill.pipeline.sampled_candidates import SampledCandidates
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
        slices: For each kind of slice and each slice, `(lists,)` bool: whether a list
            belongs to it (`recdistill.pipeline.list_slices`).
        unreachable: Number of lists whose positive is not in the catalogue.
        lists: What the lists are, to compare runs list by list.
    """

    models: dict[str, pa.Table]
    agreement: pa.Table
    slices: Members
    unreachable: int
    lists: EvaluatedLists


def rank_test_lists(
    scorers: Mapping[str, Scorer],
    prepared: Prepared,
    metrics: Sequence[str],
    progress: Progress,
    score_tables: Sequence[ScoreTable] = (),
    sampled: SampledCandidates | None = None,
) -> ComparisonRows:
    """Ranks the whole catalogue for every test list with every model.

    Args:
        scorers: The models by name; "teacher" and "distilled" are compared.
        prepared: The prepared data.
        metrics: Metric names.
        progress: Callback for progress.
        score_tables: Partial scores of the teacher. All models then rank the scored
            candidates, in the lists with a scored positive.
        sampled: Random candidates that all models rank in place of the catalogue.
    """
    size = prepared.catalogue_size
    rows = {name: ListRows() for name in scorers}
    agreements, slices, unreachable = ListRows(), ListSlices(prepared), 0
    evaluated = EvaluatedLists(prepared.item_ids)
    shards = prepared.shards("test")
    total = sum(pq.read_metadata(path).num_rows for path in shards)
    done = 0
    survival = [n for n in SURVIVAL if n < size] or [size]
    for lists in lists_to_evaluate(prepared, "test", score_tables, sampled=sampled):
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
        slices.add(lists)
        unreachable += int((lists.positives.padded(-1).max(axis=1) < 0).sum())
        done += len(lists)
        progress("Ranking the test lists", done, total)
    tables = {name: each.table() for name, each in rows.items()}
    return ComparisonRows(
        tables, agreements.table(), slices.members(), unreachable, evaluated
    )
