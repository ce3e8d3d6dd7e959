"""`recdistill drift`: says whether it is time to distil again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recdistill.cli.common import (
    AsJson,
    ExportFolder,
    check_options,
    check_output,
    errors_as_paragraphs,
    without_startup_notes,
)
from recdistill.cli.progress_display import Display

DISTIL_AGAIN = 3
"""Exit code if the newer data differs from the run beyond noise."""


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    summary = "Compare newer data with a run: is it time to distil again?"
    app.command("drift", short_help=summary)(drift)


def drift(
    export: ExportFolder,
    data: Annotated[
        Path,
        typer.Option(
            metavar="NEW",
            help="The newer data in the layout of the run's data: a folder of tables, "
            "or a file of interactions (or lists), except for the readers movielens "
            "and recbole. It must have the whole history of its queries, because the "
            "lists are made as in the run.",
        ),
    ],
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Folder of the run that made EXPORT, such as runs/films (default: the "
            "folder where it was at that time).",
        ),
    ] = None,
    sample: Annotated[
        int, typer.Option(help="Largest number of new lists that are scored.")
    ] = 1_000,
    prometheus: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write the numbers as a textfile for Prometheus's node exporter "
            "(.prom).",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compares newer data with the run that an export was made by.

    A sample of the new lists is scored by the run's teacher and by the exported model.
    Their agreement, their quality, and the shares of unknown values are compared with
    those of the run's test lists, over all lists and by slice. Exit code 3 means that
    a number became worse beyond noise, so that it is time to distil again.

    Example: **recdistill drift export/films --data logs/today.parquet**
    """
    with errors_as_paragraphs(), Display(as_json) as display:
        check_options({"--sample": (sample, 2, 10_000_000)})
        check_output("--prometheus", prometheus)
        display.progress("Starting TensorFlow", 0, None)
        with without_startup_notes():
            from recdistill.pipeline.runs.drift_check import check_drift
        found = check_drift(
            export, data, folder=run, sample=sample, progress=display.progress
        )
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=1))
    else:
        from recdistill.pipeline.runs.drift_metrics import as_table

        Console().print(as_table(found))
    if prometheus is not None:
        from recdistill.atomic import atomic_write
        from recdistill.pipeline.runs.drift_metrics import as_textfile

        with errors_as_paragraphs(), atomic_write(prometheus) as temporary:
            temporary.write_text(as_textfile(found), encoding="utf-8")
    if found.worse:
        raise typer.Exit(DISTIL_AGAIN)
