"""`recdistill serving-config`: writes TensorFlow Serving's configuration files."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recdistill.cli.common import (
    LONGEST_S,
    MOST_THREADS,
    AsJson,
    check_options,
    errors_as_paragraphs,
)
from recdistill.cli.progress_display import Display


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    summary = "Write TensorFlow Serving's files from measured latencies."
    app.command("serving-config", short_help=summary)(serving_config)


def serving_config(
    export: Annotated[
        Path,
        typer.Argument(metavar="EXPORT", help="EXPORT/NAME, or one of its versions."),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Output folder.")] = Path(
        "serving/config"
    ),
    budget_ms: Annotated[
        float, typer.Option(help="Upper limit for the p99 inside the server, in ms.")
    ] = 10.0,
    threads: Annotated[
        int | None,
        typer.Option(help="Cores of the server (default: those of this machine)."),
    ] = None,
    signature: Annotated[
        list[str] | None,
        typer.Option(
            help="Signature that clients call (default: all but encode_candidates). "
            "Repeatable."
        ),
    ] = None,
    candidates: Annotated[
        int, typer.Option(help="Candidates per query of `rank`.")
    ] = 100,
    seconds: Annotated[
        float, typer.Option(help="Seconds spent on each measurement.")
    ] = 0.5,
    models: Annotated[
        str, typer.Option(help="Path of the folder of exports on the server.")
    ] = "/models",
    config: Annotated[
        str, typer.Option(help="Path of FOLDER on the server.")
    ] = "/config",
    trusted_clients: Annotated[
        bool,
        typer.Option(
            "--trusted-clients",
            help="Enable batching in model_server.sh. A request of a wrong shape can "
            "then end the server, so all clients must be trusted.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measures the model at several batch sizes and writes TensorFlow Serving's files.

    It writes `models.config` (unless that file already has the model),
    `batching.config` with the reason for each number, `monitoring.config`, and
    `model_server.sh`, the command that starts the server. The command enables batching
    only with `--trusted-clients`; the embedded server (`recdistill serve --batching`)
    can use `batching.config` for all clients. The files contain paths as seen by the
    server; the defaults match `serving/docker-compose.yml`.
    """
    with errors_as_paragraphs(), Display(as_json) as display:
        check_options(
            {
                "--budget-ms": (budget_ms, 0.001, 1e3 * LONGEST_S),
                "--threads": (threads, 1, MOST_THREADS),
                "--candidates": (candidates, 1, 10_000_000),
                "--seconds": (seconds, 0.001, LONGEST_S),
            }
        )
        from recdistill.export.layout import find_version
        from recdistill.serving.deploy.tuning import (
            render_sweep,
            sweep,
            write_configuration,
        )

        display.progress("Measuring the model by batch size", 0, None)
        swept = sweep(
            find_version(export),
            budget_ms=budget_ms,
            threads=threads or os.cpu_count() or 1,
            signatures=signature,
            candidates=candidates,
            seconds=seconds,
        )
        paths = write_configuration(
            swept, out, models=models, config=config, trusted_clients=trusted_clients
        )
    if as_json:
        result = {
            "batching": asdict(swept.choice.batching),
            "why": dict(swept.choice.why),
            "holds_budget": swept.choice.holds_budget,
            "slowest_ms": {n: asdict(t) for n, t in swept.slowest.items()},
            "files": list(map(str, paths)),
        }
        typer.echo(json.dumps(result, indent=1))
        return
    console = Console()
    console.print(render_sweep(swept, trusted_clients))
    for path in paths:
        typer.echo(path)
