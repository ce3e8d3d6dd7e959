"""`recdistill doctor`: examines a teacher's scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from recdistill.cli.common import (
    AsJson,
    Overrides,
    check_left_out,
    errors_as_paragraphs,
    load_pipeline,
    without_startup_notes,
)
from recdistill.cli.progress_display import Display
from recdistill.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    summary = "Examine a teacher's scores and propose how to distil them."
    app.command("doctor", short_help=summary)(doctor)


def doctor(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="[CONFIG]", help="The pipeline's TOML file."),
    ] = None,
    overrides: Overrides = None,
    table: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Instead of CONFIG: a Parquet or CSV file with one row for each "
            "(list, candidate).",
        ),
    ] = None,
    list_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Column of FILE with the list's id (default: list_id).",
        ),
    ] = None,
    score_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Column of FILE with the scores (default: score)."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Examines a teacher's scores and proposes a transform and a temperature.

    With CONFIG it examines the stored scores of the run; if they are missing, it first
    runs the steps up to `score`. With --table it examines a file of scores.
    """
    result: dict[str, Any]
    with errors_as_paragraphs(), Display(as_json) as display:
        if (config is None) == (table is None):
            raise ConfigError(
                "Exactly one of CONFIG and `--table` must be given. Received: "
                f"{'neither' if config is None else 'both'}"
            )
        if table is not None:
            check_left_out("with `--table`", {"--set": overrides})
        else:
            columns = {"--list-column": list_column, "--score-column": score_column}
            check_left_out("with CONFIG", columns)
        display.progress("Starting TensorFlow", 0, None)
        with without_startup_notes():
            from recdistill.distillation import score_doctor
            from recdistill.distillation.scored_table import read_scored_table
        if table is not None:
            found = score_doctor.examine(
                *read_scored_table(
                    table, list_column or "list_id", score_column or "score"
                )
            )
            result = {"table": str(table)}
        else:
            pipeline = load_pipeline(config or Path(), overrides, display)
            artefact = pipeline.run("score")
            found = score_doctor.Examination.model_validate(artefact.record["doctor"])
            chosen = pipeline.soft_targets
            result = {
                "artefact": str(artefact.path),
                "soft_targets": chosen.part.model_dump(mode="json"),
                "warning": chosen.warning,
            }
        display.clear()
    result["examination"] = found.model_dump(mode="json")
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    from recdistill.evaluation.report.doctor_sheet import render_examination

    Console().print(render_examination(found, result.get("soft_targets")))
