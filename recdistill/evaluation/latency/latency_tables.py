"""What `recdistill latency` and `recdistill serving-config` show: tables and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from recdistill.evaluation.latency.energy import why_no_energy
from recdistill.evaluation.latency.saved_model_timing import Call, ModelTimes
from recdistill.serving.deploy.tuning import Sweep

if TYPE_CHECKING:  # it imports Keras
    from recdistill.pipeline.latency_comparison import SideBySide


def latency_json(
    runs: Sequence[ModelTimes], core_price: float, pair: Sequence[SideBySide]
) -> dict[str, Any]:
    """All figures, JSON-ready.

    Args:
        runs: Times of one model, one entry for each number of threads.
        core_price: Of a core for an hour.
        pair: Teacher and student; may be empty.
    """
    first = runs[0]
    return {
        "model": str(first.path),
        "size_bytes": first.size_bytes,
        "memory_bytes": first.memory_bytes,
        "load_s": first.load_s,
        "flops_counted": first.counted,
        "core_price_per_hour": core_price,
        "joules_reason": why_no_energy(),
        "calls": [
            {
                **asdict(each.call),
                "threads": each.threads,
                "latency_ms": asdict(each.load.latency),
                "cpu_ms": each.load.cpu_ms,
                "requests_per_core_second": each.per_core_second,
                "cost_per_million_requests": each.cost_per_million(core_price),
                "joules_per_request": each.load.joules,
                "flops": each.flops,
            }
            for run in runs
            for each in run.calls
        ],
        "side_by_side": [asdict(each) for each in pair],
    }


def render_latency(
    runs: Sequence[ModelTimes], core_price: float, pair: Sequence[SideBySide]
) -> Group:
    """The same as tables; see `latency_json`."""
    first = runs[0]
    reason = why_no_energy()
    title = f"{first.path}, in a process of its own"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("call", no_wrap=True)
    for heading in ("thr.", "p50 ms", "p90", "p99", "a core-s", "1M cost", "flops"):
        table.add_column(heading, justify="right", no_wrap=True)
    if reason is None:
        table.add_column("joules", justify="right")
    for each in (call for run in runs for call in run.calls):
        latency = each.load.latency
        joules = each.load.joules
        table.add_row(
            _name(each.call),
            str(each.threads),
            *(f"{ms:.3g}" for ms in (latency.p50, latency.p90, latency.p99)),
            f"{each.per_core_second:,.0f}",
            f"{each.cost_per_million(core_price):.3g}",
            _rounded(each.flops),
            *([] if reason else ["-" if joules is None else f"{joules:.2g}"]),
        )
    memory = _megabytes(first.memory_bytes)
    notes = [
        f"{_megabytes(first.size_bytes)} on disk, {memory} in memory, loaded in "
        f"{first.load_s:.2f} s.",
        "A call is its signature, rows x candidates; thr. are TensorFlow's threads. "
        "Times leave out protocol and network.",
        "a core-s: requests in a second of processor time. 1M cost: of a million "
        f"requests, at {core_price:g} for a core's hour, if no core ever waits.",
        f"flops: {first.counted}.",
    ]
    if reason is not None:
        notes.append(f"No joules: {reason}.")
    texts = [Text(note, style="dim") for note in notes]
    return Group(table, *texts, *([_side_by_side(pair)] if pair else []))


def render_sweep(swept: Sweep) -> Group:
    """Times by batch size, and the parameters with their reasons."""
    table = Table(title=f"{swept.name}: a full batch, all threads at work")
    for heading in ("rows", "p50 ms", "p99 ms", "rows/s a thread"):
        table.add_column(heading, justify="right")
    batching = swept.choice.batching
    for size, time in sorted(swept.slowest.items()):
        row = f"{time.p50:.3f}", f"{time.p99:.3f}", f"{size / time.p50 * 1000:,.0f}"
        style = "bold" if size == batching.max_batch_size else None
        table.add_row(str(size), *row, style=style)
    reasons = Table(show_header=False, box=None)
    for name, why in swept.choice.why.items():
        value = getattr(batching, name)
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        reasons.add_row(Text(name, style="bold"), shown, Text(why, style="dim"))
    warning = Text(
        "A full batch breaks the budget: raise it, or export with smaller warm-up "
        "requests.",
        style="bold yellow",
    )
    return Group(table, reasons, *([] if swept.choice.holds_budget else [warning]))


def _side_by_side(pair: Sequence[SideBySide]) -> Table:
    table = Table(title="Teacher and student, one query, in turns of ten")
    headings = ("candidates", "p50 ms", "p99 ms", "times faster", "flops", "size")
    table.add_column("model")
    for heading in headings:
        table.add_column(heading, justify="right")
    for each in pair:
        table.add_row(
            each.model,
            f"{each.candidates:,}",
            f"{each.latency.p50:.3f}",
            f"{each.latency.p99:.3f}",
            "-" if each.speedup is None else f"{each.speedup:,.1f}",
            _rounded(each.flops),
            _megabytes(each.size_bytes),
        )
    return table


def _name(call: Call) -> str:
    width = "" if call.candidates is None else f" x {call.candidates:,}"
    return f"{call.signature} {call.rows:,}{width}"


def _rounded(value: int | None) -> str:
    """Three digits, and thousands, millions or billions.

    Example:
        >>> _rounded(12_528), _rounded(128_000_000), _rounded(846)
        ('12.5k', '128M', '846')
    """
    if value is None:
        return "-"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return str(value)


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _megabytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 1e6:,.1f} MB"
