"""`recdistill reindex` and `recdistill release`: a model after its export."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pyarrow as pa

    from recdistill.serving.deploy.releases import Release

__all__ = ["add_release"]

Guard = Callable[[], AbstractContextManager[None]]

Folder = Annotated[
    Path,
    typer.Argument(metavar="EXPORT", help="The model's folder, such as export/films."),
]
Label = Annotated[str, typer.Option(metavar="NAME", help="stable, canary, …")]
ModelsConfig = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The server's models.config; the one beside EXPORT if not given.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON, for machines.")
]


def add_release(app: typer.Typer, errors_as_text: Guard, quietly: Guard) -> None:
    """Adds the commands.

    Args:
        app: Where to.
        errors_as_text: Turns errors that the user can mend into a paragraph.
        quietly: Keeps what TensorFlow writes on import off the terminal.
    """
    release = typer.Typer(
        no_args_is_help=True, help="Move labels between versions; remove old ones."
    )
    app.add_typer(release, name="release")
    _add_reindex(app, errors_as_text, quietly)
    _add_promote(release, errors_as_text, quietly)
    _add_rollback(release, errors_as_text, quietly)
    _add_prune(release, errors_as_text, quietly)


def _add_reindex(app: typer.Typer, errors_as_text: Guard, quietly: Guard) -> None:
    @app.command("reindex", short_help="New items under a served model, in seconds.")
    def reindex(
        export: Folder,
        items: Annotated[
            Path,
            typer.Option(metavar="FILE", help="The new catalogue, Parquet or CSV."),
        ],
        version: Annotated[
            int | None,
            typer.Option(metavar="N", help="Whose towers; the highest if not given."),
        ] = None,
        as_json: AsJson = False,
    ) -> None:
        """Publishes the next version of a model with other items.

        The items go through the exported candidate tower, and the towers stay as they
        are. It needs the export and the items, and nothing of the training.
        """
        with errors_as_text():
            table = _read_items(items)
            with quietly():
                from recdistill.export.reindexing import reindex as run
            done = run(export, table, version=version)
        if as_json:
            result = {"path": str(done.path), "version": done.version}
            more = {"items": done.manifest["items"], "parity": asdict(done.parity)}
            typer.echo(json.dumps({**result, **more}, indent=1))
            return
        typer.echo(
            f"{done.path}: {done.manifest['items']:,} items, towers of version "
            f"{done.manifest['reindexed_from']}"
        )


def _read_items(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    from recdistill.errors import DataError

    try:
        if path.suffix == ".csv":
            return pyarrow.csv.read_csv(path)
        return pyarrow.parquet.read_table(path)
    except pa.ArrowInvalid as error:
        raise DataError(
            "`items` must be a Parquet file, or CSV with that suffix. Received: "
            f"{path} ({error})"
        ) from error


def _add_promote(app: typer.Typer, errors_as_text: Guard, quietly: Guard) -> None:
    @app.command("promote", short_help="Give a label to a version.")
    def promote(
        export: Folder,
        version: Annotated[
            int | None,
            typer.Argument(metavar="[VERSION]", help="The highest if not given."),
        ] = None,
        label: Label = "stable",
        config: ModelsConfig = None,
        now: Annotated[
            bool,
            typer.Option("--now", help="In one turn: the server is not running."),
        ] = False,
        as_json: AsJson = False,
    ) -> None:
        """Moves a label to a version, once the version's files have been checked.

        A server moves a label only to a version that it has loaded. Where it has not,
        this has it loaded; run the same command again when the server has it.
        """
        with errors_as_text():
            with quietly():
                from recdistill.serving.deploy import releases
            done = releases.promote(
                export, version, label=label, config=config, now=now
            )
        _show(done, as_json)


def _add_rollback(app: typer.Typer, errors_as_text: Guard, quietly: Guard) -> None:
    @app.command("rollback", short_help="Give a label back to the version before.")
    def rollback(
        export: Folder,
        label: Label = "stable",
        config: ModelsConfig = None,
        as_json: AsJson = False,
    ) -> None:
        """Moves a label back to the version that it left, which is loaded still."""
        with errors_as_text():
            with quietly():
                from recdistill.serving.deploy import releases
            done = releases.rollback(export, label=label, config=config)
        _show(done, as_json)


def _add_prune(app: typer.Typer, errors_as_text: Guard, quietly: Guard) -> None:
    @app.command("prune", short_help="Remove old versions; labelled ones stay.")
    def prune(
        export: Folder,
        keep: Annotated[
            int, typer.Option(metavar="N", help="How many of the highest stay.")
        ],
        config: ModelsConfig = None,
        unlabelled: Annotated[
            bool,
            typer.Option(
                "--unlabelled", help="There is no models.config, and no label."
            ),
        ] = False,
        as_json: AsJson = False,
    ) -> None:
        """Removes old versions; what a label names or the server loads stays."""
        with errors_as_text():
            with quietly():
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
    typer.echo(
        {
            "moved": f"{done.label} → {done.version}{before} ({done.config})",
            "unchanged": f"{done.label} is at {done.version} already.",
            "loading": (
                f"{done.config} now has version {done.version} loaded; {done.label} "
                f"is at {done.before} still. When the server has loaded it, run this "
                "again to move the label."
            ),
        }[done.state]
    )
