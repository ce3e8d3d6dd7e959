"""Growth of time and memory with interactions, items, table rows and workers.

    python -m benchmarks.growth --most-interactions 20_000_000 --minutes 60

Each step of `recdistill run` is measured in a process of its own, on files. A point is
stored as soon as it is measured, so that a stopped run goes on where it was; `--fresh`
measures all again. `python -m benchmarks growth` measures the smaller sizes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import Benchmark
from benchmarks.generated_tables import write_tables
from recdistill.atomic import atomic_write
from recdistill.pipeline.config.lists_section import LARGEST_CATALOGUE

STEPS = ("prepare", "baseline", "teacher", "score", "distill", "evaluate", "export")
INTERACTIONS = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 20_000_000)
ITEMS = (1_000, 10_000, 100_000, 1_000_000)
ROWS = (10_000, 100_000, 1_000_000, 4_000_000)
WORKERS = (1, 2)

CONFIG = """
name = "growth"
workdir = "{folder}/runs"
[dataset]
reader = "tables"
path = "{folder}/tables"
[query]
history = {{ kind = "history", length = 20 }}
[candidate]
item_id = {{ kind = "id" }}
category = {{ kind = "category" }}
[lists]
seen = "exclude"
[teacher]
kind = "sequence"
dim = 32
blocks = 1
attention_length = 20
steps = 100
[student]
steps = 200
learning_rates = [0.003]
[distill]
gate = "warn"
[evaluate]
bootstrap = 100
latency_candidates = [100]
[export]
path = "{folder}/export"
"""


@dataclass(frozen=True)
class Size:
    """Size of the generated data of one point.

    Attributes:
        interactions: Number of interactions.
        items: Number of items.
        workers: Number of workers of a Ray cluster; 0 is the local engine.
    """

    interactions: int
    items: int
    workers: int = 0

    @property
    def queries(self) -> int:
        """Number of queries: 20 interactions each."""
        return max(20, self.interactions // 20)


@dataclass(frozen=True)
class Limits:
    """Limits of a measurement.

    Attributes:
        interactions: Largest number of interactions.
        items: Largest number of items.
        rows: Largest number of table rows.
        seconds: No further point is started after this time.
    """

    interactions: int
    items: int
    rows: int
    seconds: float


def sizes(limits: Limits) -> dict[str, list[Size]]:
    """The sizes of each series, small ones first."""
    most = limits.interactions
    base = Size(min(most, 100_000), min(limits.items, 1_000))
    # A catalogue grows with the shop: a bar of 2·10⁵ items at 2·10⁷ interactions.
    shop = [n for n in INTERACTIONS if n <= most] or [most]
    series = {
        "interactions": [Size(n, min(limits.items, max(200, n // 100))) for n in shop],
        "items": [replace(base, items=n) for n in ITEMS if n <= limits.items]
        or [replace(base, items=limits.items)],
    }
    if has_ray():
        series["workers"] = [replace(base, workers=n) for n in WORKERS]
    return series


def has_ray() -> bool:
    """Whether the engine `ray` and the package exist."""
    from recdistill.pipeline.config import Config

    return "engine" in Config.model_fields and bool(importlib.util.find_spec("ray"))


def run(scale: float = 1.0) -> dict[str, Any]:
    """Runs the benchmark; `BENCHMARK.reading` explains the figures."""
    seconds = float(os.environ.get("RECDISTILL_BENCH_SECONDS", "600"))
    limits = Limits(
        interactions=max(400, round(1_000_000 * scale)),
        items=max(40, round(100_000 * scale)),
        rows=max(200, round(4_000_000 * scale)),
        seconds=seconds,
    )
    folder = Path(tempfile.mkdtemp())
    try:
        return measure(limits, folder / "points.json")
    finally:
        shutil.rmtree(folder)


def measure(limits: Limits, store: Path) -> dict[str, Any]:
    """Measures all points within the limits that `store` does not have yet."""
    deadline = time.monotonic() + limits.seconds
    points: dict[str, dict[str, float]] = {}
    if store.exists():
        points = json.loads(store.read_text(encoding="utf-8"))
    for key, call in wanted(limits):
        if key in points:
            continue
        if points and time.monotonic() > deadline:
            break
        found = call(max(30.0, deadline - time.monotonic()))
        if found is not None:
            points[key] = found
            with atomic_write(store) as aside:
                aside.write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")
    return outcome(points)


def wanted(limits: Limits) -> Iterator[tuple[str, Any]]:
    """The key of each point, and a function that measures it."""
    for rows in [n for n in ROWS if n <= limits.rows] or [limits.rows]:
        yield f"rows/{rows}", lambda seconds, rows=rows: update_time(rows)
    largest = max(map(len, sizes(limits).values()))
    for place in range(largest):  # Small points of all series come first.
        for series, each in sizes(limits).items():
            if place < len(each):
                size = each[place]
                yield (
                    f"{series}/{getattr(size, series)}",
                    lambda seconds, size=size: pipeline_times(size, seconds),
                )


def update_time(rows: int) -> dict[str, float]:
    """Milliseconds of a `LazyAdam` update in a table of this many rows."""
    from benchmarks.embedding_updates import RATE, Update
    from recdistill.evaluation.latency.stopwatch import compare
    from recdistill.models import LazyAdam

    update = Update(LazyAdam(RATE), rows, min(8_000, rows // 2))
    timed = compare({"update": update.step}, warmup=2, repeats=40, budget_s=20.0)
    return {"rows": rows, "update_ms": timed.latencies["update"].p50}


def pipeline_times(size: Size, seconds: float) -> dict[str, float] | None:
    """Seconds and peak memory of each step; None if a step failed or took too long."""
    folder = Path(tempfile.mkdtemp(prefix="growth-"))
    point: dict[str, float] = {"interactions": size.interactions, "items": size.items}
    if size.workers:
        point["workers"] = size.workers
    end, walls = time.monotonic() + seconds, 0.0
    try:
        write_tables(folder / "tables", size.queries, size.items, size.interactions)
        (folder / "growth.toml").write_text(CONFIG.format(folder=folder))
        for step in STEPS:
            costs = []
            for each in commands_of(step, size.items):
                found = step_cost(folder, each, size.workers, end - time.monotonic())
                if found is None:
                    return None
                costs.append(found[:2])
                walls += found[2]
            seconds_each, mib_each = zip(*costs, strict=True)
            point[f"{step}_s"], point[f"{step}_mib"] = sum(seconds_each), max(mib_each)
    finally:
        shutil.rmtree(folder)
    point["run_s"] = sum(point[f"{step}_s"] for step in STEPS)
    point["commands_s"] = walls
    point["run_mib"] = max(point[f"{step}_mib"] for step in STEPS)
    return point


def commands_of(step: str, items: int) -> tuple[str, ...]:
    """The commands of a step: `distill` has a second round on a large catalogue."""
    if step == "distill" and items > LARGEST_CATALOGUE:
        return ("pilot", "closure", "distill")
    return (step,)


def step_cost(
    folder: Path, step: str, workers: int, seconds: float
) -> tuple[float, float, float] | None:
    """Seconds in the record of a step, its peak MiB, and seconds of its command."""
    engine = (
        ["--set", 'engine.kind="ray"', "--set", f"engine.workers={workers}"]
        if workers
        else []
    )
    command = [sys.executable, "-m", "recdistill", step, str(folder / "growth.toml")]
    with (folder / f"{step}.json").open("w+", encoding="utf-8") as output:
        child = subprocess.Popen(
            [*command, "--json", *engine],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        begun, mib = time.monotonic(), 0.0
        while child.poll() is None:
            if time.monotonic() > begun + seconds:
                child.kill()
                child.wait()
                print(f"{step} was stopped: no time is left.", file=sys.stderr)
                return None
            mib = max(mib, peak_mib(child.pid))
            time.sleep(0.05)
        wall = time.monotonic() - begun
        output.seek(0)
        text = output.read()
    if child.returncode:
        print(f"{step} failed:\n{text[-2_000:]}", file=sys.stderr)
        return None
    record = json.loads(text[text.index("{\n") :])["record"]
    return float(record["seconds"]), mib, wall


def peak_mib(process: int) -> float:
    """Peak resident memory of a process so far, in MiB; 0 if it is not known.

    The `ru_maxrss` of a command would include the memory of the process that starts it.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def outcome(points: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Figures and tables from the stored points."""
    by_series: dict[str, list[dict[str, float]]] = {}
    for key in points:
        by_series.setdefault(key.partition("/")[0], []).append(dict(points[key]))
    figures: dict[str, float] = {}
    for series, each in by_series.items():
        each.sort(key=lambda point, series=series: point[series])
        if len(each) > 1:
            figures |= exponents(series, each)
    largest = {
        f"largest_number_of_{series}": round(max(point[series] for point in each))
        for series, each in by_series.items()
    }
    titles = {series: f"Measured points: {series}" for series in by_series}
    return {
        "sizes": largest,
        "figures": figures,
        "points": {titles[series]: each for series, each in by_series.items()},
    }


def exponents(series: str, points: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The exponent of each time and memory, and the ratio of the last two points."""
    size = [point[series] for point in points]
    found = {}
    for name in points[0]:
        if name.endswith(("_s", "_ms", "_mib")):
            cost = [max(point[name], 1e-3) for point in points]
            found[f"{series}_exponent_{name}"] = exponent(size, cost)
    return found


def exponent(size: Sequence[float], cost: Sequence[float]) -> float:
    """Slope of the logarithm of the cost, by least squares.

    Examples:
        >>> round(exponent([10.0, 100.0, 1000.0], [3.0, 300.0, 30_000.0]), 6)
        2.0
    """
    return float(np.polyfit(np.log(size), np.log(cost), 1)[0])


def main() -> None:
    """Measures with the limits of the command line, and prints the outcome."""
    parser = argparse.ArgumentParser("python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--most-interactions", type=int, default=INTERACTIONS[-1])
    parser.add_argument("--most-items", type=int, default=ITEMS[-1])
    parser.add_argument("--most-rows", type=int, default=ROWS[-1])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--store", type=Path, default=Path("build/growth.json"))
    parser.add_argument("--fresh", action="store_true", help="Measure all again.")
    options = parser.parse_args()
    options.store.parent.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        options.store.unlink(missing_ok=True)
    limits = Limits(
        options.most_interactions,
        options.most_items,
        options.most_rows,
        60 * options.minutes,
    )
    print(json.dumps(measure(limits, options.store), indent=1))


_COSTS = {
    **{
        f"{step}_{unit}": f"{what} of the step `{step}`"
        + " with its second round" * (step == "distill")
        for step in STEPS
        for unit, what in (("s", "seconds"), ("mib", "peak memory"))
    },
    "run_s": "seconds of all steps together",
    "commands_s": "seconds of all commands, each with the start of its process",
    "run_mib": "peak memory of the largest step",
}
_SERIES = {
    "interactions": "interactions, with 20 for each query and 100 for each item",
    "items": "items, with the same interactions",
    "workers": "workers of a local Ray cluster",
}

BENCHMARK = Benchmark(
    name="growth",
    title="Growth of a run with interactions, items, table rows and workers",
    equal=(
        "The same configuration at every size: a sequence ranker as teacher, 200 "
        "training steps, files as input. Each step runs as a command of its own; its "
        "time is the one in its record, and its memory the largest resident size of "
        "the process (about 600 MiB of it is TensorFlow). `commands s` is the time of "
        "all commands with what is not in a record: the start of the process, and the "
        "checks before and after a step."
    ),
    other_side=(
        "The same run at a smaller size. An exponent of 1 means that the cost grows in "
        "proportion, 0 that it does not grow. Training has a fixed number of steps."
    ),
    reading={
        **{
            f"{series}_exponent_{name}": f"Exponent of the {what} in the {how}."
            for series, how in _SERIES.items()
            for name, what in _COSTS.items()
        },
        "rows_exponent_update_ms": (
            "Exponent of the time of a `LazyAdam` update in the rows of the table, "
            "with the same number of ids."
        ),
    },
    run=run,
    limit_s=600.0,
)

if __name__ == "__main__":
    main()
