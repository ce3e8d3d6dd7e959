"""`recdistill run`, and one command for each step of a pipeline."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from recdistill.cli.common import (
    AsJson,
    ConfigFile,
    Overrides,
    errors_as_paragraphs,
    load_pipeline,
)
from recdistill.cli.progress_display import Display
from recdistill.errors import GuardError
from recdistill.pipeline.steps import STEPS

if TYPE_CHECKING:
    from recdistill.pipeline.artefacts.artefact import Artefact
    from recdistill.pipeline.config import Config


def add_to(app: typer.Typer) -> None:
    """Registers `run` and the steps."""
    app.command(short_help="Run all steps of a pipeline and show the receipt.")(run)
    for name, step in STEPS.items():
        command = _step_command(name, step.summary)
        app.command(name=name, short_help=step.summary)(command)


def run(
    config: ConfigFile,
    overrides: Overrides = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="LIMITS",
            help="Largest latency and size of the SavedModel, such as "
            '"p99<=2ms, bytes<=5MB" (`export.budget` in CONFIG).',
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Runs all steps of a pipeline and shows the distillation receipt.

    Steps whose inputs did not change are skipped. By default the artefacts are written
    to `runs/NAME` and the SavedModel to `export/NAME/VERSION`.

    With a budget, the students of `recdistill sweep` are compared first. The one that
    is best on validation among those within the budget is evaluated and exported. If
    there is none, nothing is exported and the exit code is 3.

    Example: **recdistill run films.toml --budget "p99<=2ms, bytes<=5MB"**
    """
    if budget is not None:
        overrides = [*(overrides or ()), f"export.budget={json.dumps(budget)}"]
    _run_until("export", config, overrides, as_json, within_budget=True)


def _step_command(step: str, summary: str) -> Any:
    def command(
        config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False
    ) -> None:
        _run_until(step, config, overrides, as_json)

    command.__doc__ = f"{summary}\n\nRuns the steps it depends on first."
    return command


def _run_until(
    step: str,
    config: Path,
    overrides: list[str] | None,
    as_json: bool,
    within_budget: bool = False,
) -> None:
    with errors_as_paragraphs(), Display(as_json) as display:
        pipeline = load_pipeline(config, overrides, display)
        try:
            if within_budget:
                from recdistill.pipeline.variants.budgeted_run import run_to_export

                pipeline, artefact = run_to_export(pipeline, display.say)
            else:
                artefact = pipeline.run(step)
        except GuardError:
            display.clear()
            if not as_json:
                _print_receipt(pipeline.config, {}, [])
            raise
        display.clear()
    command = [str(config), *(f"--set={override}" for override in overrides or ())]
    _show(step, pipeline.config, command, artefact, as_json)


def _show(
    step: str,
    settings: Config,
    command: Sequence[str],
    artefact: Artefact,
    as_json: bool,
) -> None:
    """Prints the result; `command` holds the arguments for the suggested commands."""
    result: dict[str, Any] = {
        "step": step,
        "artefact": str(artefact.path),
        "reused": artefact.reused,
        "record": artefact.record,
    }
    has_report = step in ("evaluate", "export")
    if has_report:
        result |= _report_files(settings)
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    if not has_report:
        typer.echo(artefact.path)
        return
    artefacts = {}
    further = [f"recdistill export {shlex.join(command)}"]
    if step == "export":
        artefacts = {"SavedModel": artefact.record["path"]}
        dim = "--set=student.dim="
        others = [each for each in command if not each.replace(" ", "").startswith(dim)]
        further = [
            *_serving_commands(Path(artefact.record["path"])),
            f"recdistill run {shlex.join(others)} --set student.dim=64",
        ]
    _print_receipt(settings, artefacts, further)


def _serving_commands(version: Path) -> list[str]:
    """Commands that serve a version, which need a label if it is not the highest."""
    from recdistill.export.layout import superseded_by
    from recdistill.serving.deploy.model_server import MODELS_FILE

    folder, base = version.parent, version.parent.resolve()
    serve = ["recdistill", "serve", str(folder)]
    if superseded_by(version) is not None:
        promote = ["recdistill", "release", "promote", str(folder), version.name]
        serve += ["--models", str(folder.parent / MODELS_FILE)]
        return [shlex.join(promote), shlex.join(serve)]
    server = ["tensorflow_model_server", "--rest_api_port=8501"]
    server += [f"--model_name={base.name}", f"--model_base_path={base}"]
    return [shlex.join(serve), shlex.join(server)]


def _report_files(settings: Config) -> dict[str, str]:
    root = settings.local_workdir / settings.name
    return {"report": str(root / "report.json"), "page": str(root / "report.html")}


def _print_receipt(
    settings: Config, artefacts: dict[str, str], further: list[str]
) -> None:
    from recdistill.evaluation.report.receipt import render
    from recdistill.evaluation.report.run_report import Report

    files = _report_files(settings)
    receipt = render(
        Report.load(files["report"]), artefacts=artefacts | files, next_steps=further
    )
    Console().print()
    Console().print(receipt, crop=False)
