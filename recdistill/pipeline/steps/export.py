"""The step `export`: the student as a SavedModel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recdistill.pipeline.steps.step import Step, sections

if TYPE_CHECKING:
    from recdistill.pipeline.config import Config
    from recdistill.pipeline.run_context import RunContext
    from recdistill.pipeline.workspace import Artefact, Draft


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

    def inputs(self, run: RunContext) -> dict[str, Any]:
        """Name and settings of the export."""
        return sections(run.config, "name", "export")

    def work(self, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Publishes the next version; its path is the record."""
        name, settings = run.config.name, run.config.export
        from recdistill.export.layout import published_with_key, verified_manifest

        published = published_with_key(settings.path / name, draft.key)
        if published is not None:
            verified_manifest(published)
            return {"path": str(published)}
        from recdistill.evaluation.report.run_report import Report
        from recdistill.export.publishing import ExportSettings
        from recdistill.export.student_export import export_student
        from recdistill.pipeline.report_building import ON_CARD
        from recdistill.retrieval.indexing import IndexSettings

        report = Report.load(run.artefacts["evaluate"].path / "report.json")
        export = export_student(
            run.student_model("distill"),
            run.prepared.schema,
            run.prepared.items,
            settings.path,
            name=name,
            rows=run.prepared.raw_queries(settings.parity_rows),
            settings=ExportSettings(
                top_k=min(settings.top_k, run.prepared.catalogue_size),
                index=IndexSettings(
                    settings.index,
                    settings.storage,
                    settings.target_recall,
                    run.config.seed,
                ),
                warm_up_batches=settings.warm_up_batches,
                metadata={
                    "key": draft.key,
                    "fingerprint": report.metrics_fingerprint(),
                    "report": report.model_dump(mode="json", include=ON_CARD),
                },
            ),
            on_device=settings.on_device,
        )
        return {"path": str(export.path)}

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
        """Path of the version."""
        return str(record["path"])
