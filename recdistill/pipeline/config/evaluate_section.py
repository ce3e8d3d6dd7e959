"""The `evaluate` section: metrics, intervals and latency."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from recdistill.evaluation.rows import cut_off, measure
from recdistill.features.settings import LARGEST_INT
from recdistill.pipeline.config.section import Section


class EvaluateConfig(Section):
    """Metrics, intervals and latency measurements."""

    metrics: tuple[str, ...] = Field(
        default=("ndcg@10", "recall@10", "hit@10", "mrr", "map@10"),
        min_length=1,
        description="Ranking metrics: ndcg@k, dcg@k, recall@k, precision@k, hit@k, "
        "map@k, mrr, mrr@k, rbp@k or err@k. The first one is used to choose "
        "checkpoints and learning rates, by the gate, and on the slices.",
    )
    sampled_candidates: int | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        description="Number of random candidates of each test list besides its "
        "positives. Sampled metrics are higher than those of the whole catalogue and "
        "can order models differently; every output names the sample.",
    )
    retrieved: int = Field(
        default=200,
        gt=0,
        le=100_000,
        description="Number of items of each retriever that the teacher re-ranks, if "
        "`lists.size` is `retrieved`: the candidates of a list are then the first "
        "items of popularity, the baseline and the distilled student. At least 10 and "
        "the largest k of `metrics`.",
    )
    valid_lists: int = Field(
        default=4_000,
        gt=0,
        description="Number of validation lists that are used to choose checkpoints "
        "and learning rates, and by the gate. On a catalogue of more than 250,000 "
        "items checkpoints and learning rates are chosen on fewer of them: a billion "
        "list and item pairs, and at least 500 lists. The record of the step has their "
        "number.",
    )
    test_lists: int = Field(
        default=100_000,
        gt=0,
        description="Largest number of test lists that are ranked for the report. If "
        "there are more, they are a random sample, the same for all runs on the same "
        "data. More lists take proportionally more time; the intervals are narrower by "
        "the square root only. With partial scores of a teacher all lists are ranked.",
    )
    bootstrap: int = Field(
        default=1_000,
        ge=20,
        le=1_000_000,
        description="Resamples of the queries for the bootstrap intervals.",
    )
    latency_candidates: tuple[Annotated[int, Field(gt=0, le=1_000_000)], ...] = Field(
        default=(100, 1_000),
        description="Numbers of candidates for which latency is measured.",
    )

    @model_validator(mode="after")
    def _metrics_exist(self) -> Self:
        # An unknown name fails here, before any model is trained.
        measure([[0.0]], [[1.0]], [[True]], self.metrics)
        for name in self.metrics:
            if len(name.partition("@")[2]) > len(str(LARGEST_INT)) - 1:
                raise ValueError(
                    f"`metrics` must have a k below 1,000,000,000. Received: {name!r}"
                )
        return self

    @property
    def fewest_retrieved(self) -> int:
        """The least `retrieved` with which metrics are those of the whole catalogue."""
        return max(10, *(cut_off(name) or 0 for name in self.metrics))
