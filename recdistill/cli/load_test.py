"""`recdistill load-test`: the command line of the load test."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from recdistill.errors import LoadTestError

if TYPE_CHECKING:
    from recdistill.serving.client.channels import Endpoint
    from recdistill.serving.client.contract import Query
    from recdistill.serving.load_test.generator import Load
    from recdistill.serving.load_test.generator import Progress as Standing
    from recdistill.serving.load_test.load_runs import LoadResult
    from recdistill.serving.load_test.rate_search import RateSearch
    from recdistill.serving.load_test.workload import Workload

__all__ = ["LoadTestError", "add_load_test"]

Guard = Callable[[], AbstractContextManager[None]]

RANKED = 100
"""Candidates of a query of prepared data, which brings none of its own."""


@dataclass(frozen=True)
class Source:
    """Where the queries come from; one of the three.

    Attributes:
        export: A folder of versions, whose warm-up requests are sent.
        queries: A file with one JSON object a line.
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


def add_load_test(app: typer.Typer, errors_as_text: Guard, quietly: Guard) -> None:
    """Adds the command.

    Args:
        app: Where to.
        errors_as_text: Turns errors that the user can mend into a paragraph.
        quietly: Keeps what TensorFlow writes on import off the terminal.
    """

    @app.command(
        "load-test", short_help="Ask a served model at a rate; how fast is it?"
    )
    def load_test(
        endpoint: Annotated[
            str, typer.Argument(help="grpc://host:8500 or http://host:8501.")
        ],
        export: Annotated[
            Path | None,
            typer.Option(
                metavar="FOLDER",
                help="Send the warm-up requests of this export, EXPORT/NAME.",
            ),
        ] = None,
        queries: Annotated[
            Path | None,
            typer.Option(
                metavar="FILE", help="Send these queries: one JSON object a line."
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
            typer.Option(metavar="NAME", help="The model; else the export's name."),
        ] = None,
        version: Annotated[int | None, typer.Option(help="Ask this version.")] = None,
        label: Annotated[
            str | None, typer.Option(help="Ask the version so called.")
        ] = None,
        signature: Annotated[str, typer.Option(help="What is asked.")] = "recommend",
        rate: Annotated[
            float | None,
            typer.Option(help="Open loop: requests a second, whatever comes back."),
        ] = None,
        clients: Annotated[
            int | None,
            typer.Option(help="Closed loop: so many wait for their answer and go on."),
        ] = None,
        p99_budget: Annotated[
            str | None,
            typer.Option(
                metavar="TIME",
                help="Find the highest rate whose p99 is within, such as 10ms.",
            ),
        ] = None,
        seconds: Annotated[float, typer.Option(help="Length of a test.")] = 10.0,
        batch_size: Annotated[int, typer.Option(help="Queries a request.")] = 1,
        k: Annotated[int, typer.Option(help="Items for queries without `k`.")] = 10,
        deadline: Annotated[
            str, typer.Option(metavar="TIME", help="When a request has failed.")
        ] = "1s",
        processes: Annotated[
            int, typer.Option(help="Generators; more if they are late.")
        ] = 1,
        reload_during: Annotated[
            Path | None,
            typer.Option(
                metavar="FOLDER",
                help="Swap a version meanwhile: the folder that the server watches.",
            ),
        ] = None,
        plot: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Draw latencies: .png, .svg or .pdf."),
        ] = None,
        as_json: Annotated[
            bool, typer.Option("--json", help="Print the result as JSON, for machines.")
        ] = False,
    ) -> None:
        """Sends real queries to a model server and says how fast it answers.

        With --rate requests are sent by the clock, and each latency counts
        from when the request was due, so a server that stalls cannot hide it.
        With --clients each of so many waits for its answer and asks again.
        With --p99-budget the highest rate that keeps it is found, starting
        from --rate. With --reload-during the newest version is copied to the
        next number a third into the test, and the copy removed afterwards.

        It works against anything that speaks TensorFlow Serving's protocol.
        """
        with errors_as_text(), _mendable():
            source = Source(export, queries, prepared)
            budget_ms = None if p99_budget is None else 1e3 * _seconds(p99_budget)
            load = _load(
                rate, clients, seconds, processes, _seconds(deadline), budget_ms
            )
            _check_paths(plot, reload_during, budget_ms, load)
            where, work = _workload(
                endpoint,
                source,
                (model, version, label, signature),
                batch_size,
                k,
                quietly,
            )
            with _Bar(as_json) as bar:
                result, search = _measure(
                    where, work, load, budget_ms, reload_during, bar
                )
            if plot is not None:
                from recdistill.serving.load_test.load_plot import plot_load_test

                plot_load_test(result, plot)
        _show(result, search, plot, as_json)


def _measure(
    endpoint: Endpoint,
    workload: Workload,
    load: Load,
    budget_ms: float | None,
    reload: Path | None,
    bar: _Bar,
) -> tuple[LoadResult, RateSearch | None]:
    from recdistill.serving.load_test.load_runs import run_load_test, search_rate

    if budget_ms is not None:
        search, result = search_rate(
            endpoint,
            workload,
            load,
            budget_ms,
            progress=lambda rate, at: bar.show(f"{rate:,.0f}/s", at, None),
        )
        return result, search
    result = run_load_test(
        endpoint,
        workload,
        load,
        reload=reload,
        progress=lambda at: bar.show("Sending", at, load.seconds),
    )
    return result, None


def _show(
    result: LoadResult, search: RateSearch | None, plot: Path | None, as_json: bool
) -> None:
    if as_json:
        content = result.to_json()
        if search is not None:
            content["search"] = asdict(search)
        typer.echo(json.dumps(content, indent=1, allow_nan=False))
        return
    from recdistill.serving.load_test.load_report import render_load_test

    console = Console()
    console.print(render_load_test(result, search))
    if plot is not None:
        console.print(f"\n{plot}", soft_wrap=True, highlight=False)


@contextlib.contextmanager
def _mendable() -> Iterator[None]:
    """Errors of arguments, of the server and of the queries under one name."""
    from recdistill.errors import BusyError
    from recdistill.serving.client.serving_errors import ServingError
    from recdistill.serving.load_test.generator import GeneratorError

    try:
        yield
    except BusyError:
        raise
    except (ValueError, ServingError, GeneratorError) as error:
        raise LoadTestError(str(error)) from error


def _load(
    rate: float | None,
    clients: int | None,
    seconds: float,
    processes: int,
    deadline_s: float,
    budget_ms: float | None,
) -> Load:
    from recdistill.serving.load_test.generator import Load

    if budget_ms is not None and clients is not None:
        raise LoadTestError(
            "`--p99-budget` must go with an open loop. Received: "
            f"`--clients` {clients}, too"
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
    """Finds out now rather than after the test."""
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        raise LoadTestError(
            f"`--plot` must end in .png, .svg or .pdf. Received: {plot}"
        )
    if plot is not None and not plot.parent.is_dir():
        raise LoadTestError(
            f"`--plot` must be in a folder that exists. Received: {plot}"
        )
    if reload is not None and budget_ms is not None:
        raise LoadTestError(
            "`--reload-during` must go with one rate. Received: `--p99-budget`, too"
        )
    if budget_ms is not None and budget_ms >= 1e3 * load.deadline_s:
        raise LoadTestError(
            "`--p99-budget` must be below the `--deadline`. Received: "
            f"{budget_ms:g} ms and {load.deadline_s:g} s"
        )


def _workload(
    endpoint: str,
    source: Source,
    asked: tuple[str | None, int | None, str | None, str],
    batch_size: int,
    k: int,
    quietly: Guard,
) -> tuple[Endpoint, Workload]:
    """The messages; the server is asked whether it is there and what it takes."""
    from recdistill.export.layout import find_version
    from recdistill.serving.client.channels import Endpoint
    from recdistill.serving.client.client import Client
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
                "`--model` must be given without `--export`. Received: none"
            )
        model = find_version(source.export.resolve()).parent.name
    where, target = Endpoint.parse(endpoint), Target(model, version, label)
    with Client(
        endpoint, model, version=version, label=label, deadline_s=10.0
    ) as client:
        signatures = client.signatures()
    if signature not in signatures:
        raise LoadTestError(
            f"`--signature` must be one that the model has: {sorted(signatures)}. "
            f"Received: {signature!r}"
        )
    if source.export is not None:
        rows = recorded_rows(source.export, signature)
    else:
        if source.queries is not None:
            queries = queries_from_lines(source.queries)
        else:
            queries = _test_queries(source.prepared or Path(), signature, quietly)
        rows = rows_of(queries, signatures[signature], k)
    return where, Workload.of_rows(rows, where.protocol, target, signature, batch_size)


def _test_queries(folder: Path, signature: str, quietly: Guard) -> list[Query]:
    """The raw test queries of a run; for `rank` with items of the whole catalogue."""
    finished = [folder, *folder.glob("prepare-*")]
    finished = [path for path in finished if (path / "items.parquet").exists()]
    if not finished:
        raise LoadTestError(
            "`--prepared` must be the folder of a run that was prepared. "
            f"Received: {folder}"
        )
    newest = max(finished, key=lambda path: path.stat().st_mtime)
    import numpy as np

    with quietly():
        from recdistill.pipeline.prepared_data import Prepared
    from recdistill.serving.load_test.workload import (
        MOST_MESSAGES,
        queries_from_columns,
    )

    prepared = Prepared(newest)
    queries = queries_from_columns(prepared.raw_queries(MOST_MESSAGES))
    if signature != "rank":
        return queries
    ids = prepared.raw_candidates[prepared.schema.item_id].tolist()
    spread = np.linspace(0, len(ids) - 1, min(RANKED, len(ids))).astype(int)
    candidates = [ids[place] for place in spread]
    return [{**query, "candidate_ids": candidates} for query in queries]


def _seconds(text: str) -> float:
    """Reads "10ms", "0.5s" or "2min"."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*(us|ms|s|min)\s*", text)
    scale = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
    with contextlib.suppress(ValueError):
        if match and float(match[1]) > 0:
            return float(match[1]) * scale[match[2]]
    raise LoadTestError(f"A time must be like 10ms or 1s. Received: {text!r}")


class _Bar:
    """How a test goes, on stderr."""

    def __init__(self, as_json: bool) -> None:
        console = Console(stderr=True, quiet=as_json)
        self._bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[counts]}"),
            console=console,
            transient=True,
            disable=as_json or not console.is_terminal,
        )
        self._task = self._bar.add_task("Connecting", total=None, counts="")

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, label: str, at: Standing, seconds: float | None) -> None:
        """Moves the bar."""
        counts = f"{at.elapsed_s:4.0f} s  {at.answered:,} of {at.sent:,} answered"
        if at.failed:
            counts += f", {at.failed:,} failed"
        done = 0.0 if seconds is None else at.elapsed_s
        self._bar.update(
            self._task, description=label, completed=done, total=seconds, counts=counts
        )
