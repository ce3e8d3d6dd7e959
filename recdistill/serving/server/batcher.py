"""Server-side batching: one run of the graph for several requests.

The rules are TensorFlow Serving's. A batch waits until it is full or its first request
reaches the batch timeout; then a thread runs it. For each input, all requests of a
batch must have the same width, or be padded to it. An error of one request fails all
requests of its batch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import dataclass, field

import numpy as np
from grpc import StatusCode

from recdistill.serving.deploy.batching_config import Batching
from recdistill.serving.server.loaded_model import LoadedSignature
from recdistill.serving.server.request_errors import RequestError, invalid
from recdistill.serving.server.server_metrics import ServerMetrics

__all__ = ["Batcher"]

Arrays = list[np.ndarray]
Run = Callable[[LoadedSignature, Arrays, tuple[str, ...]], Arrays]

_METRICS = ":tensorflow:serving:batching_session"

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
    """Requests that run together, for one signature and set of outputs."""

    signature: LoadedSignature
    outputs: tuple[str, ...]
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
        task = _Task(values, self._rows(values), time.monotonic())
        self._metrics.observe(f"{_METRICS}:input_batch_size", task.rows)
        with self._changed:
            self._enqueue(signature, outputs, task)
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
                "A request must have at least one row if requests are batched. "
                "TensorFlow Serving would delay it until the next request"
            )
        return number

    def _enqueue(
        self, signature: LoadedSignature, outputs: tuple[str, ...], task: _Task
    ) -> None:
        if self._closed:
            raise RequestError(
                StatusCode.UNAVAILABLE, "This version is being unloaded."
            )
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
                    StatusCode.UNAVAILABLE,
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
        while (batch := self._next()) is not None:
            # Leaves out requests that have timed out.
            batch.tasks = [
                task
                for task in batch.tasks
                if task.answer.set_running_or_notify_cancel()
            ]
            if not batch.tasks:
                continue
            try:
                self._process(batch)
            except RequestError as error:
                _fail(batch, error.code, error.message)
            except Exception as error:
                # The thread must not end, because later requests would then wait
                # forever.
                _fail(batch, StatusCode.INTERNAL, f"Batch failed: {error!r}")

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
                due = min((batch.due for batch in self._waiting), default=None)
                self._changed.wait(None if due is None else due - now)

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


def _merged(
    name: str, parts: list[np.ndarray], extra_rows: int, pad: bool
) -> np.ndarray:
    """Concatenates an input of all requests, with rows that fill up the batch."""
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1:
        if not pad or len({len(shape) for shape in shapes}) > 1:
            raise RequestError(
                StatusCode.FAILED_PRECONDITION,
                f"Tensors with name '{name}' from different tasks have different "
                f"shapes, {sorted(shapes)}, and padding is turned off. Set "
                "pad_variable_length_inputs to true, or ensure that all tensors with "
                "the same name have equal dimensions starting with the first dim.",
            )
        widest = [max(sizes) for sizes in zip(*shapes, strict=True)]
        parts = [_padded(name, part, widest) for part in parts]
    if extra_rows:
        # Repeats a row of a request, because the graph accepts it.
        parts = [*parts, np.repeat(parts[-1][:1], extra_rows, axis=0)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _padded(name: str, part: np.ndarray, widest: Sequence[int]) -> np.ndarray:
    """Pads an array with its first value, as TensorFlow Serving does."""
    gaps = [wide - size for wide, size in zip(widest, part.shape[1:], strict=True)]
    if not any(gaps):
        return part
    if not part.size:
        raise invalid(
            f"Tensors with name '{name}' from different tasks cannot be padded: one "
            "is empty, so it has no value to repeat. Send one empty string instead."
        )
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


def _fail(batch: _Batch, code: StatusCode, message: str) -> None:
    for task in batch.tasks:
        task.answer.set_exception(RequestError(code, message))
