"""The step `export`: the student as a SavedModel."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recdistill.errors import ConfigError
from recdistill.pipeline.steps.evaluate import CANDIDATES, enforce_guard
from recdistill.pipeline.steps.step import Step, sections

if TYPE_CHECKING:
    from recdistill.export.publishing import ExportSettings
    from recdistill.pipeline.artefacts.artefact import Artefact
    from recdistill.pipeline.artefacts.workspace import Draft
    from recdistill.pipeline.config import Config
    from recdistill.pipeline.run_context import RunContext


JUDGED_LISTS = 256
"""Smallest number of test lists on which the report's metric is recomputed."""

SMALL = 0.005
"""Largest difference between reported and served metric that needs no warning."""


class ExportStep(Step):
    """Exports the student and checks that the export ranks as the student does."""

    name = "export"
    summary = "Export the SavedModel and check that it scores as the student does."

    def needs(self, config: Config) -> tuple[str, ...]:
        """The student and its report."""
        return ("distill", "evaluate")

    def reads(self, config: Config) -> tuple[str, ...]:
        """The prepared data, the student and its report."""
        return ("prepare", "distill", "evaluate")

    def before(self, run: RunContext) -> None:
        """Stops the run if a slice has fallen below the baseline."""
        enforce_guard(run)

    def inputs(self, run: RunContext) -> dict[str, Any]:
        """Name and settings of the export."""
        return sections(run.config, "name", "export")

    def work(self, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Publishes the next version; its path is the record."""
        name, settings = run.config.name, run.config.export
        from recdistill.export.layout import verified_manifest, version_with

        published = version_with(settings.path / name, "key", draft.key)
        if published is not None:
            return _record(published, verified_manifest(published), {})
        from recdistill.evaluation.report.run_report import Report
        from recdistill.export.student_export import export_student
        from recdistill.pipeline.candidates.sampled_candidates import SampledCandidates
        from recdistill.pipeline.evaluation.judged_lists import judged_lists
        from recdistill.pipeline.evaluation.report_building import ON_CARD

        run.progress("Exporting the student", 0, None)
        measured: dict[str, float] = {}
        evaluated = run.artefacts["evaluate"].path
        report = Report.load(evaluated / "report.json")
        sampled = None
        if run.config.evaluate.sampled_candidates is not None:
            sampled = SampledCandidates.load(evaluated / CANDIDATES)
        export = export_student(
            run.student_model("distill"),
            run.prepared.schema,
            run.prepared.items,
            settings.path,
            name=name,
            rows=run.prepared.raw_queries(settings.parity_rows),
            settings=export_settings(
                run,
                accept=partial(_measure, settings.budget, measured),
                judged=judged_lists(
                    run.prepared,
                    evaluated / "distilled.parquet",
                    run.config.evaluate.metrics,
                    max(settings.parity_rows, JUDGED_LISTS),
                    run.score_tables,
                    sampled,
                    retrieved=sampled is None and run.reranks,
                ),
                progress=run.progress,
                metadata={
                    "key": draft.key,
                    "fingerprint": report.metrics_fingerprint(),
                    "run": os.path.relpath(run.root, settings.path / name),
                    "report": report.model_dump(mode="json", include=ON_CARD),
                },
            ),
            on_device=settings.on_device,
            types=run.config.dataset.items.types,
        )
        return _record(export.path, export.manifest, measured)

    def details(self, record: Mapping[str, Any]) -> Iterator[str]:
        """Unknown values among the exported items."""
        from recdistill.features.unknown_values import in_words

        shares = in_words(record["unknown"])
        if shares:
            yield f"values unknown in training, exported items: {shares}"

    def warnings(self, run: RunContext) -> Iterator[str]:
        """Differences between what is served and what was evaluated."""
        record = run.artefacts["export"].record
        yield from _superseded(Path(record["path"]))
        excludes = run.artefacts["prepare"].record["seen"] == "exclude"
        if excludes and not record["excluded_inputs"] and run.prepared.has_seen_items:
            yield (
                "The student has no feature of kind `history`, so its export does not "
                "know which items a query has seen and may return them. The report "
                "leaves them out. Send them as `exclude_ids` of `recommend`."
            )
        if not run.artefacts["export"].reused:
            yield from _types_since_version_before(Path(record["path"]), run)
        judged = record["judged"]
        if judged and abs(judged["served"] - judged["reported"]) > SMALL:
            yield (
                f"The export serves {judged['metric']} {judged['served']:.4f} where "
                f"the report has {judged['reported']:.4f}, on the same "
                f"{judged['lists']} test lists. The approximate index causes the "
                'difference; `export.index` = "exact" avoids it.'
            )

    def is_intact(self, artefact: Artefact) -> bool:
        """False if the exported version was removed.

        Raises:
            ArtefactError: If a file of the version is damaged.
        """
        from recdistill.export.layout import verified_manifest

        version = Path(artefact.record["path"])
        if not version.is_dir():
            return False
        verified_manifest(version)
        return True

    def gist(self, record: Mapping[str, Any]) -> str:
        """Path of the version, and the metric of its answers."""
        judged = record["judged"]
        if judged is None:
            return str(record["path"])
        return (
            f"{record['path']}; serves {judged['metric']} {judged['served']:.4f}, "
            f"reported {judged['reported']:.4f} ({judged['lists']} test lists)"
        )


def check_litert(config: Config) -> None:
    """Checks that LiteRT is installed if the query tower is exported for it.

    Raises:
        ConfigError: If it is not installed.
    """
    if config.export.on_device and find_spec("ai_edge_litert") is None:
        raise ConfigError(
            "`export.on_device` needs the package `ai-edge-litert`, which is not "
            "installed. Install it with `pip install 'recdistill[litert]'`, or set "
            "`export.on_device` = false."
        )


def export_settings(run: RunContext, **more: Any) -> ExportSettings:
    """Settings of the export of a run's student.

    Args:
        run: The run.
        more: Further settings.
    """
    from recdistill.export.publishing import ExportSettings
    from recdistill.pipeline.evaluation.judged_lists import history_inputs
    from recdistill.retrieval.indexing import IndexSettings

    settings = run.config.export
    excludes = run.artefacts["prepare"].record["seen"] == "exclude"
    return ExportSettings(
        top_k=min(settings.top_k, run.prepared.catalogue_size),
        index=IndexSettings(
            settings.index, settings.storage, settings.target_recall, run.config.seed
        ),
        warm_up_batches=settings.warm_up_batches,
        excluded_inputs=history_inputs(run.prepared.schema) if excludes else (),
        **more,
    )


def _superseded(path: Path) -> Iterator[str]:
    """A sentence if commands and servers use a version of another run by default."""
    from recdistill.export.layout import superseded_by
    from recdistill.serving.deploy.model_server import MODELS_FILE

    latest = superseded_by(path)
    if latest is not None:
        folder = path.parent
        yield (
            f"The model of this run is version {path.name}, but {folder} also has "
            f"version {latest.name} of another configuration, which servers and "
            f"commands use by default. To serve version {path.name}, use `recdistill "
            f"release promote {folder} {path.name}` and `recdistill serve {folder} "
            f"--models {folder.parent / MODELS_FILE}`, and send requests with the "
            f"label `stable`; give other commands {path}. To make it the highest "
            f"version instead, remove {path} and repeat the run, which then exports "
            "it as the next version."
        )


def _types_since_version_before(path: Path, run: RunContext) -> Iterator[str]:
    """Sentences on item columns whose type was another in the version before."""
    from recdistill.errors import RecdistillError
    from recdistill.export.layout import read_manifest, versions
    from recdistill.export.unknown_items import other_types

    before = [number for number in versions(path.parent) if number < int(path.name)]
    if not before:
        return
    try:
        manifest = read_manifest(path.parent / str(before[-1]))
    except RecdistillError:
        return  # Not made by this library, or damaged; the new version is whole.
    items = run.prepared.items
    entries = {
        name: entry
        for name, entry in manifest["schema"]["candidate"].items()
        if (entry.get("column") or name) in items.column_names
    }
    for sentence in other_types(entries, items):
        yield f"Compared with version {before[-1]}: {sentence}."


def _measure(budget: str | None, measured: dict[str, float], version: Path) -> None:
    """Measures a version that has a budget.

    Raises:
        BudgetError: If the version is too slow or too large.
    """
    if budget is None:
        return
    from recdistill.errors import BudgetError
    from recdistill.pipeline.config.budget import misses
    from recdistill.pipeline.evaluation.served_measurement import measure_served

    measured |= measure_served(version)
    over = misses(budget, measured)
    if over:
        raise BudgetError(
            f"The SavedModel must be within the budget {budget} (`export.budget`) on "
            f"this machine. Received: {', '.join(over)}. It was not exported."
        )


def _record(
    path: Path, manifest: Mapping[str, Any], measured: Mapping[str, float]
) -> dict[str, Any]:
    """The step's record: the version, what it serves, and what was measured of it."""
    return {
        "path": str(path),
        "measured": dict(measured),
        "excluded_inputs": manifest["excluded_inputs"],
        "judged": manifest["parity"]["judged"],
        "unknown": manifest.get("unknown", {}),
    }
