"""`recdistill load-test`: load-tests a served model."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from recdistill.cli.common import (
    LONGEST_S,
    MOST_THREADS,
    AsJson,
    check_options,
    check_output,
    errors_as_paragraphs,
    without_startup_notes,
)
from recdistill.cli.progress_display import Display
from recdistill.errors import BudgetError, BusyError, LoadTestError

if TYPE_CHECKING:
    from recdistill.serving.client.contract import Query
    from recdistill.serving.client.endpoints import Endpoint
    from recdistill.serving.load_test.load_generator import Load, RequestCounts
    from recdistill.serving.load_test.load_result import LoadResult
    from recdistill.serving.load_test.rate_search import RateSearch
    from recdistill.serving.load_test.workload import Workload

RANKED = 100
"""Candidates per query of `rank` for the test queries of a run."""


@dataclass(frozen=True)
class QuerySource:
    """Source of the queries; exactly one attribute is given.

    Attributes:
        export: A folder of versions, whose warm-up requests are sent.
        queries: A file with one JSON object per line.
        prepared: The folder of a run, whose test queries are sent.
    """

    export: Path | None
    queries: Path | None
    prepared: Path | None

    def __post_init__(self) -> None:
        given = [name for name, path in vars(self).items() if path is not None]
        if len(given) != 1:
            raise LoadTestError(
                "Exactly one of `--export`, `--queries` and `--prepared` must be "
                f"given. Received: {' and '.join(f'`--{n}`' for n in given) or 'none'}"
            )


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    app.command("load-test", short_help="Load-test a served model.")(load_test)


def load_test(
    endpoint: Annotated[
        str, typer.Argument(help="grpc://host:8500 or http://host:8501.")
    ],
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Send the warm-up requests of this export, such as export/NAME.",
        ),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Send the queries in this file (one JSON object per line).",
        ),
    ] = None,
    prepared: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Send the test queries of this run, such as runs/NAME.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Name of the model (default: the export's name)."
        ),
    ] = None,
    version: Annotated[
        int | None, typer.Option(help="Version of the model (default: the latest).")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Version label, instead of --version.")
    ] = None,
    signature: Annotated[str, typer.Option(help="Signature to call.")] = "recommend",
    rate: Annotated[
        float | None,
        typer.Option(help="Requests per second, independent of answers (open loop)."),
    ] = None,
    clients: Annotated[
        int | None, typer.Option(help="Number of concurrent clients (closed loop).")
    ] = None,
    p99_budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Find the highest rate whose p99 is within TIME, such as 10ms.",
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="Duration of a test, in seconds.")
    ] = 10.0,
    batch_size: Annotated[int, typer.Option(help="Queries per request.")] = 1,
    k: Annotated[
        int, typer.Option(help="Items requested for queries without their own `k`.")
    ] = 10,
    deadline: Annotated[
        str, typer.Option(metavar="TIME", help="Timeout of each request.")
    ] = "1s",
    processes: Annotated[
        int,
        typer.Option(
            help="Number of processes that send requests; use more if they fall behind."
        ),
    ] = 1,
    reload_during: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Model folder that the server watches; a new version is published in "
            "it during the test.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Output file for a plot of the latencies (.png, .svg or .pdf).",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Sends real queries to a model server and reports its latency.

    With --rate, requests are sent on a fixed schedule, and each latency is measured
    from the time at which the request was due, so that it includes the time during
    which a stalled server delays later requests. With --clients, each client waits for
    an answer before it sends the next request. With --p99-budget, the test searches for
    the highest rate within the budget, starting from --rate. With --reload-during, the
    latest version is copied to the next version number after a third of the test, and
    the copy is removed afterwards.

    The test works with every server that implements TensorFlow Serving's protocol. The
    exit code is 2 if no request was answered, and 3 if no rate is within the budget.
    """
    with errors_as_paragraphs(), _as_load_test_error():
        check_options(
            {
                "--rate": (rate, 0.001, 1e7),
                "--clients": (clients, 1, 100_000),
                "--seconds": (seconds, 0.001, LONGEST_S),
                "--batch-size": (batch_size, 1, 100_000),
                "--k": (k, 1, 1_000_000),
                "--processes": (processes, 1, MOST_THREADS),
                "--version": (version, 0, 2**63 - 1),
            }
        )
        source = QuerySource(export, queries, prepared)
        budget_ms = None if p99_budget is None else 1e3 * _seconds(p99_budget)
        load = _load(rate, clients, seconds, processes, _seconds(deadline), budget_ms)
        _check_paths(plot, reload_during, budget_ms, load)
        where, work = _workload(
            endpoint, source, (model, version, label, signature), batch_size, k
        )
        with Display(as_json) as display:
            result, search = _measure(
                where, work, load, budget_ms, reload_during, display
            )
    _show(result, search, as_json)
    with errors_as_paragraphs():
        if plot is not None:
            from recdistill.serving.load_test.load_plot import plot_load_test

            plot_load_test(result, plot)
            if not as_json:
                typer.echo(f"\n{plot}")
        _check_success(result, search)


def _measure(
    endpoint: Endpoint,
    workload: Workload,
    load: Load,
    budget_ms: float | None,
    reload: Path | None,
    display: Display,
) -> tuple[LoadResult, RateSearch | None]:
    from recdistill.serving.load_test.load_runs import run_load_test, search_rate

    if budget_ms is not None:
        search, result = search_rate(
            endpoint,
            workload,
            load,
            budget_ms,
            progress=lambda rate, at: _show_counts(
                display, f"Sending {rate:,.0f} requests a second", at, None
            ),
        )
        return result, search
    result = run_load_test(
        endpoint,
        workload,
        load,
        reload=reload,
        progress=lambda at: _show_counts(display, "Sending requests", at, load.seconds),
    )
    return result, None


def _show(result: LoadResult, search: RateSearch | None, as_json: bool) -> None:
    if as_json:
        content = result.to_json()
        if search is not None:
            content["search"] = asdict(search)
        typer.echo(json.dumps(content, indent=1, allow_nan=False))
        return
    from recdistill.serving.load_test.load_report import render_load_test

    Console().print(render_load_test(result, search))


def _check_success(result: LoadResult, search: RateSearch | None) -> None:
    """Checks that the server has answered, and that a rate is within the budget.

    Raises:
        LoadTestError: If no request was answered.
        BudgetError: If a search found no rate within the budget.
    """
    answered = result.answered or any(
        trial.throughput > 0 for trial in (search.trials if search else ())
    )
    if not answered:
        raise LoadTestError(
            f"None of {len(result.samples):,} requests was answered: "
            f"{result.samples.errors}."
        )
    if search is not None and search.rate is None:
        raise BudgetError(
            f"No rate has a p99 within {search.budget_ms:g} ms (`--p99-budget`). The "
            f"lowest rate tried was {min(t.rate for t in search.trials):g} a second."
        )


@contextlib.contextmanager
def _as_load_test_error() -> Iterator[None]:
    """Raises errors of arguments, queries and the server as LoadTestError."""
    from recdistill.serving.client.serving_errors import ServingError

    try:
        yield
    except BusyError:
        raise
    except (ValueError, ServingError) as error:
        raise LoadTestError(str(error)) from error


def _load(
    rate: float | None,
    clients: int | None,
    seconds: float,
    processes: int,
    deadline_s: float,
    budget_ms: float | None,
) -> Load:
    from recdistill.serving.load_test.load_generator import Load

    if budget_ms is not None and clients is not None:
        raise LoadTestError(
            "`--p99-budget` cannot be combined with `--clients`. Received: "
            f"`--clients` {clients}"
        )
    if rate is None and clients is None:
        if budget_ms is None:
            raise LoadTestError(
                "One of `--rate`, `--clients` and `--p99-budget` must be given. "
                "Received: none"
            )
        rate = 50.0
    return Load(seconds, rate, clients, processes, deadline_s)


def _check_paths(
    plot: Path | None, reload: Path | None, budget_ms: float | None, load: Load
) -> None:
    """Checks the options before the test starts."""
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        raise LoadTestError(
            f"`--plot` must end in .png, .svg or .pdf. Received: {plot}"
        )
    check_output("--plot", plot)
    if reload is not None and budget_ms is not None:
        raise LoadTestError(
            "`--reload-during` cannot be combined with `--p99-budget`. Received: both"
        )
    if budget_ms is not None and budget_ms >= 1e3 * load.deadline_s:
        raise LoadTestError(
            "`--p99-budget` must be below the `--deadline`. Received: "
            f"{budget_ms:g} ms and {load.deadline_s:g} s"
        )


def _workload(
    endpoint: str,
    source: QuerySource,
    asked: tuple[str | None, int | None, str | None, str],
    batch_size: int,
    k: int,
) -> tuple[Endpoint, Workload]:
    """Builds the messages to send; reads the signature's inputs from the server."""
    from recdistill.export.layout import find_version
    from recdistill.serving.client.client import Client
    from recdistill.serving.client.endpoints import Endpoint
    from recdistill.serving.client.protocols import Target
    from recdistill.serving.load_test.workload import (
        Workload,
        queries_from_lines,
        recorded_rows,
        rows_of,
    )

    model, version, label, signature = asked
    if model is None:
        if source.export is None:
            raise LoadTestError(
                "`--model` must be given if `--export` is not. Received: neither"
            )
        # `serve` uses the name of a link as well.
        model = find_version(Path(os.path.abspath(source.export))).parent.name
    where, target = Endpoint.parse(endpoint), Target(model, version, label)
    with Client(
        endpoint, model, version=version, label=label, deadline_s=10.0
    ) as client:
        signatures = client.signatures()
    if signature not in signatures:
        raise LoadTestError(
            f"`--signature` must be one of {sorted(signatures)}. "
            f"Received: {signature!r}"
        )
    if source.export is not None:
        rows = recorded_rows(source.export, signature)
    else:
        if source.queries is not None:
            queries = queries_from_lines(source.queries)
        else:
            queries = _test_queries(source.prepared or Path(), signature)
        rows = rows_of(queries, signatures[signature], k)
    return where, Workload.of_rows(rows, where.protocol, target, signature, batch_size)


def _test_queries(folder: Path, signature: str) -> list[Query]:
    """Raw test queries of a run; `rank` gets candidates from the whole catalogue."""
    finished = [folder, *folder.glob("prepare-*")]
    finished = [path for path in finished if (path / "items.parquet").exists()]
    if not finished:
        raise LoadTestError(
            "`--prepared` must be the folder of a run whose `prepare` step is done. "
            f"Received: {folder}"
        )
    latest = max(finished, key=lambda path: path.stat().st_mtime)
    import numpy as np

    with without_startup_notes():
        from recdistill.pipeline.preparation.prepared_data import Prepared
    from recdistill.serving.load_test.workload import (
        MOST_MESSAGES,
        queries_from_columns,
    )

    prepared = Prepared(latest)
    queries = queries_from_columns(prepared.raw_queries(MOST_MESSAGES))
    if signature != "rank":
        return queries
    ids = prepared.raw_candidates[prepared.schema.item_id].tolist()
    spread = np.linspace(0, len(ids) - 1, min(RANKED, len(ids))).astype(int)
    candidates = [ids[place] for place in spread]
    return [{**query, "candidate_ids": candidates} for query in queries]


def _seconds(text: str) -> float:
    """Parses "10ms", "0.5s" or "2min"."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*(us|ms|s|min)\s*", text)
    scale = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
    with contextlib.suppress(ValueError):
        if match and 0 < float(match[1]) * scale[match[2]] <= LONGEST_S:
            return float(match[1]) * scale[match[2]]
    raise LoadTestError(
        f"A time must look like 10ms or 1s, and be at most a day. Received: {text!r}"
    )


def _show_counts(
    display: Display, activity: str, at: RequestCounts, seconds: float | None
) -> None:
    """Shows the requests of a load test so far."""
    note = f"{at.answered:,} of {at.sent:,} answered"
    if at.failed:
        note += f", {at.failed:,} failed"
    total = None if seconds is None else math.ceil(seconds)
    display.progress(activity, int(at.elapsed_s), total, note)
