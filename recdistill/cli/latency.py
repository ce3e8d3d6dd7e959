"""`recdistill latency` and `recdistill serving-config`: a model's times, offline."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from recdistill.evaluation.latency.saved_model_timing import Call
    from recdistill.pipeline.latency_comparison import SideBySide
    from recdistill.pipeline.pipeline import Pipeline

__all__ = ["add_latency"]

Guard = Callable[[], AbstractContextManager[None]]
Finished = Callable[[Path, list[str] | None, bool], "Pipeline"]

AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON, for machines.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of CONFIG."),
]
Signatures = Annotated[
    list[str] | None, typer.Option(help="May be repeated; else all that are there.")
]
Seconds = Annotated[float, typer.Option(help="For each figure.")]
Numbers = list[int] | None


def add_latency(app: typer.Typer, errors_as_text: Guard, finished: Finished) -> None:
    """Adds both commands.

    Args:
        app: Where to.
        errors_as_text: Turns errors that the user can mend into a paragraph.
        finished: Runs the pipeline of a file, with its overrides, to the end.
    """
    _add_latency(app, errors_as_text, finished)
    _add_serving_config(app, errors_as_text)


def _add_latency(app: typer.Typer, errors_as_text: Guard, finished: Finished) -> None:
    @app.command(short_help="Time a SavedModel offline, and say what it costs.")
    def latency(
        what: Annotated[
            Path,
            typer.Argument(
                metavar="EXPORT|CONFIG",
                help="EXPORT/NAME, a version in it, or the pipeline's file.",
            ),
        ],
        overrides: Overrides = None,
        signature: Signatures = None,
        rows: Annotated[
            Numbers, typer.Option(help="Batch sizes; else 1 and 8.")
        ] = None,
        candidates: Annotated[
            Numbers, typer.Option(help="Of `rank`; else 100 and 1000.")
        ] = None,
        threads: Annotated[
            Numbers, typer.Option(help="Of TensorFlow; else 1 and all cores.")
        ] = None,
        seconds: Seconds = 1.0,
        core_price: Annotated[
            float, typer.Option(help="Of a core for an hour.")
        ] = 0.04,
        as_json: AsJson = False,
    ) -> None:
        """Times a SavedModel's calls in a fresh process, and says what they cost.

        By signature, batch size, candidates and threads: percentiles, requests a
        core-second, the price of a million requests, operations, and joules where the
        machine counts them. With the file of a pipeline the teacher is timed beside
        the student as well. Protocol and network come with `recdistill load-test`.
        """
        sizes, ranked = rows or [1, 8], candidates or [100, 1000]
        with errors_as_text():
            from recdistill.evaluation.latency.latency_tables import (
                latency_json,
                render_latency,
            )
            from recdistill.evaluation.latency.saved_model_timing import time_model
            from recdistill.export.layout import find_version

            pair: list[SideBySide] = []
            export = what
            if what.suffix == ".toml":
                pipeline = finished(what, overrides, as_json)
                from recdistill.pipeline.latency_comparison import time_side_by_side

                pair = time_side_by_side(pipeline, ranked)
                export = Path(pipeline.run("export").record["path"])
            model = find_version(export)
            calls = _calls(model, signature, sizes, ranked)
            runs = [
                time_model(model, calls, threads=n, seconds=seconds, flops=True)
                for n in threads or sorted({1, os.cpu_count() or 1})
            ]
        if as_json:
            typer.echo(json.dumps(latency_json(runs, core_price, pair), indent=1))
            return
        Console().print(render_latency(runs, core_price, pair))


def _add_serving_config(app: typer.Typer, errors_as_text: Guard) -> None:
    @app.command(
        "serving-config",
        short_help="Write a model server's files, from measured times.",
    )
    def serving_config(
        export: Annotated[
            Path, typer.Argument(metavar="EXPORT", help="EXPORT/NAME, or a version.")
        ],
        out: Annotated[
            Path, typer.Option(metavar="FOLDER", help="Where the files go.")
        ] = Path("serving/config"),
        budget_ms: Annotated[
            float, typer.Option(help="What p99 should stay under, inside the server.")
        ] = 10.0,
        threads: Annotated[
            int | None, typer.Option(help="Cores of the server; else of this machine.")
        ] = None,
        signature: Signatures = None,
        candidates: Annotated[int, typer.Option(help="Of a row of `rank`.")] = 100,
        seconds: Seconds = 0.5,
        models: Annotated[
            str, typer.Option(help="The exports' folder, as the server sees it.")
        ] = "/models",
        config: Annotated[
            str, typer.Option(help="FOLDER, as the server sees it.")
        ] = "/config",
        as_json: AsJson = False,
    ) -> None:
        """Measures the model by batch size, and writes the model server's files.

        They are `models.config` (left alone where it has the model), `batching.config`
        with the reasons above the numbers, `monitoring.config` and `model_server.sh`,
        the command that starts the server. The paths in them are those that the
        server sees; the defaults are those of `serving/docker-compose.yml`.
        """
        with errors_as_text():
            from recdistill.evaluation.latency.latency_tables import render_sweep
            from recdistill.export.layout import find_version
            from recdistill.serving.deploy.tuning import (
                ONLINE,
                sweep,
                write_configuration,
            )

            swept = sweep(
                find_version(export),
                budget_ms=budget_ms,
                threads=threads or os.cpu_count() or 1,
                signatures=signature or ONLINE,
                candidates=candidates,
                seconds=seconds,
            )
            paths = write_configuration(swept, out, models=models, config=config)
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
        console.print(render_sweep(swept))
        for path in paths:
            typer.echo(path)


def _calls(
    model: Path, signatures: list[str] | None, sizes: list[int], ranked: list[int]
) -> list[Call]:
    """The grid: every signature, every batch size, and for `rank` every width."""
    from recdistill.errors import TimingError
    from recdistill.evaluation.latency.saved_model_timing import Call
    from recdistill.export.layout import read_manifest

    known = read_manifest(model)["signatures"]
    unknown = set(signatures or ()) - set(known)
    if unknown:
        raise TimingError(
            f"`--signature` must be one of {sorted(known)}. Received: {sorted(unknown)}"
        )
    calls = []
    for name in signatures or known:
        widths = ranked if "candidate_ids" in known[name]["inputs"] else [None]
        calls += [Call(name, size, width) for size in sizes for width in widths]
    return calls
