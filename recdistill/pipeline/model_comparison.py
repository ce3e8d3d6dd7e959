"""Rankings of the test lists by all models, and their agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from recdistill.data.batches import Lists
from recdistill.data.dataset import Progress
from recdistill.evaluation.rows import ListRows, agreement, measure_ranks
from recdistill.pipeline.candidate_ranker import CandidateRanker, candidate_blocks
from recdistill.pipeline.catalogue_ranking import rank_candidates, rank_scores
from recdistill.pipeline.evaluated_lists import EvaluatedLists, Members
from recdistill.pipeline.list_slices import ListSlices
from recdistill.pipeline.prepared_data import Prepared
from recdistill.pipeline.retrieved_candidates import Retrieval
from recdistill.pipeline.sampled_candidates import SampledCandidates
from recdistill.pipeline.scored_candidates import lists_to_evaluate
from recdistill.pipeline.scorers import Scorer
from recdistill.teachers import ScoreTable

TOP = 10
"""Length of the rankings that are stored and compared."""

SURVIVAL = (50, 100, 200)
"""Values of n for survival@n: the teacher's top k within the student's first n."""


@dataclass(frozen=True)
class RetrievalRows:
    """What the retrievers found of the test lists.

    Attributes:
        models: Metrics of each retriever over the whole catalogue, one row per list.
        recall: Recall of all retrievers together at growing numbers of items, one row
            per list.
        candidates: Mean number of candidates of a list.
    """

    models: dict[str, pa.Table]
    recall: pa.Table
    candidates: float


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
        retrieval: What the retrievers found, if their items are the candidates.
        further: The same as `models` for models that are not retrievers.
    """

    models: dict[str, pa.Table]
    agreement: pa.Table
    slices: Members
    unreachable: int
    lists: EvaluatedLists
    retrieval: RetrievalRows | None = None
    further: Mapping[str, pa.Table] = field(default_factory=dict)


def rank_test_lists(
    scorers: Mapping[str, Scorer],
    prepared: Prepared,
    metrics: Sequence[str],
    progress: Progress,
    score_tables: Sequence[ScoreTable] = (),
    sampled: SampledCandidates | None = None,
    retrieved: int | None = None,
    further: Mapping[str, Scorer] | None = None,
) -> ComparisonRows:
    """Ranks the candidates of every evaluated test list with every model.

    Args:
        scorers: The models by name; "teacher" and "distilled" are compared.
        prepared: The prepared data.
        metrics: Metric names.
        progress: Callback for progress.
        score_tables: Partial scores of the teacher. All models then rank the scored
            candidates, in the lists with a scored positive.
        sampled: Random candidates that all models rank in place of the catalogue.
        retrieved: Number of items of each retriever, if all models rank the retrieved
            candidates (`recdistill.pipeline.retrieved_candidates`).
        further: Models that are not retrievers, by name.
    """
    size, further = prepared.catalogue_size, further or {}
    rankers = {name: CandidateRanker(score, size) for name, score in scorers.items()}
    others = {name: CandidateRanker(score, size) for name, score in further.items()}
    rows = _Rows.of({**rankers, **others}, metrics, size)
    retrieval = _RetrievalRows.of(rankers, metrics, retrieved) if retrieved else None
    slices, unreachable = ListSlices(prepared), 0
    evaluated = EvaluatedLists(prepared.item_ids)
    total = prepared.test_size if score_tables else len(prepared.evaluated_rows)
    done = 0
    for lists in lists_to_evaluate(prepared, "test", score_tables, sampled=sampled):
        evaluated.add(lists)
        slices.add(lists)
        unreachable += int((lists.positives.padded(-1).max(axis=1) < 0).sum())
        ranked = lists if retrieval is None else retrieval.add(lists)
        for block, candidates in candidate_blocks(ranked, size):
            rows.add(block, candidates)
            done += len(block)
            progress("Ranking the test lists", done, total)
    return ComparisonRows(
        {name: rows.models[name].table() for name in rankers},
        rows.agreement.table(),
        slices.members(),
        unreachable,
        evaluated,
        None if retrieval is None else retrieval.result(),
        {name: rows.models[name].table() for name in others},
    )


@dataclass(frozen=True)
class _Rows:
    """Collects the metrics of each model, and the agreement of two of them."""

    rankers: Mapping[str, CandidateRanker]
    metrics: Sequence[str]
    survival: Sequence[int]
    k: int
    models: Mapping[str, ListRows]
    agreement: ListRows

    @classmethod
    def of(
        cls, rankers: Mapping[str, CandidateRanker], metrics: Sequence[str], size: int
    ) -> _Rows:
        survival = [n for n in SURVIVAL if n < size] or [size]
        models = {name: ListRows() for name in rankers}
        return cls(rankers, metrics, survival, min(TOP, size), models, ListRows())

    def add(self, lists: Lists, candidates: np.ndarray) -> None:
        """Adds a block of lists with their candidates."""
        ids = lists.list_id, list(lists.query_id)
        scores = {name: r.scores(lists, candidates) for name, r in self.rankers.items()}
        for name, values in scores.items():
            if lists.scored_candidates is None:
                ranking = rank_scores(values, lists, TOP)
            else:
                ranking = rank_candidates(values, candidates, lists, TOP)
            measured = measure_ranks(ranking.ranks, self.metrics)
            self.models[name].add(*ids, measured, ranking.top)
        pair = (scores["teacher"], scores["distilled"], candidates >= 0)
        agreed = agreement(*pair, k=self.k, survival_at=self.survival)
        self.agreement.add(*ids, agreed)


@dataclass(frozen=True)
class _RetrievalRows:
    """Retrieves candidates, and collects what the retrievers find."""

    retrieval: Retrieval
    metrics: Sequence[str]
    models: Mapping[str, ListRows]
    recall: ListRows
    lengths: list[np.ndarray]

    @classmethod
    def of(
        cls, rankers: Mapping[str, CandidateRanker], metrics: Sequence[str], top: int
    ) -> _RetrievalRows:
        found = {name: each for name, each in rankers.items() if name != "teacher"}
        models = {name: ListRows() for name in found}
        return cls(Retrieval(found, top), metrics, models, ListRows(), [])

    def add(self, lists: Lists) -> Lists:
        """The lists with the retrieved candidates."""
        ids = lists.list_id, list(lists.query_id)
        rankings = self.retrieval.rank(lists)
        for name, ranking in rankings.items():
            self.models[name].add(*ids, measure_ranks(ranking.ranks, self.metrics))
        self.recall.add(*ids, self.retrieval.recall(lists, rankings))
        restricted = self.retrieval.restrict(lists, rankings)
        if restricted.scored_candidates is not None:
            self.lengths.append(np.diff(restricted.scored_candidates.offsets))
        return restricted

    def result(self) -> RetrievalRows:
        lengths = np.concatenate(self.lengths)
        tables = {name: rows.table() for name, rows in self.models.items()}
        return RetrievalRows(tables, self.recall.table(), float(lengths.mean()))
