"""`recdistill`: the command line with all its commands.

Importing TensorFlow takes seconds, so a command imports what it needs when it runs, and
`--help` stays fast.
"""

from __future__ import annotations

import contextlib
import os
from typing import Annotated

import typer

from recdistill import __version__
from recdistill.allocation import keep_freed_memory
from recdistill.cli import (
    compare,
    data,
    doctor,
    drift,
    init,
    latency,
    load_test,
    recommend,
    reindex,
    release,
    run,
    serve,
    serving_config,
    sweep,
    tune,
)
from recdistill.cli.common import EXIT_CODES
from recdistill.pipeline.steps import STEPS

app = typer.Typer(
    name="recdistill",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Distil a heavy ranking model into a light two-tower student for TensorFlow "
        "Serving.\n\n"
        "A pipeline is one TOML file. **recdistill run FILE** runs all of its "
        f"steps: {' → '.join(STEPS)}. The step `assistant` runs only with "
        "`distill.assistant`, `pilot` and `closure` only with retrieved lists (by "
        "default above 5,000 items). Finished steps are skipped, so an interrupted run "
        "continues where it stopped.\n\n"
        "Start with **recdistill init FOLDER**, which writes a pipeline for your data, "
        "or with **recdistill run pipelines/movielens_100k.toml**."
    ),
    epilog=EXIT_CODES,
)


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
            is_eager=True,  # before the error about a missing command
            callback=_show_version,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    pass


for _command in (
    init,
    run,
    tune,
    sweep,
    compare,
    doctor,
    data,
    latency,
    serving_config,
    load_test,
    serve,
    recommend,
    drift,
    reindex,
    release,
):
    _command.add_to(app)


def main() -> None:
    """Entry point of the console script."""
    # Set before TensorFlow is imported, to hide its start-up messages.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    keep_freed_memory()
    with contextlib.suppress(BrokenPipeError):
        app()
