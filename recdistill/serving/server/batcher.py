"""Requests put together: one run of the graph for several of them.

The rules are the model server's. A batch waits until it is full or its first request
has waited long enough, and goes to a thread then. All rows of all requests of a batch
share one width for each input; what one request breaks, it breaks for all in its batch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from recdistill.serving.deploy.batching_config import Batching
from recdistill.serving.server.loaded_model import Signature
from recdistill.serving.server.request_errors import Code, RequestError, invalid
from recdistill.serving.server.server_metrics import Metrics

__all__ = ["Batcher"]

Arrays = list[np.ndarray]
Run = Callable[[Signature, Arrays, tuple[str, ...]], Arrays]

_METRICS = ":tensorflow:serving:batching_session"

_POOL = "batch_threads"
"""The model server's name of the threads, a label of its metrics."""


@dataclass(eq=False)
class _Task:
    """One request; `done` is set when `answer` or `error` is there."""

    values: Sequence[np.ndarray]
    rows: int
    since: float
    done: threading.Event = field(default_factory=threading.Event)
    answer: Arrays = field(default_factory=list)
    error: RequestError | None = None
    abandoned: bool = False


@dataclass(eq=False)
class _Batch:
    """Requests of one signature and one set of outputs that are run together."""

    signature: Signature
    outputs: tuple[str, ...]
    due: float
    tasks: list[_Task] = field(default_factory=list)
    rows: int = 0
    closed: bool = False


class Batcher:
    """Collects the requests of one version and runs them in batches.

    Args:
        run: Runs one batch.
        parameters: How batches are formed.
        metrics: Where sizes and waiting times go.
    """

    def __init__(self, run: Run, parameters: Batching, metrics: Metrics) -> None:
        self.parameters = parameters
        self._run, self._metrics = run, metrics
        self._changed = threading.Condition()
        self._waiting: list[_Batch] = []
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{n}", daemon=True)
            for n in range(parameters.num_batch_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        signature: Signature,
        values: Sequence[np.ndarray],
        outputs: tuple[str, ...],
        timeout_s: float | None = None,
    ) -> Arrays:
        """Waits for the answer to one request.

        Args:
            signature: What is asked.
            values: One array for each of its inputs, `(rows, …)`.
            outputs: Names of the outputs to compute.
            timeout_s: How long to wait for the answer.

        Returns:
            One array for each of `outputs`, `(rows, …)`.

        Raises:
            RequestError: If the request cannot be batched, the queue is full, the
                answer takes longer than allowed, or the batch failed.
        """
        task = _Task(values, self._rows(values), time.monotonic())
        self._metrics.observe(f"{_METRICS}:input_batch_size", task.rows)
        with self._changed:
            self._enqueue(signature, outputs, task)
        if not task.done.wait(timeout_s):
            task.abandoned = True
            message = "The request waited in the batcher for longer than it may take."
            raise RequestError(Code.DEADLINE_EXCEEDED, message)
        if task.error is not None:
            raise RequestError(task.error.code, task.error.message)
        return task.answer

    def close(self) -> None:
        """Runs what waits, then ends the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _rows(self, values: Sequence[np.ndarray]) -> int:
        if any(value.ndim == 0 for value in values) or not values:
            raise invalid(
                "Batching Run() input tensors must have at least one dimension"
            )
        rows = {len(value) for value in values}
        if len(rows) > 1:
            raise invalid(
                "Batching Run() input tensors must have equal 0th-dimension size. "
                f"Received: {sorted(rows)}"
            )
        [number] = rows
        if number > self.parameters.max_batch_size:
            raise invalid(
                f"Task size {number} is larger than maximum input batch size "
                f"{self.parameters.max_batch_size}"
            )
        if not number:
            raise invalid(
                "A request must have at least one row where requests are batched: "
                "the model server leaves an empty one waiting for the next request"
            )
        return number

    def _enqueue(
        self, signature: Signature, outputs: tuple[str, ...], task: _Task
    ) -> None:
        if self._closed:
            raise RequestError(Code.UNAVAILABLE, "This version is being unloaded.")
        limit = self.parameters.max_batch_size
        mine = [
            batch
            for batch in self._waiting
            if batch.signature is signature and batch.outputs == outputs
        ]
        batch = mine[-1] if mine and not mine[-1].closed else None
        if batch is None or batch.rows + task.rows > limit:
            if len(mine) >= self.parameters.max_enqueued_batches:
                raise RequestError(
                    Code.UNAVAILABLE,
                    "The batch scheduling queue to which this task was submitted is "
                    "full",
                )
            if batch is not None:
                batch.closed = True
            due = task.since + self.parameters.batch_timeout_micros / 1e6
            batch = _Batch(signature, outputs, due)
            self._waiting.append(batch)
        batch.tasks.append(task)
        batch.rows += task.rows
        batch.closed = batch.rows == limit
        self._changed.notify()

    def _work(self) -> None:
        while True:
            batch = self._next()
            if batch is None:
                return
            batch.tasks = [task for task in batch.tasks if not task.abandoned]
            if not batch.tasks:
                continue
            try:
                self._process(batch)
            except RequestError as error:
                _fail(batch, error)
            except Exception as error:
                # A thread that ended would leave all later requests waiting.
                _fail(batch, RequestError(Code.INTERNAL, f"Batch failed: {error!r}"))

    def _next(self) -> _Batch | None:
        """The first batch that is full or due; None where no more will come."""
        with self._changed:
            while True:
                now = time.monotonic()
                for place, batch in enumerate(self._waiting):
                    if batch.closed or batch.due <= now or self._closed:
                        return self._waiting.pop(place)
                if self._closed:
                    return None
                due = min((batch.due for batch in self._waiting), default=None)
                self._changed.wait(None if due is None else due - now)

    def _process(self, batch: _Batch) -> None:
        now = time.monotonic()
        for task in batch.tasks:
            waited = (now - task.since) * 1e6
            self._metrics.observe(f"{_METRICS}:queuing_latency", waited, _POOL)
        rows = sum(task.rows for task in batch.tasks)
        filled = _filled(rows, self.parameters.allowed_batch_sizes)
        self._metrics.observe(f"{_METRICS}:processed_batch_size", filled)
        self._metrics.observe(f"{_METRICS}:padding_size", filled - rows)
        self._metrics.count(f"{_METRICS}:wrapped_run_count")
        merged = [
            _merged(
                name,
                [task.values[place] for task in batch.tasks],
                filled - rows,
                self.parameters.pad_variable_length_inputs,
            )
            for place, name in enumerate(batch.signature.inputs)
        ]
        answer = self._run(batch.signature, merged, batch.outputs)
        _split(answer, batch, filled)


def _filled(rows: int, allowed: Sequence[int]) -> int:
    """The size that a batch is filled up to."""
    return next((size for size in allowed if size >= rows), rows)


def _merged(
    name: str, parts: list[np.ndarray], extra_rows: int, pad: bool
) -> np.ndarray:
    """One input of all requests, below one another, with rows to fill the batch up."""
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1:
        if not pad or len({len(shape) for shape in shapes}) > 1:
            raise RequestError(
                Code.FAILED_PRECONDITION,
                f"Tensors with name '{name}' from different tasks have different "
                f"shapes, {sorted(shapes)}, and padding is turned off. Set "
                "pad_variable_length_inputs to true, or ensure that all tensors with "
                "the same name have equal dimensions starting with the first dim.",
            )
        widest = [max(sizes) for sizes in zip(*shapes, strict=True)]
        parts = [_padded(name, part, widest) for part in parts]
    if extra_rows:
        # A row that was sent is surely one that the graph takes.
        parts = [*parts, np.repeat(parts[-1][:1], extra_rows, axis=0)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _padded(name: str, part: np.ndarray, widest: Sequence[int]) -> np.ndarray:
    """The array made wider with its own first value, as the model server does it."""
    gaps = [wide - size for wide, size in zip(widest, part.shape[1:], strict=True)]
    if not any(gaps):
        return part
    if not part.size:
        raise invalid(
            f"Tensors with name '{name}' from different tasks cannot be padded: one "
            "has no value that could be repeated. Send one empty string instead."
        )
    wider = np.full((len(part), *widest), part.flat[0], part.dtype)
    wider[tuple(slice(size) for size in part.shape)] = part
    return wider


def _split(answer: Arrays, batch: _Batch, filled: int) -> None:
    for array in answer:
        if array.ndim == 0:
            message = "Batched output tensor has 0 dimensions"
            raise RequestError(Code.FAILED_PRECONDITION, message)
        if len(array) != filled:
            raise RequestError(
                Code.FAILED_PRECONDITION,
                "Batched output tensor's 0th dimension does not equal the sum of the "
                "0th dimension sizes of the input tensors",
            )
    start = 0
    for task in batch.tasks:
        task.answer = [array[start : start + task.rows] for array in answer]
        start += task.rows
        task.done.set()


def _fail(batch: _Batch, error: RequestError) -> None:
    for task in batch.tasks:
        task.error = error
        task.done.set()
