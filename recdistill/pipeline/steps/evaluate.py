"""The step `evaluate`: rankings of the test lists, and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from recdistill.pipeline.steps.step import Step, compared, sections

if TYPE_CHECKING:
    from pathlib import Path

    from recdistill.evaluation.report.page_details import PageDetails, TrainingRun
    from recdistill.evaluation.report.run_report import Report
    from recdistill.pipeline.artefacts.artefact import Artefact
    from recdistill.pipeline.artefacts.workspace import Draft
    from recdistill.pipeline.candidates.sampled_candidates import SampledCandidates
    from recdistill.pipeline.config import Config
    from recdistill.pipeline.config.export_section import Storage
    from recdistill.pipeline.evaluation.model_comparison import (
        ComparisonRows,
        ListRanker,
    )
    from recdistill.pipeline.run_context import RunContext

LISTS, DETAILS = "lists.parquet", "page.json"
"""Files of the artefact with the evaluated lists, and with details of the page."""

CANDIDATES = "candidates.parquet"
"""File of the artefact with the candidates of a sampled evaluation."""

MODEL_CARD = "MODEL_CARD.md"
"""File with the model card, in the artefact and in the run's folder."""


class Evaluate(Step):
    """Ranks the test lists with every model and writes the report."""

    name = "evaluate"
    summary = "Rank the test lists with every model and write the report."
    reads_teacher = True

    def needs(self, config: Config) -> tuple[str, ...]:
        """The models."""
        return (*compared(config), "distill")

    def reads(self, config: Config) -> tuple[str, ...]:
        """The prepared data and the models."""
        return ("prepare", *self.needs(config))

    def inputs(self, run: RunContext) -> dict[str, Any]:
        """Metrics and intervals, the decision at the gate, and the report's format."""
        from recdistill.evaluation.report.run_report import SCHEMA_VERSION
        from recdistill.pipeline.preparation.dataset_loading import licence_of

        return {
            "schema_version": SCHEMA_VERSION,
            "files": [LISTS, DETAILS, MODEL_CARD, "beyond accuracy"],
            "licence": licence_of(run.config.dataset),
            # The last digits of the differences depend on the order of a parallel sum.
            "gate": run.gate.model_dump(mode="json", exclude={"differences"}),
            # Its `action` decides whether to export; the report does not depend on it.
            "largest_fall": run.config.guard.largest_fall,
            "storage": run.config.export.storage,
            **sections(run.config, "seed", "evaluate"),
        }

    def work(self, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Writes the metrics of each test list and model, the report and its page."""
        import pyarrow.parquet as pq

        from recdistill.evaluation.report.page_details import save_details
        from recdistill.export.model_card import render_run_card
        from recdistill.pipeline.evaluation.model_comparison import rank_test_lists
        from recdistill.pipeline.evaluation.report_building import build_report

        sampled = _sampled_candidates(run, draft.path / CANDIDATES)
        rows = rank_test_lists(
            lambda parts: run.engine.map(_open_ranker, parts, run),
            run.prepared,
            run.progress,
            run.score_tables,
            sampled,
        )
        for name, table in rows.models.items():
            pq.write_table(table, draft.path / f"{name}.parquet")
        pq.write_table(rows.agreement, draft.path / "agreement.parquet")
        pq.write_table(rows.lists.table(rows.slices), draft.path / LISTS)
        run.progress("Measuring latency and intervals", 0, None)
        report = build_report(
            run.config,
            run.prepared,
            {
                **{name: artefact.record for name, artefact in run.artefacts.items()},
                "prepare": _dataset(run),
            },
            rows,
            _models(run),
            gate=run.gate,
            soft_targets=run.soft_targets_part,
        )
        report.save(draft.path / "report.json")
        details = page_details(run, report, rows)
        save_details(details, draft.path / DETAILS)
        write_page(draft.path / "report.html", report, details)
        card = render_run_card(report.model_dump(mode="json"))
        (draft.path / MODEL_CARD).write_text(card, encoding="utf-8")
        return {"fingerprint": report.metrics_fingerprint()}

    def after(self, run: RunContext, artefact: Artefact) -> None:
        """Copies report, page and model card into the run's folder, if they changed.

        The configuration is written too, so that the run can be opened again.
        """
        from recdistill.atomic import atomic_write
        from recdistill.pipeline.config.config_saving import save_configuration

        for name in ("report.json", "report.html", MODEL_CARD):
            content = artefact.file(name).read_bytes()
            target = run.root / name
            # A finished run can be opened on a disk that is read-only.
            if not target.is_file() or target.read_bytes() != content:
                with atomic_write(target) as temporary:
                    temporary.write_bytes(content)
        save_configuration(run.config, run.root)

    def warnings(self, run: RunContext) -> Iterator[str]:
        """Sampled evaluation, and slices on which the student is below the baseline."""
        number = run.config.evaluate.sampled_candidates
        if number is not None and number < run.prepared.catalogue_size:
            yield (
                f"All metrics of the test lists are among {number:,} sampled "
                "candidates of each list. They are higher than those of the whole "
                "catalogue, can order models differently, and must not be compared "
                "with them. Without `evaluate.sampled_candidates` the whole catalogue "
                "is ranked."
            )
        fallen = enforce_guard(run)
        if fallen is not None:
            yield fallen

    def gist(self, record: Mapping[str, Any]) -> str:
        """Name of the report."""
        return "report.json"


def write_page(path: Path, report: Report, details: PageDetails) -> None:
    """Writes the report page."""
    from recdistill.evaluation.report.page import render_page

    path.write_text(render_page(report, details), encoding="utf-8")


def _models(run: RunContext) -> dict[str, Any]:
    """The models that are compared, by name."""
    return {
        "baseline": run.student_model("baseline"),
        "distilled": run.student_model("distill"),
        "teacher": run.teacher_model,
    }


def _open_ranker(run: RunContext) -> ListRanker:
    """Opens all models, once in each process that ranks test lists."""
    from recdistill.pipeline.evaluation.model_comparison import ListRanker
    from recdistill.pipeline.evaluation.report_building import seed_name
    from recdistill.pipeline.models.scorers import PopularityScorer, Scorer, compiled
    from recdistill.pipeline.ranking.rounded_student import as_exported

    settings, storage = run.config.evaluate, run.config.export.storage
    retrieves = settings.sampled_candidates is None and run.reranks
    models = _models(run)
    models["distilled"] = as_exported(models["distilled"], storage)
    scorers: dict[str, Scorer] = {
        "popularity": PopularityScorer(run.prepared.popularity),
        **{name: compiled(model) for name, model in models.items()},
    }
    rounding: dict[str, Storage] = {"baseline": "float32", "distill": storage}
    return ListRanker(
        scorers,
        run.prepared.catalogue_size,
        settings.metrics,
        settings.retrieved if retrieves else None,
        further={
            seed_name(model, seed): compiled(
                as_exported(run.student_model(step, seed), rounding[step])
            )
            for model, step in (("baseline", "baseline"), ("distilled", "distill"))
            for seed in run.common_seeds
        },
    )


def _dataset(run: RunContext) -> dict[str, Any]:
    """The record of `prepare`, with the values that the teacher does not know."""
    record, scored = (run.artefacts[name].record for name in ("prepare", "score"))
    return {
        **record,
        "unknown": {**record["unknown"], "teacher": scored["unknown"]},
        "uncounted": scored.get("uncounted", []),
    }


def _sampled_candidates(run: RunContext, path: Path) -> SampledCandidates | None:
    """Draws and stores the candidates of a sampled evaluation, if it is configured."""
    from recdistill.pipeline.candidates.sampled_candidates import SampledCandidates

    number = run.config.evaluate.sampled_candidates
    if number is None:
        return None
    sampled = SampledCandidates.draw(run.prepared, number, run.config.seed)
    sampled.save(path)
    return sampled


def enforce_guard(run: RunContext) -> str | None:
    """Stops the run if a slice has fallen below the baseline, or returns a warning.

    Raises:
        GuardError: If a slice has fallen and `guard.action` is "stop".
    """
    from recdistill.evaluation.guard import enforce
    from recdistill.evaluation.report.run_report import Report

    guard = Report.load(run.artefacts["evaluate"].file("report.json")).guard
    return None if guard is None else enforce(guard, run.config.guard.action)


def page_details(run: RunContext, report: Report, rows: ComparisonRows) -> PageDetails:
    """Content of the report page that is not in the report.

    Args:
        run: The run, with its finished steps.
        report: The report.
        rows: Rankings of the test lists.
    """
    from recdistill.evaluation.report.page_details import PageDetails, TrainingRun
    from recdistill.pipeline.evaluation.evaluated_variants import evaluated_variants
    from recdistill.pipeline.evaluation.query_examples import query_examples

    record = {name: artefact.record for name, artefact in run.artefacts.items()}
    trained = record["teacher"]["trained"]
    return PageDetails(
        training={
            "baseline": training_runs(record["baseline"]),
            "distilled": training_runs(record["distill"]),
            **(
                {"teacher": [*map(TrainingRun.from_record, trained)]} if trained else {}
            ),
        },
        examination=record["score"].get("doctor"),
        examples=query_examples(run.prepared, rows, run.config.seed),
        variants=evaluated_variants(run.config.local_workdir, report),
    )


def training_runs(record: Mapping[str, Any]) -> list[TrainingRun]:
    """Training runs in the record of a student's training, the chosen one first.

    Args:
        record: Record of the step `baseline` or `distill`.
    """
    from recdistill.evaluation.report.page_details import TrainingRun

    runs = [TrainingRun.from_record(trial) for trial in record["trials"]]
    return sorted(runs, key=lambda each: -each.best)
