"""Report of a load test for the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from recdistill.evaluation.report.terminal_tables import (
    MISSING,
    number_table,
    pair_table,
)
from recdistill.serving.load_test.load_result import LoadResult
from recdistill.serving.load_test.rate_search import RateSearch
from recdistill.serving.load_test.request_samples import Percentiles
from recdistill.serving.load_test.version_swap import Swap

__all__ = ["headline", "render_load_test"]


def render_load_test(
    result: LoadResult, search: RateSearch | None = None
) -> RenderableType:
    """Report of a load test, to print with `rich.console.Console.print`.

    Args:
        result: Result of the load test.
        search: Result of the search for a rate, if there was one.

    Returns:
        A renderable that fits 80 columns.
    """
    parts: list[RenderableType] = []
    if search is not None:
        parts += [_trials(search), Text(), _verdict(search), Text()]
    parts += [Text(headline(result), style="bold"), Text(), _latencies(result), Text()]
    parts.append(_facts(result))
    if result.generator_was_late:
        warning = (
            "The load generator was late, so the latencies are upper bounds. Use more "
            "`--processes` or another machine."
        )
        parts += [Text(), Text(warning, style="yellow")]
    return Group(*parts)


def headline(result: LoadResult) -> str:
    """Signature, model, server, kind of load and duration, in two lines."""
    load, work = result.load, result.workload
    queries = f" of {work.batch_size} queries" if work.batch_size > 1 else ""
    if load.rate:
        how = f"open loop, {load.rate:,.4g} requests{queries} a second"
    else:
        how = f"closed loop, {load.clients} clients, requests{queries}"
    what = f"`{work.signature}` of {work.target.model} at {result.endpoint}"
    return f"{what}\n{how}, {load.seconds:,.4g} s"


def _latencies(result: LoadResult) -> Table:
    table = number_table(("ms", "p50", "p90", "p99", "p99.9", "max", "requests"))
    _add(table, "latency", result.latency)
    for name, percentiles in result.around_swap.items():
        _add(table, f"  {name} the swap", percentiles)
    _add(table, "generator lag", result.lag, style="dim")
    return table


def _add(table: Table, name: str, of: Percentiles, style: str = "") -> None:
    values = (of.p50, of.p90, of.p99, of.p99_9, of.max)
    cells = [MISSING if value is None else f"{value:,.2f}" for value in values]
    table.add_row(name, *cells, f"{of.n:,}", style=style)


def _facts(result: LoadResult) -> Table:
    samples = result.samples
    throughput = f"{result.throughput:,.1f} answers a second"
    if result.workload.batch_size > 1:
        queries = result.throughput * result.workload.batch_size
        throughput += f", {queries:,.1f} queries"
    errors = ", ".join(f"{n:,} {code}" for code, n in samples.errors.items())
    facts: dict[str, str | Text] = {
        "Throughput": throughput,
        "Errors": Text(errors, style="red") if errors else "none",
        "Queries": f"{result.workload.queries:,} distinct",
    }
    if samples.versions:
        answers = (f"{v}: {n:,} answers" for v, n in samples.versions.items())
        facts["Versions"] = ", ".join(answers)
    if result.swap is not None:
        facts["Swap"] = _swap(result.swap)
    return pair_table(facts)


def _swap(swap: Swap) -> str:
    published = f"version {swap.version} was published after {swap.published_s:.1f} s"
    if swap.available_s is None:
        return f"{published} and was not loaded by the end of the test"
    took = swap.available_s - swap.published_s
    return f"{published} and had replaced its predecessor {took:.1f} s later"


def _trials(search: RateSearch) -> Table:
    table = number_table(("", "requests/s", "s", "p99 ms", "answers/s"))
    for trial in search.trials:
        table.add_row(
            Text(trial.why, style="green" if trial.passed else "red"),
            f"{trial.rate:,.1f}",
            f"{trial.seconds:,.0f}",
            MISSING if trial.p99_ms is None else f"{trial.p99_ms:,.2f}",
            f"{trial.throughput:,.1f}",
        )
    return table


def _verdict(search: RateSearch) -> Text:
    budget = f"the budget of {search.budget_ms:g} ms at p99"
    if search.rate is None:
        return Text(f"No tested rate was within {budget}.", style="bold red")
    text = Text(f"{search.rate:,.1f} requests a second are within {budget}.", "bold")
    if search.limited_by == "generator":
        text.append(
            " At higher rates the load generator was late: the server may sustain more."
        )
    return text
