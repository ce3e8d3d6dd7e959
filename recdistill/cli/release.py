"""`recdistill release`: labels and old versions of an exported model."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recdistill.cli.common import (
    AsJson,
    ExportFolder,
    errors_as_paragraphs,
    without_startup_notes,
)

if TYPE_CHECKING:
    from recdistill.serving.deploy.releases import Release

Label = Annotated[
    str, typer.Option(metavar="NAME", help="The label, such as stable or canary.")
]
ModelsConfig = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The server's models.config (default: the one next to EXPORT).",
    ),
]

Endpoints = Annotated[
    list[str] | None,
    typer.Option(
        "--endpoint",
        metavar="URL",
        help="A running server, such as localhost:8500. Repeatable.",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Registers `release` and its commands."""
    group = typer.Typer(
        no_args_is_help=True, help="Move labels between versions; remove old versions."
    )
    for command, summary in (
        (promote, "Move a label to a version."),
        (rollback, "Move a label back to its previous version."),
        (prune, "Remove old versions that have no label."),
    ):
        group.command(command.__name__, short_help=summary)(command)
    app.add_typer(group, name="release")


def promote(
    export: ExportFolder,
    version: Annotated[
        int | None,
        typer.Argument(metavar="[VERSION]", help="The version (default: the latest)."),
    ] = None,
    label: Label = "stable",
    config: ModelsConfig = None,
    endpoint: Endpoints = None,
    now: Annotated[
        bool,
        typer.Option(
            "--now",
            help="Move the label in one step, for a server that is not running.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Moves a label to a version after checking the version's files.

    A server moves a label only to a version that it has loaded. The first call makes
    the server load the version. Run the command again with --endpoint: it asks the
    server whether the version is loaded, and then moves the label. A new label needs
    only one call.
    """
    with errors_as_paragraphs():
        with without_startup_notes():
            from recdistill.serving.deploy import releases
        done = releases.promote(
            export,
            version,
            label=label,
            config=config,
            endpoints=endpoint or (),
            now=now,
        )
    _show(done, as_json)


def rollback(
    export: ExportFolder,
    label: Label = "stable",
    config: ModelsConfig = None,
    endpoint: Endpoints = None,
    as_json: AsJson = False,
) -> None:
    """Moves a label back to its previous version, which is still loaded.

    It never moves a label to a higher version. With --endpoint it first checks that the
    server has loaded the previous version.
    """
    with errors_as_paragraphs():
        with without_startup_notes():
            from recdistill.serving.deploy import releases
        done = releases.rollback(
            export, label=label, config=config, endpoints=endpoint or ()
        )
    _show(done, as_json)


def prune(
    export: ExportFolder,
    keep: Annotated[
        int, typer.Option(metavar="N", help="Number of latest versions to keep.")
    ],
    config: ModelsConfig = None,
    unlabelled: Annotated[
        bool,
        typer.Option(
            "--unlabelled",
            help="Confirm that the server has no models.config, so no labels.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Removes old versions, except those that have a label or that the server loads."""
    with errors_as_paragraphs():
        with without_startup_notes():
            from recdistill.serving.deploy import releases
        gone = releases.prune(export, keep, config=config, unlabelled=unlabelled)
    if as_json:
        typer.echo(json.dumps({"removed": gone}))
        return
    names = ", ".join(map(str, gone))
    typer.echo(f"Removed: {names}" if gone else "Nothing to remove.")


def _show(done: Release, as_json: bool) -> None:
    if as_json:
        result: dict[str, Any] = {**asdict(done), "config": str(done.config)}
        typer.echo(json.dumps(result, indent=1))
        return
    before = "" if done.before is None else f", from {done.before}"
    loading = (
        f"{done.config} tells the server to load version {done.version}, which is not "
        f"known to be loaded yet; {done.label} is still at {done.before}. Run this "
        "command again with --endpoint: it asks the server whether the version is "
        "loaded, and then moves the label."
    )
    if done.before == done.version:
        loading = (
            f"{done.label} is at {done.version} in {done.config}, but the server has "
            "not loaded that version. If this does not change within a minute, the "
            "server rejects the file: use `recdistill release rollback`."
        )
    typer.echo(
        {
            "moved": f"{done.label} → {done.version}{before} ({done.config})",
            "unchanged": f"{done.label} is already at {done.version}.",
            "loading": loading,
        }[done.state]
    )
