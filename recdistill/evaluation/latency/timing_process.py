"""Process that loads a SavedModel with TensorFlow alone and times its calls.

    python -m recdistill.evaluation.latency.timing_process MODEL PLAN RESULT

PLAN and RESULT are JSON files; `recdistill.evaluation.latency.saved_model_timing`
writes and reads them. The model is loaded by the session loader, as in the C++ server.
The inputs are real rows from its warm-up requests, repeated to fill larger batches.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # TensorFlow tries to import both; this process needs neither.
    sys.modules.update(dict.fromkeys(("keras", "tf_keras")))  # type: ignore[arg-type]

import numpy as np
import tensorflow as tf

from recdistill.evaluation.latency.flops import flops_of_run
from recdistill.evaluation.latency.saved_model_timing import Call, TimedCall
from recdistill.evaluation.latency.stopwatch import measure_throughput
from recdistill.export.fresh_process import open_session
from recdistill.export.layout import MANIFEST, WARM_UP, read_manifest
from recdistill.export.parity import read_logs

Arrays = dict[str, np.ndarray]


class LoadedExport:
    """A loaded SavedModel with the rows of its warm-up requests.

    Args:
        path: Folder of the SavedModel.
        threads: Number of threads inside an op, and of ops that run concurrently.
    """

    def __init__(self, path: Path, threads: int) -> None:
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads
        )
        before, start = memory_bytes(), time.perf_counter()
        self.session, self.signatures = open_session(path, config)
        self.load_s = time.perf_counter() - start
        self.memory_bytes = None if before is None else memory_bytes() - before  # type: ignore[operator]
        self.rows = _warm_up_rows(path / WARM_UP)
        self.items = read_manifest(path)["items"] if (path / MANIFEST).exists() else 0

    def inputs(self, signature: str, rows: int, candidates: int | None) -> Arrays:
        """Inputs of a call, from warm-up requests.

        Args:
            signature: Name of the signature; it must have warm-up requests.
            rows: Batch size.
            candidates: Width of `candidate_ids`, if the signature has that input.

        Raises:
            SystemExit: If the signature has no warm-up request.
        """
        if signature not in self.rows:
            raise SystemExit(
                f"`signature` must have warm-up requests; {sorted(self.rows)} do. "
                f"Received: {signature!r}"
            )
        real = self.rows[signature]
        inputs = {
            name: value[np.arange(rows) % len(value)] for name, value in real.items()
        }
        if candidates is not None and "candidate_ids" in inputs:
            ids = self._items(candidates, inputs["candidate_ids"])
            inputs["candidate_ids"] = np.tile(ids, (rows, 1))
        return inputs

    def prepare(self, signature: str, inputs: Arrays) -> Callable[[], Any]:
        """Function without arguments that calls a signature with these inputs."""
        contract = self.signatures[signature]
        names = list(inputs)
        run = self.session.make_callable(
            [info.name for info in contract.outputs.values()],
            [contract.inputs[name].name for name in names],
        )
        values = [inputs[name] for name in names]
        return lambda: run(*values)

    def flops(self, signature: str, inputs: Arrays) -> int:
        """Floating-point operations of a call."""
        contract = self.signatures[signature]
        feed = {contract.inputs[name].name: value for name, value in inputs.items()}
        fetches = [info.name for info in contract.outputs.values()]
        return flops_of_run(self.session, fetches, feed)

    def _items(self, count: int, known: np.ndarray) -> np.ndarray:
        """Item ids to rank, `(count,)`: recommendations of the model itself."""
        found = known[0]
        if "recommend" in self.rows and self.items:
            inputs = self.inputs("recommend", 1, None)
            inputs["k"] = np.array([min(count, self.items)], "int32")
            contract = self.signatures["recommend"]
            feed = {contract.inputs[n].name: v for n, v in inputs.items()}
            answer = self.session.run(contract.outputs["item_ids"].name, feed)[0]
            found = answer[answer != b""]
        return np.resize(found, count)


def memory_bytes() -> int | None:
    """Resident memory of this process; None if the system does not report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    import resource

    return pages * resource.getpagesize()


def carry_out(path: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """Times the calls of a plan.

    Args:
        path: Folder of the SavedModel.
        plan: `threads`, `workers`, `seconds`, `flops`, and `calls`, each with
            `signature`, `rows` and `candidates`.
    """
    model = LoadedExport(path, plan["threads"])
    calls = []
    for call in plan["calls"]:
        inputs = model.inputs(call["signature"], call["rows"], call["candidates"])
        throughput = measure_throughput(
            model.prepare(call["signature"], inputs),
            workers=plan["workers"],
            seconds=plan["seconds"],
        )
        flops = model.flops(call["signature"], inputs) if plan["flops"] else None
        timed = TimedCall(Call(**call), plan["threads"], throughput, flops)
        calls.append(asdict(timed))
    return {
        "load_s": model.load_s,
        "memory_bytes": model.memory_bytes,
        "warm_up_rows": max(len(_first(inputs)) for inputs in model.rows.values()),
        "calls": calls,
    }


def _warm_up_rows(path: Path) -> dict[str, Arrays]:
    """Inputs of the largest warm-up request of each signature."""
    largest: dict[str, Arrays] = {}
    for log in read_logs(path):
        request = log.predict_log.request
        inputs = {name: tf.make_ndarray(v) for name, v in request.inputs.items()}
        name = request.model_spec.signature_name
        if len(_first(inputs)) > len(_first(largest.get(name, {"": np.empty(0)}))):
            largest[name] = inputs
    return largest


def _first(inputs: Arrays) -> np.ndarray:
    return next(iter(inputs.values()))


if __name__ == "__main__":
    model, plan, result = map(Path, sys.argv[1:])
    done = carry_out(model, json.loads(plan.read_text("utf-8")))
    result.write_text(json.dumps(done), encoding="utf-8")
