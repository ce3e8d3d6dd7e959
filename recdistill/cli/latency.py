"""`recdistill latency`: measures a SavedModel offline."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from recdistill.cli.common import (
    LONGEST_S,
    MOST_THREADS,
    AsJson,
    Overrides,
    check_left_out,
    check_options,
    errors_as_paragraphs,
    load_pipeline,
)
from recdistill.cli.progress_display import Display

if TYPE_CHECKING:
    from recdistill.evaluation.latency.latency_tables import RankingTime
    from recdistill.evaluation.latency.saved_model_timing import Call

Numbers = list[int] | None


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    summary = "Measure a SavedModel's latency and cost offline."
    app.command("latency", short_help=summary)(latency)


def latency(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="EXPORT|CONFIG",
            help="EXPORT/NAME, one of its versions, or a pipeline's TOML file.",
        ),
    ],
    overrides: Overrides = None,
    signature: Annotated[
        list[str] | None,
        typer.Option(help="Signature to measure (default: all). Repeatable."),
    ] = None,
    rows: Annotated[
        Numbers, typer.Option(help="Batch size (default: 1 and 8). Repeatable.")
    ] = None,
    candidates: Annotated[
        Numbers,
        typer.Option(
            help="Candidates per query of `rank` (default: 100 and 1000). Repeatable."
        ),
    ] = None,
    threads: Annotated[
        Numbers,
        typer.Option(help="TensorFlow threads (default: 1 and all cores). Repeatable."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="Seconds spent on each measurement.")
    ] = 1.0,
    core_price: Annotated[
        float, typer.Option(help="Price of a core-hour, for the cost estimate.")
    ] = 0.04,
    as_json: AsJson = False,
) -> None:
    """Measures the latency of a SavedModel in a fresh process, and estimates its cost.

    For each signature, batch size, number of candidates and number of threads it
    reports percentiles, requests per core-second, the cost of a million requests,
    floating-point operations, and joules if the machine has energy counters. With a
    pipeline's TOML file it first runs the missing steps up to the export, and also
    compares the teacher with the student. Times do not include protocol and network;
    `recdistill load-test` measures those.
    """
    sizes, ranked = rows or [1, 8], candidates or [100, 1000]
    with errors_as_paragraphs(), Display(as_json) as display:
        check_options(
            {
                "--rows": (rows, 1, 100_000),
                "--candidates": (candidates, 1, 10_000_000),
                "--threads": (threads, 1, MOST_THREADS),
                "--seconds": (seconds, 0.001, LONGEST_S),
                "--core-price": (core_price, 0, 1e6),
            }
        )
        is_config = model.suffix == ".toml"
        if not is_config:
            check_left_out("with EXPORT", {"--set": overrides})
        from recdistill.evaluation.latency.latency_tables import (
            latency_json,
            render_latency,
        )
        from recdistill.evaluation.latency.saved_model_timing import time_model
        from recdistill.export.layout import find_version

        pair: list[RankingTime] = []
        export = model
        if is_config:
            pair, export = _time_pair(model, overrides, ranked, display)
        version = find_version(export)
        calls = _calls(version, signature, sizes, ranked)
        runs, counts = [], threads or sorted({1, os.cpu_count() or 1})
        for done, n in enumerate(counts):
            note = f"{n} thread{'s' * (n > 1)}"
            display.progress("Measuring the SavedModel", done, len(counts), note)
            runs.append(
                time_model(version, calls, threads=n, seconds=seconds, flops=True)
            )
    if as_json:
        typer.echo(json.dumps(latency_json(runs, core_price, pair), indent=1))
        return
    Console().print(render_latency(runs, core_price, pair))


def _time_pair(
    config: Path, overrides: list[str] | None, candidates: list[int], display: Display
) -> tuple[list[RankingTime], Path]:
    """Latencies of teacher and student of a finished run, and its SavedModel."""
    pipeline = load_pipeline(config, overrides, display)
    from recdistill.pipeline.runs.latency_comparison import time_side_by_side
    from recdistill.pipeline.variants.budgeted_run import run_to_export

    pipeline, exported = run_to_export(pipeline, display.say)
    display.progress("Measuring teacher and student", 0, None)
    return time_side_by_side(pipeline, candidates), Path(exported.record["path"])


def _calls(
    model: Path, signatures: list[str] | None, sizes: list[int], ranked: list[int]
) -> list[Call]:
    """All combinations of signature, batch size and, for `rank`, list size."""
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
