"""Server configuration for one model on one machine, from measured latencies."""

from __future__ import annotations

import os
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from recdistill.atomic import atomic_write, create_readable_folder, locked_folder
from recdistill.errors import TimingError
from recdistill.evaluation.latency.saved_model_timing import (
    Call,
    ModelTimes,
    time_model,
)
from recdistill.evaluation.report.terminal_tables import number_table
from recdistill.export.layout import read_manifest
from recdistill.serving.deploy.batching_config import (
    TRUSTED_CLIENTS_ONLY,
    CallTime,
    Choice,
    choose_batching,
    padding,
)
from recdistill.serving.deploy.model_server import (
    BATCHING_FILE,
    MODELS_FILE,
    MONITORING_FILE,
    as_shell,
    server_arguments,
)
from recdistill.serving.deploy.models_config import (
    Models,
    read_models,
    write_monitoring,
)

ONLINE = ("serving_default", "recommend", "rank", "encode_query")
"""Signatures for online requests; the candidate tower is used in batch jobs."""

SIZES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Sweep:
    """Latencies by batch size, and the batching parameters chosen from them.

    Attributes:
        name: Name of the model's folder, and of the model on a server.
        times: The measurements.
        slowest: By batch size, the largest p50 and the largest p99 of all signatures.
        choice: Batching parameters and the reasons for them.
        budget_ms: Budget of the p99 in milliseconds.
    """

    name: str
    times: ModelTimes
    slowest: Mapping[int, CallTime]
    choice: Choice
    budget_ms: float


def sweep(
    model: Path,
    *,
    budget_ms: float,
    threads: int,
    signatures: Sequence[str] | None = None,
    candidates: int = 100,
    seconds: float = 0.5,
) -> Sweep:
    """Measures a model by batch size, and chooses batching parameters.

    All threads are busy during the measurement, each with a call that computes on one
    thread. That is how a batching server runs, so the times include the effect of
    concurrent calls on each other.

    Args:
        model: SavedModel folder of an export.
        budget_ms: Budget of the p99 inside the server, in milliseconds.
        threads: Number of concurrent batches: the cores of the server.
        signatures: Signatures that will be called; they share the batching parameters
            (default: those of `ONLINE` that the model has).
        candidates: Candidates of each row of `rank`.
        seconds: Duration of the measurement of each call.

    Raises:
        ConfigError: If the budget is too small for a single row.
        NotAnExportError: If the model has no manifest.
        TimingError: If the model cannot be timed or lacks one of the signatures.
    """
    manifest = read_manifest(model)
    known: Mapping[str, Any] = manifest["signatures"]
    if signatures is None:
        signatures = [name for name in ONLINE if name in known]
    unknown = set(signatures) - set(known)
    if unknown or not signatures:
        raise TimingError(
            f"`signatures` must be some of {sorted(known)}. "
            f"Received: signatures={list(signatures)}"
        )
    chosen = {name: known[name] for name in signatures}
    calls = [
        Call(name, size, candidates if name == "rank" else None)
        for name in chosen
        for size in SIZES
    ]
    times = time_model(model, calls, threads=1, workers=threads, seconds=seconds)
    slowest = slowest_by_size(times)
    choice = choose_batching(
        slowest,
        budget_ms=budget_ms,
        threads=threads,
        pad=padding(chosen),
        warm_up_rows=times.warm_up_rows,
    )
    # Servers find the model by its folder, which may have another name than the export,
    # and may be a link.
    name = Path(os.path.abspath(model)).parent.name
    return Sweep(name, times, slowest, choice, budget_ms)


def slowest_by_size(times: ModelTimes) -> dict[int, CallTime]:
    """The largest p50 and the largest p99 of all signatures, by batch size."""
    found = defaultdict(list)
    for each in times.calls:
        found[each.call.rows].append(each.throughput.latency)
    return {
        size: CallTime(max(t.p50 for t in latencies), max(t.p99 for t in latencies))
        for size, latencies in found.items()
    }


def write_configuration(
    swept: Sweep,
    folder: Path,
    *,
    models: str = "/models",
    config: str = "/config",
    trusted_clients: bool = False,
) -> list[Path]:
    """Writes `models.config`, `batching.config`, `monitoring.config` and the command.

    A `models.config` that already has the model is left unchanged, because
    `recdistill release` manages its labels.

    Args:
        swept: Measurements and chosen parameters.
        folder: Output folder; created if it does not exist.
        models: Folder of the models' folders in the server's file system.
        config: Path of `folder` in the server's file system.
        trusted_clients: Whether the command enables batching, which is safe for trusted
            clients only.

    Returns:
        The files.

    Raises:
        ConfigError: If an existing `models.config` is invalid, or a path is relative.
        OSError: If a file cannot be written.
    """
    create_readable_folder(folder)
    names = (MODELS_FILE, BATCHING_FILE, MONITORING_FILE, "model_server.sh")
    paths = [folder / name for name in names]
    with locked_folder(folder, wait_s=30.0):
        there = read_models(paths[0]) if paths[0].exists() else Models()
        if swept.name not in there.names:
            there = there.with_model(swept.name, f"{models.rstrip('/')}/{swept.name}")
            there.write(paths[0])
    batching = swept.choice.batching
    batching.write(paths[1], explain(swept))
    write_monitoring(paths[2])
    arguments = server_arguments(config, batching, trusted_clients=trusted_clients)
    with atomic_write(paths[3]) as aside:
        aside.write_text(f"#!/bin/sh\nexec {as_shell(arguments)}\n", encoding="utf-8")
        aside.chmod(0o755)
    return paths


def explain(swept: Sweep) -> list[str]:
    """Reasons for the parameters, in lines of at most 76 characters."""
    lines = [
        TRUSTED_CLIENTS_ONLY,
        f"Chosen by recdistill for {swept.name}, version {swept.times.path.name}, and "
        f"a p99 of {swept.budget_ms:g} ms inside the server.",
    ]
    if not swept.choice.holds_budget:
        lines.append(_OVER_BUDGET.upper())
    lines += [f"{name} {value}: {why}." for name, value, why in _reasons(swept.choice)]
    return [part for line in lines for part in textwrap.wrap(line, 76)]


def render_sweep(swept: Sweep, trusted_clients: bool) -> Group:
    """Terminal tables of latencies by batch size, and of parameters with reasons.

    Args:
        swept: The sweep.
        trusted_clients: Whether the written command enables batching.
    """
    table = number_table(
        ("rows", "p50 ms", "p99 ms", "rows/s per thread"),
        title=f"{swept.name}: a full batch while all threads are busy",
    )
    for size, time in sorted(swept.slowest.items()):
        row = f"{time.p50:.3f}", f"{time.p99:.3f}", f"{size / time.p50 * 1000:,.0f}"
        chosen = size == swept.choice.batching.max_batch_size
        table.add_row(str(size), *row, style="bold" if chosen else None)
    reasons = Table(show_header=False, box=None)
    for name, value, why in _reasons(swept.choice):
        reasons.add_row(Text(name, style="bold"), value, Text(why, style="dim"))
    warning = Text(_OVER_BUDGET, style="bold yellow")
    notes = [] if swept.choice.holds_budget else [warning]
    notes += [] if trusted_clients else [Text(_NOT_BATCHED)]
    return Group(table, reasons, *notes)


_NOT_BATCHED = (
    "model_server.sh does not enable batching, which is safe for trusted clients "
    "only. If all "
    "clients are trusted, run the command again with --trusted-clients."
)

_OVER_BUDGET = (
    "A full batch exceeds the budget: raise it, or export with smaller warm-up "
    "requests."
)


def _reasons(choice: Choice) -> Iterator[tuple[str, str, str]]:
    """Name, value and reason of each parameter."""
    for name, why in choice.why.items():
        value = getattr(choice.batching, name)
        values = value if isinstance(value, tuple) else (value,)
        yield name, " ".join(map(str, values)) or "none", why
