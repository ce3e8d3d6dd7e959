"""Latency and cost of a SavedModel's calls, measured in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from recdistill.errors import TimingError
from recdistill.evaluation.latency.stopwatch import Throughput
from recdistill.export.layout import WARM_UP

__all__ = [
    "Call",
    "ModelTimes",
    "TimedCall",
    "time_model",
]


@dataclass(frozen=True)
class Call:
    """A call of a signature to be timed.

    Attributes:
        signature: Name of the signature.
        rows: Batch size.
        candidates: Candidates of each row, for `rank`; None for other signatures.
    """

    signature: str
    rows: int = 1
    candidates: int | None = None


@dataclass(frozen=True)
class TimedCall:
    """Latency and cost of a call.

    Attributes:
        call: The call.
        threads: Number of TensorFlow threads.
        throughput: Measured latency, throughput and processor time.
        flops: See `recdistill.evaluation.latency.flops`; None if not counted.
    """

    call: Call
    threads: int
    throughput: Throughput
    flops: int | None

    @property
    def per_core_second(self) -> float:
        """Requests per core-second."""
        return 1000 / self.throughput.cpu_ms

    def cost_per_million(self, core_price: float) -> float:
        """Price of a million requests on cores that are never idle.

        Args:
            core_price: Price of a core-hour.

        Examples:
            >>> from recdistill.evaluation.latency.stopwatch import Latency
            >>> times = Throughput(Latency(1, 1, 1, 1, 1, 1), 1000.0, 3.6, joules=None)
            >>> TimedCall(Call("rank"), 1, times, None).cost_per_million(0.04)
            0.04
        """
        core_hours = self.throughput.cpu_ms / 1000 / 3600 * 1e6
        return core_hours * core_price


@dataclass(frozen=True)
class ModelTimes:
    """Latency and cost of a model's calls.

    Attributes:
        path: Folder of the SavedModel.
        size_bytes: Size of all its files.
        memory_bytes: Memory that loading it added to the process; None if unknown.
        load_s: Loading time in seconds.
        warm_up_rows: Rows of the largest warm-up request.
        calls: The timed calls.
    """

    path: Path
    size_bytes: int
    memory_bytes: int | None
    load_s: float
    warm_up_rows: int
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
    """Latency and cost of a SavedModel's calls, measured in a fresh process.

    The inputs are real rows from the model's warm-up requests, repeated to fill larger
    batches. Times include passing inputs and outputs between Python and TensorFlow, but
    neither protocol nor network.

    Args:
        model: Folder of the SavedModel; it must have warm-up requests for each
            signature that is called.
        calls: The calls to time.
        threads: Number of TensorFlow threads, at least 1.
        workers: Number of concurrent callers, at least 1.
        seconds: Duration of the measurement of each call.
        flops: Whether to count the floating-point operations of each call.

    Raises:
        TimingError: If a setting is out of range, or the model cannot be loaded or
            called; the message then has the output of the process.
    """
    if not (model / WARM_UP).exists():
        raise TimingError(
            f"`model` must have warm-up requests in {WARM_UP}, which provide the rows "
            f"to time it with. Received: {model} without them"
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
        plan_file, result_file = Path(folder, "plan.json"), Path(folder, "result.json")
        plan_file.write_text(json.dumps(plan), encoding="utf-8")
        _run([str(model), str(plan_file), str(result_file)])
        result = json.loads(result_file.read_text(encoding="utf-8"))
    return ModelTimes(
        path=model,
        size_bytes=sum(p.stat().st_size for p in model.rglob("*") if p.is_file()),
        memory_bytes=result["memory_bytes"],
        load_s=result["load_s"],
        warm_up_rows=result["warm_up_rows"],
        calls=TypeAdapter(tuple[TimedCall, ...]).validate_python(result["calls"]),
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
    paths = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH")]
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
            "The model could not be timed in a fresh process, which failed with:\n"
            + done.stderr.strip()[-2000:]
        )
