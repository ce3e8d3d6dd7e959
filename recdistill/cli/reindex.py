"""`recdistill reindex`: new items for an exported model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from recdistill.cli.common import (
    AsJson,
    ExportFolder,
    errors_as_paragraphs,
    without_startup_notes,
)
from recdistill.cli.progress_display import Display


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    summary = "Publish a model with a new item catalogue, without training."
    app.command("reindex", short_help=summary)(reindex)


def reindex(
    export: ExportFolder,
    items: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="The new catalogue: a table (Parquet, CSV, JSON lines), or a folder.",
        ),
    ],
    version: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Version whose towers are used (default: the latest)."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Publishes the next version of a model with a new item catalogue.

    The items are encoded by the exported candidate tower; both towers stay unchanged.
    The command needs only the export and the items, and no training data.
    """
    from recdistill.data.table_files import read_table

    with errors_as_paragraphs(), Display(as_json) as display:
        display.progress("Reading the items", 0, None)
        table = read_table(items)
        with without_startup_notes():
            from recdistill.export.reindexing import reindex as publish_new_items
        done = publish_new_items(
            export, table, version=version, progress=display.progress
        )
    if as_json:
        result = {"path": str(done.path), "version": done.version}
        more = {"items": done.manifest["items"], "parity": asdict(done.parity)}
        more |= {k: done.manifest.get(k) for k in ("unknown", "other_types")}
        typer.echo(json.dumps({**result, **more}, indent=1))
        return
    typer.echo(
        f"{done.path}: {done.manifest['items']:,} items, towers of version "
        f"{done.manifest['reindexed_from']}"
    )
    from recdistill.features.unknown_values import in_words

    unknown = in_words(done.manifest.get("unknown", {}))
    if unknown:
        typer.echo(f"values unknown in training: {unknown}")
    for difference in done.manifest.get("other_types", ()):
        typer.echo(difference)
