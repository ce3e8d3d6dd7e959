"""The report of a run (`report.json`, schema version 2): quality, cost and protocol.

The document is typed and versioned. Everything that depends on the clock or the machine
is under separate keys (`latency_ms`, `speedup`, `timings_s`, `environment`); everything
else is the same for the same inputs, and `Report.metrics_fingerprint` is its hash. A
number that could not be computed is null, with a reason.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, Field, ValidationError

from recdistill.atomic import atomic_write
from recdistill.errors import ReportError
from recdistill.evaluation.latency.stopwatch import Latency
from recdistill.evaluation.paired_tests import LEVEL
from recdistill.evaluation.report.json_fields import (
    STRICT,
    Estimate,
    Estimates,
    Settings,
    SliceEstimate,
    rounded,
)
from recdistill.evaluation.report.training_parts import SoftTargetsPart, TeacherPart

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION: Final = 2

ModelName = Literal["popularity", "baseline", "distilled", "teacher"]
Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    """Part of the report: unknown keys and numbers that are not finite are errors."""

    model_config = STRICT


class DatasetPart(_Part):
    """The data set that the models were trained and evaluated on.

    Attributes:
        name: Display name.
        fingerprint: Hash of the prepared data.
        interactions: Number of interactions read.
        queries: Number of distinct queries.
        items: Number of items in the catalogue.
        lists: Number of lists by split.
        parts: First and last time of each part, in UTC; empty if the data has no times.
        copies: Number of rows whose query, item and time are those of another row. The
            copies of a row are in the same part.
        copies_by_part: The same by part.
        unknown: Share of values that are unknown in training, by part ("train",
            "valid", "test" lists, and "items") and feature; as "teacher", the share of
            values that the teacher does not know, by its inputs.
        uncounted: Inputs of the teacher for which this share cannot be known, because
            it does not declare their vocabulary.
        repeats: Number of "valid" and "test" lists with an item that the query also has
            in the training part.
        source: SHA-256 of each source file by its name; empty if there are many.
        licence: Licence of the data; None if unknown.
    """

    name: str
    fingerprint: str
    interactions: Count
    queries: Count
    items: Count
    lists: dict[str, Count]
    parts: dict[str, tuple[str, str]] = {}
    copies: Count = 0
    copies_by_part: dict[str, Count] = {}
    unknown: dict[str, dict[str, float]] = {}
    uncounted: list[str] = []
    repeats: dict[str, Count] = {}
    source: dict[str, str] = {}
    licence: str | None = None


class RetrievalPart(_Part):
    """What the retrievers found, if the teacher re-ranks retrieved candidates.

    Attributes:
        candidates: Mean number of candidates of a list: the first N items of each
            retriever, each item once.
        recall: Share of the positives among the first n items of all retrievers
            together, by n. A positive that they miss is missed by every model.
        catalogue: Metrics of each retriever over the whole catalogue.
    """

    candidates: float
    recall: Estimates
    catalogue: dict[ModelName, Estimates]


class ProtocolPart(_Part):
    """Evaluation protocol. Numbers of different protocols cannot be compared.

    Attributes:
        split: The lists that were evaluated, for example "test".
        lists: Number of these lists.
        sampled_from: Number of lists from which these were sampled at random; None if
            they are all.
        candidates: The candidates that were ranked: "catalogue" for all items,
            "retrieved:N" for the union of the retrievers' top N, "sampled:N" for N
            random items, or "listed" for the candidates of each list: the items that
            were shown, if the data says what was shown, and the scored ones of a
            teacher with partial scores; then only lists with a scored positive are
            evaluated.
        seen: "exclude" if items that the query has seen are not candidates, else
            "include".
        repeats_left_out: Number of interactions of this split that were left out
            because the query had seen their item.
        unreachable: Number of lists without a positive in the catalogue. They count as
            0 in every metric.
        resample: What the bootstrap draws.
        resamples: Number of bootstrap resamples.
        confidence: Confidence level of the intervals.
    """

    split: str
    lists: Count
    sampled_from: Count | None = None
    candidates: Annotated[
        str, Field(pattern=r"^(catalogue|listed|(retrieved|sampled):[1-9][0-9]*)$")
    ] = "catalogue"
    seen: Literal["exclude", "include"]
    repeats_left_out: Count = 0
    unreachable: Count = 0
    resample: Literal["query"] = "query"
    resamples: Count = 1000
    confidence: float = 0.95


class ModelPart(_Part):
    """Quality and cost of one model.

    Attributes:
        metrics: Mean of each metric over the lists.
        slices: The same over part of the lists, by kind of slice ("item", "activity",
            "history", or the name of a feature) and slice.
        beyond_accuracy: Coverage, Gini index, popularity, novelty and diversity of the
            first items, if the whole catalogue is ranked.
        parameters: Number of trained parameters; None if unknown.
        flops_per_query: Floating-point operations of matrix products to score the
            candidates of one query (`recdistill.evaluation.latency.flops`), for the
            first number of candidates in `latency_ms`; None if not counted.
        size_bytes: Size on disk as served; None if not measured.
        latency_ms: Latency by number of candidates ("100", "1000").
        latency_reason: Why `latency_ms` is empty; None if no reason is known.
        diverged: Learning rates with which training diverged, at once or later.
    """

    metrics: Estimates
    slices: dict[str, dict[str, SliceEstimate]] = {}
    beyond_accuracy: Estimates = {}
    parameters: Count | None = None
    flops_per_query: Count | None = None
    size_bytes: Count | None = None
    latency_ms: dict[str, Latency] = {}
    latency_reason: str | None = None
    diverged: tuple[float, ...] = ()

    def _by_slice(self) -> Iterator[tuple[tuple[Any, ...], Estimates]]:
        """Kind, name, lists and queries of each slice, with its metrics."""
        for kind, slices in self.slices.items():
            for name, some in slices.items():
                yield (kind, name, some.lists, some.queries), some.metrics


class Spread(_Part):
    """Mean and spread of a number over seeds.

    Attributes:
        mean: The mean.
        deviation: Standard deviation of a sample; None for one seed.
        values: The number for each seed.
    """

    mean: float
    deviation: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Mean and standard deviation of values; there is at least one."""
        mean = sum(values) / len(values)
        square = sum((value - mean) ** 2 for value in values)
        several = len(values) > 1
        return cls(
            mean=mean,
            deviation=(square / (len(values) - 1)) ** 0.5 if several else None,
            values=tuple(values),
        )


class SeedsPart(_Part):
    """Part of the report: baseline and student trained with several seeds.

    Attributes:
        seeds: The seeds.
        models: By model ("baseline", "distilled") and metric.
        gap_closed: By metric; without the metrics whose gap is within noise. The mean
            is the mean gain as a share of the mean gap. The values are the shares of
            the seeds, linearised around it.
    """

    seeds: tuple[int, ...]
    models: dict[str, dict[str, Spread]]
    gap_closed: dict[str, Spread] = {}


class GatePart(_Part):
    """Decision whether the teacher is worth distilling, made on validation.

    Attributes:
        passed: Whether the teacher passed.
        overridden: Whether the run continued although the teacher did not pass.
        message: The decision in one sentence, with its numbers.
        differences: The differences behind the decision, by name.
        lists: Number of validation lists that the teacher scored.
        constant_lists: Number of them whose candidates all have the same score.
        not_finite: Number of scores that are NaN or infinite.
        trained_on: Number of "valid" and "test" lists that the teacher was trained on;
            None if unknown.
        repeats: Number of "valid" lists with an item that the query also has in the
            training part; 0 if seen items are not candidates.
    """

    passed: bool
    overridden: bool = False
    message: str
    differences: Estimates = {}
    lists: Count = 0
    constant_lists: Count = 0
    not_finite: Count = 0
    trained_on: dict[str, Count] | None = None
    repeats: Count = 0


class GuardedSlice(_Part):
    """The distilled student and the baseline on one slice of the test lists.

    Attributes:
        kind: Kind of slice, for example "item".
        name: Name of the slice, for example "tail".
        lists: Number of its lists with a value.
        queries: Number of their queries.
        baseline: Mean of the baseline.
        distilled: Mean of the distilled student.
        difference: distilled - baseline, paired.
        change: The difference as a share of the baseline's mean; None if that is 0.
        adjusted_p: p-value of the paired permutation test over queries, corrected for
            the number of slices (Holm).
        fallen: Whether the slice has fallen too far, beyond noise.
    """

    kind: str
    name: str
    lists: Count
    queries: Count
    baseline: float | None
    distilled: float | None
    difference: Estimate
    change: float | None
    adjusted_p: float | None
    fallen: bool


class GuardPart(_Part):
    """Slices on which the distilled student may have fallen below the baseline.

    Attributes:
        metric: The metric that is compared.
        largest_fall: Share of the baseline's metric that a slice may lose.
        slices: The comparison on each slice.
    """

    metric: str
    largest_fall: float
    slices: tuple[GuardedSlice, ...]

    @property
    def fallen(self) -> list[GuardedSlice]:
        """The slices that have fallen too far, beyond noise."""
        return [each for each in self.slices if each.fallen]

    @property
    def beyond_noise(self) -> set[tuple[str, str]]:
        """Kind and name of each slice on which the models differ beyond noise."""
        return {
            (each.kind, each.name)
            for each in self.slices
            if each.adjusted_p is not None and each.adjusted_p <= LEVEL
        }


class Report(_Part):
    """Report of a run: the content of `report.json`.

    Attributes:
        schema_version: Version of this document's form.
        name: Name of the run.
        seed: Seed of the run.
        dataset: Data set of the run.
        protocol: Evaluation protocol.
        retrieval: What the retrievers found; None unless `protocol.candidates` is
            "retrieved:N".
        models: Quality and cost of each model.
        gap_closed: By metric: (distilled - baseline) / (teacher - baseline). The value
            is null, with a reason, if teacher and baseline do not differ beyond noise.
        kept: By metric: distilled / teacher.
        differences: By pair ("teacher_minus_baseline", …) and metric.
        slice_differences: By kind of slice and slice: distilled - baseline, paired.
        seeds: Mean and spread over several seeds; None for one seed.
        agreement: How similarly student and teacher rank the candidates.
        speedup: By number of candidates: latency of the teacher divided by that of the
            distilled student, both timed in turns.
        gate: Decision to distil; None if there was none.
        guard: Distilled student and baseline on each slice; None if unknown.
        soft_targets: The student's soft targets; None if unknown.
        teacher: The teacher and its members; None if unknown.
        timings_s: Seconds by step.
        environment: Versions and machine, from `describe_environment`.
        config: Configuration of the run, defaults included.
        config_given: The keys of the configuration that were set, without paths. With
            a path to the data it is a configuration that runs.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    name: str
    seed: int
    dataset: DatasetPart
    protocol: ProtocolPart
    retrieval: RetrievalPart | None = None
    models: dict[ModelName, ModelPart]
    gap_closed: Estimates = {}
    kept: Estimates = {}
    differences: dict[str, Estimates] = {}
    slice_differences: dict[str, dict[str, SliceEstimate]] = {}
    seeds: SeedsPart | None = None
    agreement: Estimates = {}
    speedup: dict[str, float] = {}
    gate: GatePart | None = None
    guard: GuardPart | None = None
    soft_targets: SoftTargetsPart | None = None
    teacher: TeacherPart | None = None
    timings_s: dict[str, float] = {}
    environment: Settings = {}
    config: Settings = {}
    config_given: Settings = {}

    def to_frame(self, *, slices: bool = False) -> pd.DataFrame:
        """Table of the models' metrics, one row per model and metric.

        Args:
            slices: Return one row per model, slice and metric instead.

        Returns:
            A pandas DataFrame with the columns `model`, `metric`, `value`, `low`,
            `high` (the confidence interval) and `reason` (why a number is missing).
            With `slices`, the columns `slice_by`, `slice`, `lists` and `queries` come
            after `model`. Missing numbers are NaN, a missing reason is None.

        Examples:
            >>> from recdistill.evaluation import Interval
            >>> part = ModelPart(metrics={"ndcg@10": Interval(0.25, 0.24, 0.26)})
            >>> data = DatasetPart(name="Films", fingerprint="ab12", interactions=90,
            ...                    queries=7, items=30, lists={"test": 7})
            >>> way = ProtocolPart(split="test", lists=7, seen="exclude")
            >>> report = Report(name="films", seed=1, dataset=data, protocol=way,
            ...                 models={"distilled": part})
            >>> report.to_frame().set_index("metric").loc["ndcg@10", "low"].item()
            0.24
        """
        import pandas as pd

        between = ("slice_by", "slice", "lists", "queries") if slices else ()
        numbers = ("value", "low", "high")
        rows = [
            [model, *where, metric, one.value, one.low, one.high, one.reason]
            for model, part in self.models.items()
            for where, metrics in (part._by_slice() if slices else [((), part.metrics)])
            for metric, one in metrics.items()
        ]
        columns = ["model", *between, "metric", *numbers, "reason"]
        frame = pd.DataFrame(rows, columns=columns)
        return frame.astype(dict.fromkeys(numbers, "float64") | {"reason": "object"})

    def to_json(self) -> str:
        """Report as strict JSON text; equal reports have equal texts.

        Raises:
            ValueError: If a number is not finite.
        """
        document = self.model_dump(mode="json")
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        return text + "\n"

    def metrics_fingerprint(self) -> str:
        """SHA-256 (hex) of everything that the same inputs reproduce.

        Times, machine and package versions are left out, so that two runs of one
        configuration can be compared. Numbers are rounded to nine digits, because a
        parallel sum may differ in its last bit between runs.
        """
        document = self.model_dump(
            mode="json", exclude={"speedup", "timings_s", "environment"}
        )
        for model in document["models"].values():
            del model["latency_ms"]
        canonical = json.dumps(rounded(document), sort_keys=True, allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON, atomically.

        Args:
            path: Output file; its folder must exist.

        Raises:
            OSError: If the file cannot be written.
            ValueError: As `to_json`.
        """
        text = self.to_json()
        with atomic_write(Path(path)) as aside:
            aside.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a report from a file.

        Args:
            path: A `report.json`.

        Raises:
            OSError: If the file cannot be read.
            ReportError: If it is not a report of schema version 2.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ReportError(f"{path} is not JSON: {error}") from error
        version = document.get("schema_version") if isinstance(document, dict) else None
        if version != SCHEMA_VERSION:
            hint = " Run `recdistill evaluate` again to rewrite it." * (version == 1)
            raise ReportError(
                f"`schema_version` of a report must be {SCHEMA_VERSION}. "
                f"Received: schema_version={version} in {path}.{hint}"
            )
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise ReportError(f"{path} is not a valid report: {error}") from error
