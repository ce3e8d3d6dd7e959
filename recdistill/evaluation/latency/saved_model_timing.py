"""Times of a SavedModel's calls, taken in a fresh process, and what they cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recdistill.errors import TimingError
from recdistill.evaluation.latency.stopwatch import Latency, Throughput
from recdistill.export.layout import WARM_UP

__all__ = [
    "Call",
    "ModelTimes",
    "TimedCall",
    "time_model",
]


@dataclass(frozen=True)
class Call:
    """A call to time.

    Attributes:
        signature: Its name.
        rows: The batch size.
        candidates: Candidates of each row, for `rank`; None elsewhere.
    """

    signature: str
    rows: int = 1
    candidates: int | None = None


@dataclass(frozen=True)
class TimedCall:
    """What a call took.

    Attributes:
        call: The call.
        threads: Threads that TensorFlow had.
        throughput: Its times.
        flops: See `recdistill.evaluation.latency.flops`; None where not counted.
    """

    call: Call
    threads: int
    throughput: Throughput
    flops: int | None

    @property
    def per_core_second(self) -> float:
        """Requests that a core answers in a second of its time."""
        return 1000 / self.throughput.cpu_ms

    def cost_per_million(self, core_price: float) -> float:
        """Price of a million requests, if cores do nothing else and never wait.

        Args:
            core_price: Of a core for an hour.

        Example:
            >>> times = Throughput(Latency(1, 1, 1, 1, 1, 1), 1000.0, 3.6, joules=None)
            >>> TimedCall(Call("rank"), 1, times, None).cost_per_million(0.04)
            0.04
        """
        core_hours = self.throughput.cpu_ms / 1000 / 3600 * 1e6
        return core_hours * core_price


@dataclass(frozen=True)
class ModelTimes:
    """Times of a model.

    Attributes:
        path: The SavedModel.
        size_bytes: Of all its files.
        memory_bytes: What loading it added to the process; None where not known.
        load_s: How long loading took, in seconds.
        warm_up_rows: Rows of the largest warm-up request.
        counted: What `flops` are a count of, in words.
        calls: What was timed.
    """

    path: Path
    size_bytes: int
    memory_bytes: int | None
    load_s: float
    warm_up_rows: int
    counted: str
    calls: tuple[TimedCall, ...]


def time_model(
    model: Path,
    calls: Iterable[Call],
    *,
    threads: int = 1,
    workers: int = 1,
    seconds: float = 1.0,
    flops: bool = False,
) -> ModelTimes:
    """Times calls of a SavedModel in a process of its own.

    The rows are real: those of the model's warm-up requests, repeated where a batch is
    larger. Times include handing inputs over from Python and outputs back, and neither
    protocol nor network.

    Args:
        model: The SavedModel; has warm-up requests for each signature that is called.
        calls: What to time.
        threads: Threads that TensorFlow may use, at least 1.
        workers: Callers at once, at least 1.
        seconds: How long each call is repeated.
        flops: Whether to count the operations of each call.

    Raises:
        TimingError: If a setting is out of range, or the model can't be asked; with
            what the process said.
    """
    if not (model / WARM_UP).exists():
        raise TimingError(
            f"`model` must have warm-up requests, which are the real rows to time it "
            f"with: {WARM_UP}. Received: {model} without them"
        )
    calls = tuple(calls)
    _check(calls, threads=threads, workers=workers, seconds=seconds)
    plan = {
        "threads": threads,
        "workers": workers,
        "seconds": seconds,
        "flops": flops,
        "calls": [asdict(call) for call in calls],
    }
    with tempfile.TemporaryDirectory(prefix="recdistill-") as folder:
        asked, answered = Path(folder) / "plan.json", Path(folder) / "result.json"
        asked.write_text(json.dumps(plan), encoding="utf-8")
        _run([str(model), str(asked), str(answered)])
        result = json.loads(answered.read_text(encoding="utf-8"))
    return ModelTimes(
        path=model,
        size_bytes=sum(p.stat().st_size for p in model.rglob("*") if p.is_file()),
        memory_bytes=result["memory_bytes"],
        load_s=result["load_s"],
        warm_up_rows=result["warm_up_rows"],
        counted=result["counted"],
        calls=tuple(_timed(each, threads) for each in result["calls"]),
    )


def _check(calls: Sequence[Call], **settings: float) -> None:
    if not calls:
        raise TimingError("`calls` must have at least one entry. Received: none")
    for name, value in settings.items():
        if value <= 0:
            raise TimingError(f"`{name}` must be positive. Received: {name}={value}")
    for call in calls:
        if call.rows < 1 or (call.candidates is not None and call.candidates < 1):
            raise TimingError(
                "`rows` and `candidates` must be at least 1. Received: "
                f"rows={call.rows}, candidates={call.candidates}"
            )


def _run(arguments: Sequence[str]) -> None:
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [
        sys.executable,
        "-P",
        "-m",
        "recdistill.evaluation.latency.timing_process",
    ]
    done = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise TimingError(
            "The model could not be asked in a fresh process. It said:\n"
            + done.stderr.strip()[-2000:]
        )


def _timed(result: dict[str, Any], threads: int) -> TimedCall:
    call = Call(result["signature"], result["rows"], result["candidates"])
    latency = Latency(**result["throughput"].pop("latency"))
    return TimedCall(
        call, threads, Throughput(latency, **result["throughput"]), result["flops"]
    )
