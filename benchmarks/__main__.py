"""Runs benchmarks, and writes `RESULTS.md` and `results.json` after each of them."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The threads of NumPy's and SciPy's BLAS wait for each other if cores are busy, and
# small matrices then take many times as long. TensorFlow has separate threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import (
    Benchmark,
    batch_delivery,
    candidates,
    distillation_step,
    distiller,
    distiller_correctness,
    embedding_updates,
    floor,
    full_evaluation,
    growth,
    json_by_entry,
    keras_distillation,
    linear,
    metrics,
    preparation,
    retrieval,
    retrieval_training,
    scoring,
    serving_soak,
    serving_warm_up,
)
from recdistill.atomic import atomic_write
from recdistill.evaluation.report.run_environment import describe_environment

BENCHMARKS = tuple(
    module.BENCHMARK
    for module in (
        keras_distillation,
        embedding_updates,
        retrieval_training,
        preparation,
        floor,
        distiller,
        distillation_step,
        batch_delivery,
        distiller_correctness,
        metrics,
        linear,
        candidates,
        scoring,
        full_evaluation,
        retrieval,
        serving_soak,
        serving_warm_up,
        growth,
    )
)
PACKAGES = (
    "tensorflow",
    "keras",
    "grpcio",
    "numpy",
    "scipy",
    "ir-measures",
    "pytrec-eval-terrier",
    "keras-rs",
    "tensorflow-recommenders",
    "pandas",
)

INTRODUCTION = """\
# Benchmarks

Written by `make bench`. `python -m benchmarks NAME` measures one benchmark again and
keeps the other sections. Both sides of a benchmark were measured in one run on the
machine below, in alternating blocks of up to ten calls, so that a drift of the machine
affects both equally. A time is the median of single calls. A speed-up is the ratio of
the two sides' medians within a round, and then the median over rounds; it depends less
on the machine than a time does. Differences show that both sides computed the same. The
load is the average number of running processes in the minute before the benchmark: at
values near or above the number of cores, other work disturbed it.
"""


def main(given: Sequence[str] | None = None) -> None:
    """Run, show and write."""
    options = arguments(given)
    console = Console()
    outcomes = earlier(options.folder)
    deadline = time.monotonic() + 60 * options.minutes
    for benchmark in BENCHMARKS:
        if options.names and benchmark.name not in options.names:
            continue
        left = min(benchmark.limit_s, deadline - time.monotonic())
        console.print(f"\n[bold]{benchmark.title}[/bold]")
        try:
            outcome = measured(benchmark.name, options.scale, left)
        except (TimeoutError, RuntimeError) as error:
            console.print(str(error), markup=False)
            continue
        outcomes[benchmark.name] = outcome
        console.print(as_table(outcome))
        write(outcomes, options.folder)
    console.print(f"Written: RESULTS.md and results.json in {options.folder}")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"All by default: {', '.join(names)}."
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="Share of the published sizes."
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=120.0,
        help="Time for all benchmarks; those that do not fit keep their last result.",
    )
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    options = parser.parse_args(given)
    if unknown := set(options.names) - set(names):
        parser.error(
            f"`NAME` must be one of {', '.join(names)}. "
            f"Received: {', '.join(sorted(unknown))}"
        )
    return options


def measured(name: str, scale: float, limit_s: float) -> dict[str, Any]:
    """Runs one benchmark in a process of its own.

    Raises:
        TimeoutError: If it did not end in time.
        RuntimeError: If it failed.
    """
    if limit_s < 1.0:
        raise TimeoutError("No time is left; the last result is kept.")
    load = round(os.getloadavg()[0], 1)
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.one_benchmark", name, str(scale)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "RECDISTILL_BENCH_SECONDS": str(0.85 * limit_s)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = child.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        raise TimeoutError(
            f"Stopped after {limit_s:.0f} seconds; the last result is kept."
        ) from None
    if child.returncode:
        raise RuntimeError(f"Failed with exit code {child.returncode}.")
    outcome: dict[str, Any] = json.loads(output.splitlines()[-1])
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    outcome["measured"] = f"{now}, scale {scale:g}, load before it {load}"
    return outcome


def earlier(folder: Path) -> dict[str, Any]:
    """The outcomes in `results.json`, if it exists."""
    path = folder / "results.json"
    if not path.exists():
        return {}
    document = json.loads(path.read_text(encoding="utf-8"))
    known = {benchmark.name: benchmark for benchmark in BENCHMARKS}
    found: dict[str, Any] = document["benchmarks"]
    return {
        name: outcome
        for name, outcome in found.items()
        if name in known and set(outcome["figures"]) <= set(known[name].reading)
    }


def as_table(outcome: Mapping[str, Any]) -> Table:
    """The figures of one benchmark, for the terminal."""
    table = Table("figure", box=box.SIMPLE_HEAD)
    table.add_column("value", justify="right")
    for name, value in outcome["figures"].items():
        table.add_row(name, shown(value))
    return table


def write(
    outcomes: Mapping[str, Mapping[str, Any]],
    folder: Path,
    benchmarks: Sequence[Benchmark] = BENCHMARKS,
) -> list[Path]:
    """Write both files atomically.

    Args:
        outcomes: Result of each benchmark's `run`, by its name.
        folder: Output folder.
        benchmarks: The benchmarks, which explain the outcomes.

    Returns:
        The paths of the two files.
    """
    environment = describe_environment(PACKAGES)
    document = {"environment": environment, "benchmarks": outcomes}
    texts = {
        "results.json": json_by_entry(document, "benchmarks"),
        "RESULTS.md": "\n".join(
            [INTRODUCTION, machine(environment)]
            + [
                section(each, outcomes[each.name])
                for each in benchmarks
                if each.name in outcomes
            ]
        ),
    }
    for name, text in texts.items():
        with atomic_write(folder / name) as aside:
            aside.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def machine(environment: Mapping[str, Any]) -> str:
    """One paragraph of Markdown."""
    versions = ", ".join(f"{k} {v}" for k, v in environment["packages"].items())
    return (
        f"{environment['cpu']}, {environment['cores']} cores, "
        f"{environment['platform']}. Python {environment['python']}, {versions}.\n"
    )


def section(benchmark: Benchmark, outcome: Mapping[str, Any]) -> str:
    """The Markdown of one benchmark."""
    sizes = ", ".join(
        f"{name.replace('_', ' ')} {size:,}" for name, size in outcome["sizes"].items()
    )
    rows = [
        f"| `{name}` | {shown(value)} | {benchmark.reading[name]} |"
        for name, value in outcome["figures"].items()
    ]
    lines = [f"## {benchmark.title}\n"]
    if "measured" in outcome:
        lines.append(f"**Measured.** {outcome['measured']}.\n")
    lines += [
        f"**Equal on both sides.** {benchmark.equal}\n",
        f"**The other side.** {benchmark.other_side}\n",
        f"**Sizes.** {sizes[:1].upper()}{sizes[1:]}.\n",
        "| figure | value | how to read it |",
        "|---|---:|---|",
        *rows,
        "",
    ]
    for title, points in outcome.get("points", {}).items():
        lines += [f"**{title}**\n", *points_table(points), ""]
    return "\n".join(lines)


def points_table(points: Sequence[Mapping[str, float]]) -> list[str]:
    """Measured points as a table of Markdown, with a column for each name."""
    names = list(points[0])
    return [
        "| " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|" + "---:|" * len(names),
        *("| " + " | ".join(shown(each[n]) for n in names) + " |" for each in points),
    ]


def shown(value: float) -> str:
    """A number as text: counts in full, measurements to four digits."""
    if isinstance(value, int) or abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


if __name__ == "__main__":
    main()
