"""Builds the report of a run from metrics and models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import keras
import numpy as np
import pyarrow as pa

from recdistill.evaluation.guard import guard_slices
from recdistill.evaluation.intervals import (
    Slice,
    bootstrap,
    compare_slices,
    gap_closed,
    kept,
    paired_difference,
)
from recdistill.evaluation.latency.stopwatch import Latency
from recdistill.evaluation.report.run_environment import describe_environment
from recdistill.evaluation.report.run_report import (
    DatasetPart,
    GatePart,
    ModelName,
    ModelPart,
    ProtocolPart,
    Report,
    RetrievalPart,
    SeedsPart,
    Spread,
)
from recdistill.evaluation.report.training_parts import SoftTargetsPart, TeacherPart
from recdistill.evaluation.rows import metric_names
from recdistill.pipeline.config import Config
from recdistill.pipeline.config.teacher_section import has_partial_scores
from recdistill.pipeline.evaluation.model_comparison import (
    TOP,
    ComparisonRows,
    RetrievalRows,
)
from recdistill.pipeline.evaluation.model_timing import count_operations, time_models
from recdistill.pipeline.evaluation.recommended_items import measure_recommended
from recdistill.pipeline.models.model_building import parameters, size_bytes
from recdistill.pipeline.models.scorers import compiled
from recdistill.pipeline.preparation.dataset_loading import licence_of
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.pipeline.ranking.retrieved_candidates import reranks

_NOT_REPORTED: Any = {
    "workdir": True,
    "export": True,
    "tracking": True,
    "engine": True,
    "sweep": True,
    "tune": True,
    "guard": {"action": True},
    "dataset": {"path": True},
    "teacher": {"path": True, "members": {"__all__": {"path": True}}},
}
"""Settings on which a report does not depend: paths, machines, and what is done with
the models. A report of an earlier run with other values of these is used again."""

_GAINED = "distilled_minus_baseline"


ON_CARD: Any = {
    **dict.fromkeys(("name", "seed", "dataset", "protocol", "models"), True),
    **dict.fromkeys(("retrieval", "gap_closed", "kept", "agreement", "speedup"), True),
    **dict.fromkeys(("environment", "config_given"), True),
    "seeds": {"seeds"},
    "gate": {"overridden", "message"},
    "guard": {"slices": {"__all__": {"kind", "name", "difference", "adjusted_p"}}},
}
"""Parts of the report that the model card of an export shows."""

MOST_FILES = 20
"""Largest number of source files whose hashes are in the report."""


def build_report(
    config: Config,
    prepared: Prepared,
    records: Mapping[str, Mapping[str, Any]],
    rows: ComparisonRows,
    models: Mapping[str, keras.Model],
    *,
    gate: GatePart,
    soft_targets: SoftTargetsPart,
) -> Report:
    """Means, intervals and comparisons of the test metrics, and the models' cost.

    Args:
        config: The pipeline's configuration.
        prepared: The prepared data.
        records: The records of the finished steps.
        rows: Metrics of the test lists.
        models: The models whose cost is measured, by name; popularity is not one.
        gate: The decision at the gate.
        soft_targets: How the teacher's scores became soft targets.
    """
    settings, dataset = config.evaluate, records["prepare"]
    draws: Any = {"samples": settings.bootstrap, "seed": config.seed}
    baseline, distilled, teacher = (
        rows.models[name] for name in ("baseline", "distilled", "teacher")
    )
    latency, speedup = _time(config, prepared, models)
    flops = _flops(config, prepared, models)
    slices = _slices(config, rows)
    diverged = _diverged(records)
    recommended = {}
    if rows.retrieval or _candidates(config, prepared) == "catalogue":
        recommended = measure_recommended(rows.models, prepared, TOP, **draws)
    closed = gap_closed(baseline, distilled, teacher, **draws)
    return Report(
        name=config.name,
        seed=config.seed,
        dataset=_dataset_part(config, dataset),
        protocol=_protocol(config, prepared, dataset, rows),
        retrieval=None if rows.retrieval is None else _retrieval(rows.retrieval, draws),
        models={
            name: _model_part(
                name, config, rows, models, latency, flops.get(name), slices[name]
            ).model_copy(
                update={
                    "diverged": diverged.get(name, ()),
                    "beyond_accuracy": recommended.get(name, {}),
                }
            )
            for name in get_args(ModelName)
        },
        gap_closed=closed,
        seeds=seeds_part(
            rows, [m for m, each in closed.items() if each.value is not None]
        ),
        kept=kept(distilled, teacher, **draws),
        differences={
            "teacher_minus_baseline": paired_difference(teacher, baseline, **draws),
            "distilled_minus_baseline": paired_difference(distilled, baseline, **draws),
            "distilled_minus_teacher": paired_difference(distilled, teacher, **draws),
        },
        slice_differences=slices[_GAINED],
        agreement=bootstrap(rows.agreement, **draws),
        speedup=speedup,
        gate=gate,
        guard=guard_slices(
            baseline,
            distilled,
            rows.slices,
            settings.metrics[0],
            largest_fall=config.guard.largest_fall,
            **draws,
        ),
        soft_targets=soft_targets,
        teacher=_teacher_part(records["teacher"]),
        timings_s={name: record["seconds"] for name, record in records.items()},
        environment=describe_environment(),
        config=config.model_dump(mode="json", exclude=_NOT_REPORTED),
        config_given=config.model_dump(
            mode="json", exclude=_NOT_REPORTED, exclude_unset=True
        ),
    )


def _teacher_part(record: Mapping[str, Any]) -> TeacherPart:
    """The teacher from the record of its step."""
    return TeacherPart(
        kind=record["kind"],
        valid=record["valid"],
        sampled_candidates=record["sampled_candidates"],
        members=record.get("members", []),
        chosen=record.get("chosen", {}),
    )


def seed_name(model: str, seed: int) -> str:
    """Name of the model of one seed among the rows of the test lists."""
    return f"{model} {seed}"


def seeds_part(rows: ComparisonRows, with_gap: Sequence[str]) -> SeedsPart | None:
    """Mean and spread over seeds.

    Args:
        rows: Metrics of the test lists.
        with_gap: Metrics of which teacher and baseline differ beyond noise.
    """
    seeds = sorted({int(name.split()[1]) for name in rows.further})
    if not seeds:
        return None
    means = {name: _means(table) for name, table in rows.further.items()}
    teacher = _means(rows.models["teacher"])
    values = {
        model: {
            metric: [means[seed_name(model, seed)][metric] for seed in seeds]
            for metric in teacher
        }
        for model in ("baseline", "distilled")
    }
    closed = {
        metric: _closed(
            np.array(values["baseline"][metric]),
            np.array(values["distilled"][metric]),
            teacher[metric],
        )
        for metric in with_gap
        if teacher[metric] > np.mean(values["baseline"][metric])
    }
    return SeedsPart(
        seeds=tuple(seeds),
        models={
            model: {metric: Spread.of(each) for metric, each in metrics.items()}
            for model, metrics in values.items()
        },
        gap_closed={metric: Spread.of(each) for metric, each in closed.items()},
    )


def _closed(
    baseline: np.ndarray, distilled: np.ndarray, teacher: float
) -> Sequence[float]:
    """Share of the gap that each seed closes, in proportion to the mean gap.

    The mean of these shares is the ratio of the mean gain to the mean gap, and their
    deviation is that of the ratio by the delta method. The ratios of single seeds have
    no usable mean, because the gap of one of them may be close to 0.
    """
    gain, gap = distilled - baseline, teacher - baseline
    ratio = gain.mean() / gap.mean()
    shares: list[float] = (ratio + (gain - ratio * gap) / gap.mean()).tolist()
    return shares


def _means(table: pa.Table) -> dict[str, float]:
    """The mean of each metric over the lists that have a value."""
    means = {
        metric: float(np.nanmean(table[metric].to_numpy()))
        for metric in metric_names(table)
    }
    return {metric: mean for metric, mean in means.items() if np.isfinite(mean)}


def _dataset_part(config: Config, record: Mapping[str, Any]) -> DatasetPart:
    names = [name for name in DatasetPart.model_fields if name != "licence"]
    source = record["source"] if len(record["source"]) <= MOST_FILES else {}
    fields = {name: record[name] for name in names} | {"source": source}
    return DatasetPart(**fields, licence=licence_of(config.dataset))


def _protocol(
    config: Config,
    prepared: Prepared,
    dataset: Mapping[str, Any],
    rows: ComparisonRows,
) -> ProtocolPart:
    """The protocol, from the record of the prepared data and the ranked lists."""
    return ProtocolPart(
        split=f"test, {config.split.test_part}",
        lists=len(rows.agreement),
        sampled_from=_sampled_from(config, prepared),
        candidates=_candidates(config, prepared),
        seen=dataset["seen"],
        repeats_left_out=dataset["left_out_repeats"]["test"],
        unreachable=rows.unreachable,
        resamples=config.evaluate.bootstrap,
    )


def _sampled_from(config: Config, prepared: Prepared) -> int | None:
    """Number of test lists of which a sample was evaluated; None if all were."""
    total = prepared.test_size
    sampled = len(prepared.evaluated_rows) < total
    return total if sampled and not has_partial_scores(config.teacher) else None


def _retrieval(found: RetrievalRows, draws: Mapping[str, Any]) -> RetrievalPart:
    recall = bootstrap(found.recall, **draws)
    return RetrievalPart(
        candidates=found.candidates,
        recall={n.removeprefix("recall@"): share for n, share in recall.items()},
        catalogue={
            name: bootstrap(found.models[name], **draws)
            for name in get_args(ModelName)
            if name in found.models
        },
    )


def _candidates(config: Config, prepared: Prepared) -> str:
    """The candidates of the protocol, as in `ProtocolPart`."""
    if has_partial_scores(config.teacher) or prepared.has_shown_candidates:
        return "listed"
    number = config.evaluate.sampled_candidates
    if number is not None:
        return f"sampled:{number}"
    if reranks(config, prepared):
        return f"retrieved:{config.evaluate.retrieved}"
    return "catalogue"


def _model_part(
    name: ModelName,
    config: Config,
    rows: ComparisonRows,
    models: Mapping[str, keras.Model],
    latency: Mapping[str, dict[str, Latency]],
    flops: int | None,
    slices: dict[str, dict[str, Slice]],
) -> ModelPart:
    settings = config.evaluate
    draws: Any = {"samples": settings.bootstrap, "seed": config.seed}
    table = rows.models[name]
    model = models.get(name)
    return ModelPart(
        metrics=bootstrap(table, **draws),
        slices=slices,
        parameters=None if model is None else parameters(model),
        flops_per_query=flops,
        size_bytes=None if model is None else size_bytes(model),
        latency_ms=latency.get(name, {}),
        latency_reason=(
            "the teacher has partial scores only"
            if name == "teacher" and has_partial_scores(config.teacher)
            else None
        ),
    )


def _diverged(
    records: Mapping[str, Mapping[str, Any]],
) -> dict[str, tuple[float, ...]]:
    """For each student, the learning rates with which its training diverged."""
    return {
        model: tuple(
            trial["learning_rate"]
            for trial in records[step]["trials"]
            if None in trial["history"]
        )
        for model, step in (("baseline", "baseline"), ("distilled", "distill"))
    }


def _slices(
    config: Config, rows: ComparisonRows
) -> dict[str, dict[str, dict[str, Slice]]]:
    """Slices by model, kind and name; the pair `_GAINED` has the differences."""
    settings = config.evaluate
    found: dict[str, dict[str, dict[str, Slice]]] = {
        name: {} for name in (*rows.models, _GAINED)
    }
    for kind, members in rows.slices.items():
        for name, slices in compare_slices(
            rows.models,
            members,
            {_GAINED: ("distilled", "baseline")},
            settings.metrics[:1],
            samples=settings.bootstrap,
            seed=config.seed,
        ).items():
            found[name][kind] = slices
    return found


def _time(
    config: Config, prepared: Prepared, models: Mapping[str, keras.Model]
) -> tuple[dict[str, dict[str, Latency]], dict[str, float]]:
    """Latency by model and number of candidates, and the student's speed-up."""
    latency: dict[str, dict[str, Latency]] = {"teacher": {}, "distilled": {}}
    speedup = {}
    timed = not has_partial_scores(config.teacher)
    for size, times in time_models(
        compiled(models["teacher"]) if timed else None,
        models["distilled"],
        prepared,
        config.evaluate.latency_candidates,
        config.seed,
    ):
        if timed:
            speedup[str(size)] = times.speedup["student"]
            latency["teacher"][str(size)] = times.latencies["teacher"]
        latency["distilled"][str(size)] = times.latencies["student"]
    return latency, speedup


def _flops(
    config: Config, prepared: Prepared, models: Mapping[str, keras.Model]
) -> dict[str, int | None]:
    """Operations by model, for the first number of candidates of the latency."""
    if not config.evaluate.latency_candidates:
        return {}
    counts = count_operations(
        models["teacher"],
        models["distilled"],
        prepared,
        config.evaluate.latency_candidates[0],
        config.seed,
    )
    # The baseline has the same towers as the student.
    teacher, student = counts["teacher"], counts["student"]
    return {"teacher": teacher, "distilled": student, "baseline": student}
