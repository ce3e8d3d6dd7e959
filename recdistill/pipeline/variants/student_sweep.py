"""The comparison of `recdistill sweep`: students of different size from one teacher.

Each student is distilled from the scores of the same teacher, beside a baseline with
the same settings, exported with each type of stored item embeddings, and measured on
its own SavedModels. Quality is that on the validation lists, because a student is
chosen by it: the relevance of the test lists is not read. The run with the chosen
settings evaluates the test part once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.atomic import locked_folder, remove
from recdistill.errors import ConfigError
from recdistill.evaluation.intervals import Interval, bootstrap, paired_difference
from recdistill.evaluation.report.run_environment import describe_environment
from recdistill.evaluation.report.student_choice import Cost, knee_place, pareto_places
from recdistill.evaluation.report.sweep_page import render_sweep_page, sweep_verdict
from recdistill.export.student_export import export_student
from recdistill.pipeline.artefacts.artefact import Artefact
from recdistill.pipeline.config import Config
from recdistill.pipeline.evaluation.served_measurement import measure_served
from recdistill.pipeline.models.scorers import compiled
from recdistill.pipeline.ranking.rounded_student import as_exported
from recdistill.pipeline.run_context import VALID, RunContext
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.steps import STEPS
from recdistill.pipeline.steps.export import export_settings
from recdistill.pipeline.steps.step import sections
from recdistill.pipeline.variants.changed_settings import (
    Settings,
    shown_settings,
    with_settings,
    write_config,
    write_result,
)

FOLDER = "sweep"
"""Folder of the comparison in that of the run."""


@dataclass(frozen=True)
class MeasuredStudent:
    """A student of a sweep.

    Attributes:
        settings: Its settings by dotted key.
        quality: Its first metric on validation, with the item embeddings of its export.
        baseline: That of the baseline with the same settings, which is not exported.
        gain: Student minus baseline, paired.
        parameters: Number of its parameters.
        measured: Latency and size of its SavedModel, see
            `recdistill.pipeline.evaluation.served_measurement`.
        gate: Whether the teacher beats this baseline beyond noise.
    """

    settings: Settings
    quality: Interval
    baseline: Interval
    gain: Interval
    parameters: int
    measured: Mapping[str, float]
    gate: bool

    @property
    def cost(self) -> Cost:
        """Its quality and cost, with the median latency."""
        value = self.quality.value or 0.0
        return Cost(value, self.measured["p50"], self.measured["bytes"])


@dataclass(frozen=True)
class SweepResult:
    """Result of a sweep.

    Attributes:
        config: The configuration.
        metric: The metric that decides.
        lists: Number of validation lists.
        teacher: The teacher's metric on validation; None if it was not measured on all
            of these lists with the candidates of the students.
        students: The students, in the order of their settings.
        front: Places of the students on the Pareto front.
        knee: Place of its knee.
        environment: Machine and packages.
    """

    config: Config
    metric: str
    lists: int
    teacher: float | None
    students: tuple[MeasuredStudent, ...]
    front: tuple[int, ...]
    knee: int
    environment: Mapping[str, Any]


def sweep(
    pipeline: Pipeline, announce: Callable[[MeasuredStudent], None] = lambda _: None
) -> SweepResult:
    """Distils, exports and measures students with different settings.

    Args:
        pipeline: The pipeline. Steps that the students share are run first.
        announce: Called with each measured student.

    Raises:
        ConfigError: If the settings of a student are not valid.
        GateError: If the teacher is unusable.
        ExportError: If an export does not answer as its student does.
    """
    configs = _configs(pipeline.config)
    pipeline.run("teacher")
    shared = _shared_steps(pipeline)
    folder = pipeline.workspace.root / FOLDER
    folder.mkdir(exist_ok=True)
    students: list[MeasuredStudent] = []
    said: set[str] = set()
    with locked_folder(folder):
        for place, (settings, config) in enumerate(configs):
            label = f"{shown_settings(settings)} ({place + 1} of {len(configs)})"
            variant = _variant(pipeline, shared, config, label)
            students.append(_measured_student(variant, settings))
            for step in [s for s in ("baseline", "score") if s not in shared]:
                _warn_once(pipeline, STEPS[step].warnings(variant.context), said)
            announce(students[-1])
    run = pipeline.context
    costs = [student.cost for student in students]
    return SweepResult(
        config=pipeline.config,
        metric=run.validation.metrics[0],
        lists=len(run.validation),
        teacher=_comparable(run),
        students=tuple(students),
        front=tuple(pareto_places(costs)),
        knee=knee_place(costs),
        environment=describe_environment(),
    )


def _configs(config: Config) -> list[tuple[Settings, Config]]:
    """The settings of each student and its configuration, which are checked."""
    has_history = any(spec.kind == "history" for spec in config.query.values())
    found = config.sweep.students(config.student, has_history)
    if not found:
        raise ConfigError(
            "`sweep.vary` must name keys of `student` with their values, because a "
            "student from `student.factory` has no width. Received: nothing"
        )
    # The gate is reported for each student and stops none of them.
    overrides = {"distill.gate": "warn"}
    return [(each, with_settings(config, {**each, **overrides})) for each in found]


def _comparable(run: RunContext) -> float | None:
    """The teacher's metric, if it has the lists and the candidates of a student's."""
    teacher = run.artefacts["teacher"].record
    whole = len(run.teacher_validation) == len(run.validation)
    return teacher["valid"] if whole and not teacher["sampled_candidates"] else None


def _shared_steps(pipeline: Pipeline) -> tuple[str, ...]:
    """Runs the steps that all students share, and returns their names.

    The baseline of a student proposes its retrieved lists, so each has its own; scores
    of candidates that were stored before are kept.
    """
    if pipeline.context.config.lists.size == "retrieved":
        return ("prepare", "teacher")
    pipeline.run("score")
    return ("prepare", "teacher", "score")


def _variant(
    pipeline: Pipeline, shared: Sequence[str], config: Config, label: str
) -> Pipeline:
    """The pipeline of a student, in the run's own folder, so that a run finds it."""
    progress = pipeline.context.progress
    return pipeline.variant(
        config,
        pipeline.workspace.root,
        shared,
        lambda activity, *state: progress(f"{label}: {activity}", *state),
    )


def _warn_once(pipeline: Pipeline, warnings: Iterable[str], said: set[str]) -> None:
    """Passes on warnings that no other student of the sweep has had."""
    for warning in warnings:
        if warning not in said:
            pipeline.context.warn(warning)
            said.add(warning)


def _measured_student(variant: Pipeline, settings: Settings) -> MeasuredStudent:
    """Trains and measures one student, as far as that was not done before."""
    distilled = variant.run("distill")
    run, config = variant.context, variant.context.config
    run.progress("Measuring its SavedModel", 0, None)
    measured = measured_export(variant, distilled)
    samples = config.evaluate.bootstrap
    ours, alone = _rows(measured), _rows(run.artefacts["baseline"])
    metric, seed = run.validation.metrics[0], config.seed
    quality, baseline = (
        bootstrap(rows, [metric], samples=samples, seed=seed)[metric]
        for rows in (ours, alone)
    )
    gain = paired_difference(ours, alone, [metric], samples=samples, seed=seed)
    return MeasuredStudent(
        settings=settings,
        quality=quality,
        baseline=baseline,
        gain=gain[metric],
        parameters=distilled.record["parameters"],
        measured=measured.record["measured"],
        gate=run.gate.passed,
    )


def _rows(artefact: Artefact) -> pa.Table:
    return pq.read_table(artefact.file(VALID))


def measured_export(variant: Pipeline, distilled: Artefact) -> Artefact:
    """The measurement of a student's SavedModel, which is exported for it and removed.

    It is an artefact of this machine: latency and size, and the metrics of the
    validation lists with the item embeddings as they are stored. The export is checked
    to score with these embeddings.
    """
    run = variant.context
    machine = describe_environment([])
    inputs = {
        "distill_key": distilled.key,
        "machine": {name: machine.get(name) for name in ("cpu", "cores")},
        **run.validation_inputs,
        **sections(run.config, "seed", "export"),
    }
    for key in ("path", "budget"):
        inputs["export"].pop(key)
    with variant.workspace.produce("measure", inputs) as draft:
        if draft.done is None:
            draft.restart()
            student = run.student_model("distill")
            exported = as_exported(student, run.config.export.storage)
            rows = run.validation.rows(compiled(exported))
            pq.write_table(rows, draft.path / VALID)
            export = export_student(
                student,
                run.prepared.schema,
                run.prepared.items,
                draft.path,
                name="student",
                rows=run.prepared.raw_queries(run.config.export.parity_rows),
                settings=export_settings(run),
            )
            draft.record = {"measured": measure_served(export.path)}
            remove(draft.path / "student")
    return draft.artefact()


def write_sweep(result: SweepResult) -> dict[str, Any]:
    """Writes `sweep.json`, `sweep.html` and `knee.toml` into the sweep's folder.

    Args:
        result: The result of a sweep.

    Returns:
        The document of the sweep, which is also in `sweep.json`.
    """
    config = result.config
    folder = config.local_workdir / config.name / FOLDER
    files = {
        "knee": folder / "knee.toml",
        "page": folder / "sweep.html",
        "document": folder / "sweep.json",
    }
    found = {
        "name": config.name,
        "metric": result.metric,
        "lists": result.lists,
        "teacher": result.teacher,
        "knee": result.knee,
        "front": list(result.front),
        "students": [_student(each) for each in result.students],
        "environment": dict(result.environment),
        "files": {name: str(path) for name, path in files.items()},
    }
    knee = with_settings(config, result.students[result.knee].settings)
    comment = f"{sweep_verdict(found)} Written by `recdistill sweep`."
    named = knee.model_copy(update={"name": f"{config.name}_knee"})
    write_config(named, files["knee"], comment)
    write_result(files, render_sweep_page(found), found)
    return found


def _student(student: MeasuredStudent) -> dict[str, Any]:
    return {
        "settings": dict(student.settings),
        "quality": _estimate(student.quality),
        "baseline": _estimate(student.baseline),
        "gain": _estimate(student.gain),
        "parameters": student.parameters,
        "measured": dict(student.measured),
        "gate": student.gate,
    }


def _estimate(one: Interval) -> dict[str, Any]:
    return {
        "value": one.value or 0.0,
        "ci": None if one.low is None else [one.low, one.high],
    }
