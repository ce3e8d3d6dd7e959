"""Shared parts of all commands: options, errors and exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from recdistill.cli.progress_display import Display
from recdistill.errors import ConfigError, RecdistillError

if TYPE_CHECKING:
    from recdistill.pipeline.runner import Pipeline

MOST_THREADS = 1_024
"""Largest number of threads or processes that a command starts."""

LONGEST_S = 86_400
"""Longest duration of a measurement and longest interval, in seconds: a day."""

EXIT_CODES = (
    "Exit codes: 0 success, 2 bad input, 3 the teacher is not worth distilling, the "
    "student falls below the baseline on a slice, no student or rate is within the "
    "budget, or it is time to distil again, 4 the SavedModel does not answer as the "
    "student does."
)

ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="The pipeline's TOML file.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override one key of CONFIG, such as student.dim=64. Repeatable.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
ExportFolder = Annotated[
    Path,
    typer.Argument(metavar="EXPORT", help="The model's folder, such as export/films."),
]


@contextlib.contextmanager
def errors_as_paragraphs() -> Iterator[None]:
    """Prints an error that a user can fix as one paragraph and sets the exit code.

    Other exceptions are bugs and keep their traceback.
    """
    try:
        yield
    except (RecdistillError, OSError) as error:
        code = getattr(error, "exit_code", RecdistillError.exit_code)
        _print_error(str(error))
        raise typer.Exit(code) from error
    except Exception as error:
        if not _is_lack_of_memory(error):
            raise
        reason = str(error).partition("\n")[0] or "no memory is left"
        _print_error(
            f"The machine has too little memory: {reason}. Lower the sizes in the "
            "configuration, or use a larger machine."
        )
        raise typer.Exit(RecdistillError.exit_code) from error


def _print_error(message: str) -> None:
    console = Console(stderr=True)
    paragraph = " ".join(line.strip() for line in message.splitlines())
    text = Text.assemble(("Error: ", "bold red"), paragraph)
    # Without a terminal lines are not wrapped, so that paths stay in one piece.
    console.print(text, soft_wrap=not console.is_terminal)


def _is_lack_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(
        error, tensorflow.errors.ResourceExhaustedError
    )


def check_options(
    limits: Mapping[str, tuple[float | Sequence[float] | None, float, float]],
) -> None:
    """Checks that the numbers of options lie within their limits.

    Args:
        limits: For each option its value, or the values of a repeatable one, and the
            least and the greatest value that is allowed; None is not checked.

    Raises:
        ConfigError: If a number is too small, too large or not a number.

    Examples:
        >>> check_options({"--threads": (8, 1, 1_024), "--rate": (None, 0, 10)})
    """
    for option, (given, low, high) in limits.items():
        values = given if isinstance(given, Sequence) else [given]
        for value in values:
            if value is not None and not low <= value <= high:
                raise ConfigError(
                    f"`{option}` must be from {low:,g} to {high:,g}. Received: {value}"
                )


def check_left_out(where: str, given: Mapping[str, object]) -> None:
    """Checks that options without effect were not given.

    Args:
        where: Case in which they have no effect, such as "with EXPORT".
        given: For each option its value; None or an empty list if it was not given.

    Raises:
        ConfigError: If an option was given.

    Examples:
        >>> check_left_out("with EXPORT", {"--set": None})
    """
    for option, value in given.items():
        if value not in (None, []):
            raise ConfigError(
                f"`{option}` must be left out {where}, because it has no effect there. "
                f"Received: {value}"
            )


def check_output(option: str, file: Path | None) -> None:
    """Checks, before any work, that an output file can be written.

    Args:
        option: The option that names it.
        file: The file; None is not checked.

    Raises:
        ConfigError: If its folder does not exist, or there is a folder of this name.
    """
    if file is None:
        return
    if file.is_dir() or not file.parent.is_dir():
        raise ConfigError(
            f"`{option}` must be a file in an existing folder. Received: {file}"
        )


@contextlib.contextmanager
def without_startup_notes() -> Iterator[None]:
    """Hides what TensorFlow's libraries print while they are imported.

    They write to the file descriptor before they read any setting. Exceptions of the
    import are not affected.
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


def load_pipeline(
    config: Path,
    overrides: list[str] | None,
    display: Display,
    with_test: bool = True,
) -> Pipeline:
    """Reads a configuration and creates its pipeline.

    Args:
        config: The TOML file.
        overrides: `KEY=VALUE` strings.
        display: Shows progress, finished steps and warnings.
        with_test: Whether the test part may be read after the step `prepare`.

    Raises:
        ConfigError: If the configuration is not valid.
    """
    from recdistill.pipeline.config import load_config

    settings = load_config(config, overrides or ())
    display.progress("Starting TensorFlow", 0, None)
    with without_startup_notes():
        from recdistill.pipeline.runner import Pipeline
    return Pipeline(
        settings,
        display.progress,
        display.announce,
        display.warn,
        with_test=with_test,
    )


def print_result(
    found: Mapping[str, Any],
    render: Callable[[Mapping[str, Any]], RenderableType],
    chosen: str,
    as_json: bool,
) -> None:
    """Prints the result of a search or a sweep, its page and how to run its choice.

    Args:
        found: The document of the result.
        render: Renders the document for the terminal.
        chosen: Name of the document's file with the chosen settings.
        as_json: Whether the document is printed instead.
    """
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    from recdistill.evaluation.report.terminal_tables import unbroken_line

    console = Console()
    console.print()
    console.print(render(found))
    command = shlex.join(["recdistill", "run", found["files"][chosen]])
    for label, text in (("page", found["files"]["page"]), ("run it", command)):
        console.print(unbroken_line((f"{label:<8}", "dim"), text), crop=False)
