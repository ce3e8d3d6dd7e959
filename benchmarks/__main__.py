"""Run every benchmark; write `RESULTS.md` and `results.json` next to this file."""

import json
import os
from collections.abc import Mapping, Sequence
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
    full_evaluation,
    linear,
    metrics,
    retrieval,
    scoring,
    serving_soak,
    serving_warm_up,
)
from recdistill.atomic import atomic_write
from recdistill.evaluation.report.run_environment import describe_environment

BENCHMARKS = tuple(
    module.BENCHMARK
    for module in (
        distiller,
        distillation_step,
        batch_delivery,
        distiller_correctness,
        metrics,
        linear,
        embedding_updates,
        candidates,
        scoring,
        full_evaluation,
        retrieval,
        serving_soak,
        serving_warm_up,
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
)

INTRODUCTION = """\
# Benchmarks

Written by `make bench`. All numbers come from one run on the machine below. Both sides
of a benchmark were measured in that run, in alternating blocks of up to ten calls, so
that a drift of the machine affects both equally. A time is the median of single calls.
A speed-up is the ratio of the two sides' medians within a round, and then the median
over rounds; it depends less on the machine than a time does. Differences show that both
sides computed the same.
"""


def main() -> None:
    """Run, show and write."""
    console = Console()
    outcomes = {}
    for benchmark in BENCHMARKS:
        with console.status(f"{benchmark.name} …"):
            outcomes[benchmark.name] = benchmark.run(1.0)
        console.print(f"\n[bold]{benchmark.title}[/bold]")
        console.print(as_table(outcomes[benchmark.name]))
    for path in write(outcomes, Path(__file__).parent):
        console.print(f"Written: {path.name}")


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
        "results.json": json.dumps(document, indent=2, allow_nan=False) + "\n",
        "RESULTS.md": "\n".join(
            [INTRODUCTION, machine(environment)]
            + [section(each, outcomes[each.name]) for each in benchmarks]
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
    return "\n".join(
        [
            f"## {benchmark.title}\n",
            f"**Equal on both sides.** {benchmark.equal}\n",
            f"**The other side.** {benchmark.other_side}\n",
            f"**Sizes.** {sizes[:1].upper()}{sizes[1:]}.\n",
            "| figure | value | how to read it |",
            "|---|---:|---|",
            *rows,
            "",
        ]
    )


def shown(value: float) -> str:
    """A number as text: counts in full, measurements to four digits."""
    if isinstance(value, int) or abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


if __name__ == "__main__":
    main()
