"""`recdistill compare`, `runs` and `report`: runs that were made before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from recdistill.cli.common import AsJson, check_output, errors_as_paragraphs
from recdistill.errors import ConfigError

if TYPE_CHECKING:
    from recdistill.evaluation.report.run_report import ModelName

WIDE = 150
"""Columns of a terminal from which `runs` shows data and teachers."""

MODELS = ("popularity", "baseline", "distilled", "teacher")


def add_to(app: typer.Typer) -> None:
    """Registers the commands."""
    app.command(short_help="Compare the models of runs on the same test lists.")(
        compare
    )
    app.command(short_help="List runs with their results.")(runs)
    app.command(short_help="Write the report page of a run again.")(report)


def compare(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folders of runs, such as runs/films. The first one is the reference.",
        ),
    ],
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="Model of each run: distilled (the default), baseline, teacher or "
            "popularity. Repeatable; the first one is the reference.",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the comparison as a page."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compares the models of several runs, or of one run, on the same test lists.

    For each metric it prints the difference from the reference with its bootstrap
    interval, the p-value of a permutation test over queries, corrected for the number
    of comparisons, the queries won, tied and lost, and the effect size. It also names
    the slices of the lists on which the models differ.

    Two runs:

        recdistill compare runs/films runs/films_wide

    All models of one run:

        recdistill compare runs/films --model baseline --model distilled --model teacher
    """
    with errors_as_paragraphs():
        chosen = _models(models)
        check_output("--html", html)
        from recdistill.evaluation.report.comparison_tables import (
            comparison_json,
            render_comparison,
        )
        from recdistill.pipeline.runs.run_comparison import compare_runs, compared_facts

        comparison, opened = compare_runs(folders, chosen)
        facts = compared_facts(opened)
        if html is not None:
            from recdistill.atomic import atomic_write
            from recdistill.evaluation.report.comparison_page import (
                render_comparison_page,
            )

            page = render_comparison_page(comparison, facts)
            with atomic_write(html) as temporary:
                temporary.write_text(page, encoding="utf-8")
    if as_json:
        protocol = opened[0].report.protocol.model_dump(mode="json")
        result = {"protocol": protocol, **comparison_json(comparison)}
        typer.echo(json.dumps(result, indent=1))
        return
    Console().print(render_comparison(comparison, facts))
    if html is not None:
        typer.echo(f"\nPage  {html}")


def _models(given: list[str] | None) -> list[ModelName]:
    chosen: list[Any] = given or ["distilled"]
    for name in chosen:
        if name not in MODELS:
            raise ConfigError(
                f"`--model` must be one of {', '.join(MODELS)}. Received: {name!r}"
            )
    return chosen


def runs(
    folder: Annotated[
        Path,
        typer.Argument(metavar="[FOLDER]", help="The `workdir` of the runs."),
    ] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Lists the runs of a folder, the latest first, with their results.

    Each line has the run's name, the time of its last result, the data, the teacher,
    the share of the gap closed, the first metric of baseline, distilled student and
    teacher, and its state: finished, or the step that it has reached.
    """
    with errors_as_paragraphs():
        from recdistill.pipeline.runs.finished_runs import list_runs
        from recdistill.pipeline.runs.run_table import render_runs, runs_json

        found = list_runs(folder)
    if as_json:
        typer.echo(json.dumps(runs_json(found), indent=1))
        return
    console = Console()
    wide = not console.is_terminal or console.width >= WIDE
    if not console.is_terminal:
        console = Console(width=500)  # each run on one line
    console.print(render_runs(found, wide=wide))


def report(
    folder: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="The folder of a run, such as runs/films."),
    ],
) -> None:
    """Writes `report.html` of a run again, from what the run stored.

    Nothing is computed anew. Use it after an update of recdistill, or if the page was
    removed.
    """
    with errors_as_paragraphs():
        from recdistill.atomic import atomic_write
        from recdistill.pipeline.runs.finished_runs import EvaluatedRun

        page = EvaluatedRun.open(folder).page()
        target = folder / "report.html"
        with atomic_write(target) as temporary:
            temporary.write_text(page, encoding="utf-8")
    typer.echo(target)
