"""Result of `recdistill latency` as terminal tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from recdistill.evaluation.latency.energy import why_no_energy
from recdistill.evaluation.latency.saved_model_timing import Call, ModelTimes
from recdistill.evaluation.latency.stopwatch import Latency
from recdistill.evaluation.report.terminal_tables import (
    COUNTS,
    MISSING,
    number_table,
    number_text,
    short_number,
)

FLOPS_COUNTED = "matrix products, contractions and convolutions, 2 for each product"
"""Description of the operations that `recdistill.evaluation.latency.flops` counts."""


@dataclass(frozen=True)
class RankingTime:
    """Time that a teacher or student takes to rank the candidates of one query.

    Attributes:
        model: "teacher" or "student".
        candidates: Number of candidates.
        latency: Times measured in this process, in turns with the other model.
        speedup: How many times faster than the teacher; None if only the student was
            timed.
        flops: Floating-point operations, see `recdistill.evaluation.latency.flops`;
            None if they cannot be counted.
        parameters: Number of parameters; None if unknown.
        size_bytes: Size of the weights or files; None if unknown.
    """

    model: str
    candidates: int
    latency: Latency
    speedup: float | None
    flops: int | None
    parameters: int | None
    size_bytes: int | None


def latency_json(
    runs: Sequence[ModelTimes], core_price: float, pair: Sequence[RankingTime]
) -> dict[str, Any]:
    """Measured latencies as JSON-ready values.

    Args:
        runs: Times of one model, one entry for each number of threads.
        core_price: Price of a core-hour.
        pair: Times of teacher and student; may be empty.
    """
    first = runs[0]
    return {
        "model": str(first.path),
        "size_bytes": first.size_bytes,
        "memory_bytes": first.memory_bytes,
        "load_s": first.load_s,
        "flops_counted": FLOPS_COUNTED,
        "core_price_per_hour": core_price,
        "joules_reason": why_no_energy(),
        "calls": [
            {
                **asdict(each.call),
                "threads": each.threads,
                "latency_ms": asdict(each.throughput.latency),
                "cpu_ms": each.throughput.cpu_ms,
                "requests_per_core_second": each.per_core_second,
                "cost_per_million_requests": each.cost_per_million(core_price),
                "joules_per_request": each.throughput.joules,
                "flops": each.flops,
            }
            for run in runs
            for each in run.calls
        ],
        "side_by_side": [asdict(each) for each in pair],
    }


def render_latency(
    runs: Sequence[ModelTimes], core_price: float, pair: Sequence[RankingTime]
) -> Group:
    """Terminal tables of measured latencies; the arguments are as in `latency_json`."""
    first = runs[0]
    reason = why_no_energy()
    headings = ["call", "thr.", "p50 ms", "p90", "p99", "a core-s", "1M cost", "flops"]
    table = number_table(
        headings if reason else [*headings, "J"],
        title=f"{first.path}, in a separate process",
    )
    for each in (call for run in runs for call in run.calls):
        latency = each.throughput.latency
        joules = each.throughput.joules
        table.add_row(
            _name(each.call),
            str(each.threads),
            *map(number_text, (latency.p50, latency.p90, latency.p99)),
            f"{each.per_core_second:,.0f}",
            number_text(each.cost_per_million(core_price)),
            short_number(each.flops, COUNTS),
            *([] if reason else [MISSING if joules is None else number_text(joules)]),
        )
    memory = _megabytes(first.memory_bytes)
    notes = [
        f"{_megabytes(first.size_bytes)} on disk, {memory} in memory, loaded in "
        f"{first.load_s:.2f} s.",
        "A call is shown as signature, rows x candidates; thr. is the number of "
        "TensorFlow threads. Times do not include protocol and network.",
        "a core-s: requests per core-second. 1M cost: cost of a million requests at "
        f"{core_price:g} per core-hour, if the cores are never idle.",
        f"flops: {FLOPS_COUNTED}.",
        f"Energy was not measured: {reason}." if reason else "J: joules per request.",
    ]
    texts = [Text(note, style="dim") for note in notes]
    return Group(table, *texts, *([_side_by_side(pair)] if pair else []))


def _side_by_side(pair: Sequence[RankingTime]) -> Table:
    table = number_table(
        ["model", "candidates", "p50 ms", "p99 ms", "times faster", "flops", "size"],
        title="Teacher and student on one query, timed in turns of ten",
    )
    for each in pair:
        table.add_row(
            each.model,
            f"{each.candidates:,}",
            f"{each.latency.p50:.3f}",
            f"{each.latency.p99:.3f}",
            MISSING if each.speedup is None else f"{each.speedup:,.1f}",
            short_number(each.flops, COUNTS),
            _megabytes(each.size_bytes),
        )
    return table


def _name(call: Call) -> str:
    width = "" if call.candidates is None else f" x {call.candidates:,}"
    return f"{call.signature} {call.rows:,}{width}"


def _megabytes(value: int | None) -> str:
    return MISSING if value is None else f"{value / 1e6:,.1f} MB"
