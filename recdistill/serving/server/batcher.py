"""Server-side batching: one run of the graph for several requests.

A batch waits until it is full or its first request reaches the batch timeout; then a
thread runs it. Narrow inputs are padded as in TensorFlow Serving. Unlike there, a
request cannot make others fail or end the server: requests of a wrong shape are
rejected before they are batched, requests of different widths share a batch only if
padding is enabled, and if a batch fails, its requests run one by one.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import dataclass, field, replace

import numpy as np
from grpc import StatusCode

from recdistill.serving.client.input_checks import shape_problem
from recdistill.serving.deploy.batching_config import Batching
from recdistill.serving.server.loaded_model import LoadedSignature
from recdistill.serving.server.request_errors import RequestError, invalid
from recdistill.serving.server.server_metrics import ServerMetrics

__all__ = ["Batcher"]

Arrays = list[np.ndarray]
_Sizes = list[tuple[int, ...]]
Run = Callable[[LoadedSignature, Arrays, tuple[str, ...]], Arrays]

_METRICS = ":tensorflow:serving:batching_session"

WIDEST_SHARED = 4096
"""Longest rows that share a padded batch, because the others are padded to them."""

_POOL = "batch_threads"
"""TensorFlow Serving's name of the thread pool, a label of its metrics."""


@dataclass(eq=False)
class _Task:
    """A request and its future answer."""

    values: Sequence[np.ndarray]
    rows: int
    since: float
    answer: futures.Future[Arrays] = field(default_factory=futures.Future)


@dataclass(eq=False)
class _Batch:
    """Requests that run together, for one signature and set of outputs.

    Attributes:
        shapes: The sizes, without rows, in which the inputs must agree.
    """

    signature: LoadedSignature
    outputs: tuple[str, ...]
    shapes: _Sizes
    due: float
    tasks: list[_Task] = field(default_factory=list)
    rows: int = 0
    closed: bool = False


class Batcher:
    """Collects the requests of one version and runs them in batches.

    Args:
        run: Runs a batch.
        parameters: Batching parameters.
        metrics: Metrics for batch sizes and queueing times.
    """

    def __init__(self, run: Run, parameters: Batching, metrics: ServerMetrics) -> None:
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
        signature: LoadedSignature,
        values: Sequence[np.ndarray],
        outputs: tuple[str, ...],
        timeout_s: float | None = None,
    ) -> Arrays:
        """Adds a request to a batch and waits for its answer.

        Args:
            signature: The signature to call.
            values: One array for each input, `(rows, …)`.
            outputs: Names of the outputs to compute.
            timeout_s: Timeout in seconds.

        Returns:
            One array for each of `outputs`, `(rows, …)`.

        Raises:
            RequestError: If the request cannot be batched, the queue is full, the
                request times out, or the batch fails.
        """
        task = _Task(values, self._rows(signature, values), time.monotonic())
        self._metrics.observe(f"{_METRICS}:input_batch_size", task.rows)
        with self._changed:
            self._enqueue(signature, outputs, task)
        if timeout_s is not None:
            # gRPC gives a request without a deadline more seconds than a wait may have.
            timeout_s = min(timeout_s, threading.TIMEOUT_MAX)
        try:
            return task.answer.result(timeout_s)
        except TimeoutError as error:
            task.answer.cancel()
            raise RequestError(
                StatusCode.DEADLINE_EXCEEDED,
                "The request timed out while it waited for a batch.",
            ) from error

    def close(self) -> None:
        """Runs the waiting batches, then ends the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _rows(self, signature: LoadedSignature, values: Sequence[np.ndarray]) -> int:
        if not values:
            raise invalid("Batching Run() must have at least one input tensor")
        problem = shape_problem(
            signature.shapes, dict(zip(signature.inputs, values, strict=True))
        )
        if problem is not None:
            raise invalid(f"The request cannot be batched: {problem}")
        number = len(values[0])
        if number > self.parameters.max_batch_size:
            raise invalid(
                f"Task size {number} is larger than maximum input batch size "
                f"{self.parameters.max_batch_size}"
            )
        return number

    def _enqueue(
        self, signature: LoadedSignature, outputs: tuple[str, ...], task: _Task
    ) -> None:
        if self._closed:
            raise RequestError(
                StatusCode.UNAVAILABLE, "This version is being unloaded."
            )
        limit, shapes = self.parameters.max_batch_size, self._shared_sizes(task.values)
        queue = [
            batch
            for batch in self._waiting
            if batch.signature is signature and batch.outputs == outputs
        ]
        mine = [batch for batch in queue if batch.shapes == shapes]
        batch = mine[-1] if mine and not mine[-1].closed else None
        if batch is None or batch.rows + task.rows > limit:
            if len(queue) >= self.parameters.max_enqueued_batches:
                raise RequestError(
                    StatusCode.UNAVAILABLE,
                    "The batch scheduling queue to which this task was submitted is "
                    "full",
                )
            if batch is not None:
                batch.closed = True
            due = task.since + self.parameters.batch_timeout_micros / 1e6
            batch = _Batch(signature, outputs, shapes, due)
            self._waiting.append(batch)
        batch.tasks.append(task)
        batch.rows += task.rows
        batch.closed = batch.rows == limit
        self._changed.notify()

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            # Leaves out requests that have timed out.
            batch.tasks = [
                task
                for task in batch.tasks
                if task.answer.set_running_or_notify_cancel()
            ]
            if not batch.tasks:
                continue
            self._answer(batch)

    def _answer(self, batch: _Batch) -> None:
        """Runs a batch; if it fails, its requests run one by one."""
        try:
            self._process(batch)
        except Exception as error:
            # The thread must not end, because later requests would then wait forever.
            if len(batch.tasks) > 1:
                for task in batch.tasks:
                    self._answer(replace(batch, tasks=[task], rows=task.rows))
                return
            if not isinstance(error, RequestError):
                message = f"Batch failed: {error!r}"
                error = RequestError(StatusCode.INTERNAL, message)
            batch.tasks[0].answer.set_exception(error)

    def _shared_sizes(self, values: Sequence[np.ndarray]) -> _Sizes:
        """The sizes, without rows, in which the requests of a batch must agree."""
        exact = [value.shape[1:] for value in values]
        widest = max((max(sizes, default=0) for sizes in exact), default=0)
        if self.parameters.pad_variable_length_inputs and widest <= WIDEST_SHARED:
            # Requests of different ranks cannot share a batch.
            return [(len(sizes),) for sizes in exact]
        return exact

    def _next(self) -> _Batch | None:
        """Waits for the first batch that is full or due; None after `close`."""
        with self._changed:
            while True:
                now = time.monotonic()
                for place, batch in enumerate(self._waiting):
                    if batch.closed or batch.due <= now or self._closed:
                        return self._waiting.pop(place)
                if self._closed:
                    return None
                due = min((batch.due for batch in self._waiting), default=math.inf)
                self._changed.wait(min(due - now, threading.TIMEOUT_MAX))

    def _process(self, batch: _Batch) -> None:
        now = time.monotonic()
        for task in batch.tasks:
            waited = (now - task.since) * 1e6
            self._metrics.observe(f"{_METRICS}:queuing_latency", waited, _POOL)
        rows = sum(task.rows for task in batch.tasks)
        # The smallest allowed batch size that fits.
        allowed = self.parameters.allowed_batch_sizes
        filled = next((size for size in allowed if size >= rows), rows)
        self._metrics.observe(f"{_METRICS}:processed_batch_size", filled)
        self._metrics.observe(f"{_METRICS}:padding_size", filled - rows)
        self._metrics.count(f"{_METRICS}:wrapped_run_count")
        merged = [
            _merged([task.values[place] for task in batch.tasks], filled - rows)
            for place in range(len(batch.signature.inputs))
        ]
        answer = self._run(batch.signature, merged, batch.outputs)
        _split(answer, batch, filled)


def _merged(parts: list[np.ndarray], extra_rows: int) -> np.ndarray:
    """Concatenates an input of all requests, with rows that fill up the batch."""
    widest = np.max([part.shape[1:] for part in parts], axis=0)
    parts = [_padded(part, [int(size) for size in widest]) for part in parts]
    if extra_rows:
        # Repeats a row of a request, because the graph accepts it.
        parts = [*parts, np.repeat(parts[-1][:1], extra_rows, axis=0)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _padded(part: np.ndarray, widest: Sequence[int]) -> np.ndarray:
    """Pads an array with its first value, as TensorFlow Serving does."""
    if part.shape[1:] == tuple(widest):
        return part
    wider = np.full((len(part), *widest), part.flat[0], part.dtype)
    wider[tuple(slice(size) for size in part.shape)] = part
    return wider


def _split(answer: Arrays, batch: _Batch, filled: int) -> None:
    for array in answer:
        if array.ndim == 0:
            raise RequestError(
                StatusCode.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions"
            )
        if len(array) != filled:
            raise RequestError(
                StatusCode.FAILED_PRECONDITION,
                "Batched output tensor's 0th dimension does not equal the sum of the "
                "0th dimension sizes of the input tensors",
            )
    start = 0
    for task in batch.tasks:
        end = start + task.rows
        task.answer.set_result([array[start:end] for array in answer])
        start = end
