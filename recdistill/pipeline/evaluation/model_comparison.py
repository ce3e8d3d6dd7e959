"""Rankings of the test lists by all models, and their agreement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from recdistill.data.batches import Lists
from recdistill.data.dataset import Progress
from recdistill.evaluation.rows import ListRows, agreement, measure_ranks
from recdistill.pipeline.candidates.sampled_candidates import SampledCandidates
from recdistill.pipeline.candidates.scored_candidates import lists_to_evaluate
from recdistill.pipeline.evaluation.evaluated_lists import EvaluatedLists, Members
from recdistill.pipeline.models.scorers import Scorer
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.pipeline.ranking.candidate_ranker import (
    CandidateRanker,
    candidate_blocks,
)
from recdistill.pipeline.ranking.catalogue_ranking import (
    in_blocks,
    rank_candidates,
    rank_scores,
)
from recdistill.pipeline.ranking.list_slices import ListSlices
from recdistill.pipeline.ranking.retrieved_candidates import Retrieval
from recdistill.teachers import ScoreTable

TOP = 10
"""Length of the rankings that are stored and compared."""

PART_LISTS = 512
"""Lists that an engine ranks as one part."""

SURVIVAL = (50, 100, 200)
"""Values of n for survival@n: the teacher's top k within the student's first n.

Only those below the length of the longest list, and with retrieved candidates those up
to the number of items of each retriever: all items of a shorter list survive.
"""


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
            belongs to it (`recdistill.pipeline.ranking.list_slices`).
        unreachable: Number of lists without a positive in the catalogue.
        lists: What the lists are, to compare runs list by list.
        retrieval: What the retrievers found, if their items are the candidates.
        further: The same as `models`, for models that are not retrievers.
    """

    models: dict[str, pa.Table]
    agreement: pa.Table
    slices: Members
    unreachable: int
    lists: EvaluatedLists
    retrieval: RetrievalRows | None = None
    further: Mapping[str, pa.Table] = field(default_factory=dict)


@dataclass(frozen=True)
class RankedLists:
    """Rankings of some test lists.

    Attributes:
        models: Metrics of each model among the candidates.
        further: The same for models that are not retrievers.
        agreement: Agreement of the distilled student with the teacher.
        retrievers: Metrics of each retriever over the whole catalogue, if retrieved
            items are the candidates; else empty.
        recall: Recall of all retrievers together; else empty.
        lengths: Numbers of candidates of the lists.
    """

    models: dict[str, ListRows] = field(default_factory=dict)
    further: dict[str, ListRows] = field(default_factory=dict)
    agreement: ListRows = field(default_factory=ListRows)
    retrievers: dict[str, ListRows] = field(default_factory=dict)
    recall: ListRows = field(default_factory=ListRows)
    lengths: list[np.ndarray] = field(default_factory=list)

    def extend(self, other: RankedLists) -> None:
        """Adds the rankings of other lists."""
        for own, added in (
            (self.models, other.models),
            (self.further, other.further),
            (self.retrievers, other.retrievers),
        ):
            for name, rows in added.items():
                own.setdefault(name, ListRows()).extend(rows)
        self.agreement.extend(other.agreement)
        self.recall.extend(other.recall)
        self.lengths.extend(other.lengths)

    @property
    def retrieval(self) -> RetrievalRows | None:
        """What the retrievers found; None if lists are not retrieved."""
        if not self.retrievers:
            return None
        tables = {name: rows.table() for name, rows in self.retrievers.items()}
        lengths = np.concatenate(self.lengths)
        return RetrievalRows(tables, self.recall.table(), float(lengths.mean()))


class ListRanker:
    """Ranks the candidates of test lists with every model.

    Args:
        scorers: The models by name; "teacher" and "distilled" are compared.
        items: Number of items in the catalogue.
        metrics: Metric names.
        retrieved: Number of items of each retriever, if all models rank the retrieved
            candidates (`recdistill.pipeline.ranking.retrieved_candidates`).
        further: Models that are not retrievers, by name.
    """

    def __init__(
        self,
        scorers: Mapping[str, Scorer],
        items: int,
        metrics: Sequence[str],
        retrieved: int | None = None,
        further: Mapping[str, Scorer] | None = None,
    ) -> None:
        self._items, self._metrics, self._further = items, metrics, set(further or {})
        every = {**scorers, **(further or {})}
        self._rankers = {n: CandidateRanker(s, items) for n, s in every.items()}
        found = {n: self._rankers[n] for n in scorers if n != "teacher"}
        self._retrieval = None if retrieved is None else Retrieval(found, retrieved)
        self._k = min(TOP, items)
        self._survival = [n for n in SURVIVAL if retrieved is None or n <= retrieved]

    def __call__(self, lists: Lists) -> RankedLists:
        """The rankings of some lists.

        Raises:
            NotRankableError: If the score of a candidate is NaN or infinity.
        """
        found = RankedLists()
        if self._retrieval is not None:
            lists = self._retrieved(self._retrieval, lists, found)
        for block, candidates in candidate_blocks(lists, self._items):
            self._add(block, candidates, found)
        return found

    def _retrieved(
        self, retrieval: Retrieval, lists: Lists, found: RankedLists
    ) -> Lists:
        """The lists with the retrieved candidates."""
        ids = lists.list_id, list(lists.query_id)
        rankings = retrieval.rank(lists)
        for name, ranking in rankings.items():
            measured = measure_ranks(ranking.ranks, self._metrics)
            found.retrievers.setdefault(name, ListRows()).add(*ids, measured)
        found.recall.add(*ids, retrieval.recall(lists, rankings))
        return retrieval.restrict(lists, rankings)

    def _add(self, lists: Lists, candidates: np.ndarray, found: RankedLists) -> None:
        """Adds the rankings of a block of lists with their candidates."""
        ids = lists.list_id, list(lists.query_id)
        found.lengths.append(np.count_nonzero(candidates >= 0, axis=1))
        rankers = self._rankers.items()
        scores = {name: each.scores(lists, candidates) for name, each in rankers}
        for name, values in scores.items():
            if lists.scored_candidates is None:
                ranking = rank_scores(values, lists, TOP)
            else:
                ranking = rank_candidates(values, candidates, lists, TOP)
            measured = measure_ranks(ranking.ranks, self._metrics)
            of_kind = found.further if name in self._further else found.models
            rows = of_kind.setdefault(name, ListRows())
            rows.add(*ids, measured, ranking.top)
        pair = (scores["teacher"], scores["distilled"], candidates >= 0)
        agreed = agreement(*pair, k=self._k, survival_at=self._survival)
        found.agreement.add(*ids, agreed)


def rank_test_lists(
    rank: Callable[[Iterable[Lists]], Iterable[tuple[Lists, RankedLists]]],
    prepared: Prepared,
    progress: Progress,
    score_tables: Sequence[ScoreTable] = (),
    sampled: SampledCandidates | None = None,
) -> ComparisonRows:
    """Ranks the candidates of every evaluated test list with every model.

    Args:
        rank: Ranks parts of the lists as a `ListRanker` does, and returns each with its
            rankings in their order.
        prepared: The prepared data.
        progress: Callback for progress.
        score_tables: Partial scores of the teacher. All models then rank the scored
            candidates, in the lists with a scored positive.
        sampled: Random candidates that all models rank in place of the catalogue.
    """
    slices, unreachable = ListSlices(prepared), 0
    evaluated, found = EvaluatedLists(prepared.item_ids), RankedLists()
    total = prepared.test_size if score_tables else len(prepared.evaluated_rows)
    done = 0
    pieces = lists_to_evaluate(prepared, "test", score_tables, sampled=sampled)
    parts = (part for piece in pieces for part in in_blocks(piece, PART_LISTS))
    for lists, ranked in rank(parts):
        found.extend(ranked)
        evaluated.add(lists)
        slices.add(lists)
        unreachable += int((lists.positives.padded(-1).max(axis=1) < 0).sum())
        done += len(lists)
        progress("Ranking the test lists", done, total)
    agreed = found.agreement.table()
    longest = int(np.concatenate(found.lengths).max())
    trivial = {f"survival@{n}" for n in SURVIVAL if n >= longest}
    return ComparisonRows(
        {name: rows.table() for name, rows in found.models.items()},
        agreed.drop_columns([n for n in agreed.column_names if n in trivial]),
        slices.members(),
        unreachable,
        evaluated,
        found.retrieval,
        {name: rows.table() for name, rows in found.further.items()},
    )
