"""Retrieved candidates: what a teacher re-ranks where it cannot rank the catalogue.

As in production, the retrievers (popularity, the baseline, and the distilled student)
rank the whole catalogue, and the candidates of a list are the union of their first N
items. A positive outside the union counts as missed, for every model.

For a metric with a cut-off of at most N, the value of a retriever among these
candidates is that of the whole catalogue: its first N items are all candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from recdistill.data.batches import Lists
from recdistill.data.ragged import Ragged
from recdistill.errors import ConfigError
from recdistill.evaluation.rows import cut_off
from recdistill.metrics.ranking import MAX_GRADE
from recdistill.pipeline.config import Config
from recdistill.pipeline.config.teacher_section import is_own, members_of
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.pipeline.ranking.candidate_ranker import CandidateRanker
from recdistill.pipeline.ranking.catalogue_ranking import Ranking, positives_of

DEPTHS = tuple(step * 10**power for power in range(1, 7) for step in (1, 2, 5))
"""Numbers of retrieved items at which the recall of the retrieval is reported."""

LARGEST_RANKING = 200_000_000
"""Largest number of scores that the pipeline's own teachers compute in a validation.

A pass takes some seconds, and each of a training's checkpoints needs one. Of a larger
catalogue they rank fewer lists.
"""

FEWEST_RANKED = 2_000
"""Smallest number of lists of the whole catalogue by which a teacher is validated."""


def reranks(config: Config, prepared: Prepared) -> bool:
    """Whether the teacher re-ranks retrieved candidates.

    It does where it cannot rank the whole catalogue, unless the data says which
    candidates a list has.
    """
    large = config.lists.size == "retrieved"
    return large and not prepared.has_shown_candidates


def check_evaluation(config: Config, prepared: Prepared) -> None:
    """Checks that the data allows the evaluation that the configuration asks for.

    Raises:
        ConfigError: If candidates shall be sampled although the data lists them, the
            first metric has no cut-off or fewer items are retrieved than a metric
            reads, or the relevance is too high for the metric ERR.
    """
    number = config.evaluate.sampled_candidates
    if number is not None and prepared.has_shown_candidates:
        raise ConfigError(
            "`evaluate.sampled_candidates` must be left out if the data says which "
            "items were shown, because these are the candidates of each list. "
            f"Received: {number}"
        )
    first = config.evaluate.metrics[0]
    if reranks(config, prepared) and cut_off(first) is None:
        raise ConfigError(
            "The first of `evaluate.metrics` must have a cut-off if the teacher ranks "
            "retrieved candidates (`lists.size`), because the gate compares it with "
            f"models that rank the whole catalogue. Received: {first!r}. Write "
            f'"{first}@10" in its place.'
        )
    least = config.evaluate.fewest_retrieved
    if reranks(config, prepared) and config.evaluate.retrieved < least:
        raise ConfigError(
            f"`evaluate.retrieved` must be at least {least}, the largest k of "
            "`evaluate.metrics` (and at least 10), because the teacher re-ranks that "
            f"many items of each retriever. Received: {config.evaluate.retrieved}"
        )
    cascade = [name for name in config.evaluate.metrics if name.startswith("err@")]
    if cascade and prepared.largest_relevance > MAX_GRADE:
        raise ConfigError(
            f"`evaluate.metrics` can have {cascade[0]} only if the relevance is at "
            f"most {MAX_GRADE:g}, the highest grade of ERR. Received: a relevance of "
            f"{prepared.largest_relevance:g}. Leave the metric out, or map the "
            "relevance to grades."
        )


def lists_for_teacher(config: Config, prepared: Prepared, lists: int) -> int | None:
    """Number of validation lists whose catalogue the teacher ranks in its training.

    Metrics among sampled candidates can order models in another way than metrics on
    the catalogue (Krichene and Rendle, KDD 2020). The pipeline's own teachers score an
    item by a product of vectors, so they rank the catalogue of the validation lists
    where that is feasible, or of some of them.

    Args:
        config: The pipeline's configuration.
        prepared: The prepared data.
        lists: Number of validation lists.

    Returns:
        The largest number; None if the teacher is trained and checked on sampled
        candidates.
    """
    if not reranks(config, prepared):
        return lists
    lists = min(lists, config.evaluate.valid_lists)
    own = all(map(is_own, members_of(config.teacher)))
    feasible = min(lists, LARGEST_RANKING // prepared.catalogue_size)
    return feasible if own and feasible >= min(lists, FEWEST_RANKED) else None


@dataclass(frozen=True)
class Retrieval:
    """Retrieves the candidates of lists.

    Attributes:
        retrievers: Models that rank the whole catalogue, by name.
        top: Number of items of each retriever.
    """

    retrievers: Mapping[str, CandidateRanker]
    top: int

    @property
    def depths(self) -> list[int]:
        """Numbers of retrieved items at which the recall is reported."""
        return [n for n in DEPTHS if n < self.top] + [self.top]

    def rank(self, lists: Lists) -> dict[str, Ranking]:
        """The rankings of the whole catalogue by each retriever."""
        found = self.retrievers.items()
        return {name: ranker.rank(lists, self.top) for name, ranker in found}

    def restrict(self, lists: Lists, rankings: Mapping[str, Ranking]) -> Lists:
        """The lists with the retrieved candidates.

        Args:
            lists: Lists whose candidates are the catalogue.
            rankings: From `rank`.
        """
        return replace(lists, scored_candidates=_union(rankings, self.top))

    def recall(
        self, lists: Lists, rankings: Mapping[str, Ranking]
    ) -> dict[str, np.ndarray]:
        """The share of the positives among the first n items of all retrievers.

        Args:
            lists: The lists.
            rankings: From `rank`.

        Returns:
            `(lists,)` for each of "recall@n". Positives outside the catalogue are not
            among these items.
        """
        row, item, _ = positives_of(lists)
        own = Ragged(item, np.searchsorted(row, np.arange(len(lists) + 1)))
        wanted = np.maximum(next(iter(rankings.values())).ranks.relevant, 1)
        return {
            f"recall@{n}": np.diff(own.intersection(_union(rankings, n)).offsets)
            / wanted
            for n in self.depths
        }


def _union(rankings: Mapping[str, Ranking], n: int) -> Ragged:
    """The first n items of all rankings, each once and in ascending order."""
    first = np.concatenate([each.top[:, :n] for each in rankings.values()], axis=1)
    offsets = np.arange(len(first) + 1) * first.shape[1]
    rows = Ragged(first.ravel(), offsets)
    return rows.distinct()
