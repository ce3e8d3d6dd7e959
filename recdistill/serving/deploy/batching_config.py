"""Batching parameters of TensorFlow Serving: their choice, and `batching.config`.

The file is a `tensorflow.serving.BatchingParameters` message in text format.
`tensorflow-serving-api` does not contain that message, so its fields are declared here.

The choice uses measured times of whole calls and two facts about the server: a batch
runs on one thread of a pool, and a request waits if all threads are busy. It never uses
`allowed_batch_sizes`: on CPUs they save nothing, and with them a request without rows
ends the server.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from recdistill.atomic import READABLE, atomic_write
from recdistill.errors import ConfigError
from recdistill.serving.client.messages import BatchingParameters
from recdistill.serving.deploy.models_config import configuration_text

GAIN = 1.05
"""Minimum gain in rows per second for which a batch size is doubled, as a ratio."""

TRUSTED_CLIENTS_ONLY = (
    "Trusted clients only. If tensorflow_model_server batches, a request of a wrong "
    "shape can fail the requests that share its batch and, with padding, end the "
    "server. Each request must have the number of axes of the signature, at least one "
    "row, at least one entry in each list, and an empty first entry in each list "
    "without a length, as recdistill's client sends them. The embedded server rejects "
    "requests of a wrong shape before it batches them."
)
"""Note above batching parameters."""


@dataclass(frozen=True)
class Batching:
    """Batching parameters; see `session_bundle_config.proto` of TensorFlow Serving.

    Attributes:
        max_batch_size: Maximum rows of a batch; larger requests are rejected.
        batch_timeout_micros: How long a free thread waits for a fuller batch.
        max_enqueued_batches: Maximum number of waiting batches; further requests are
            rejected.
        num_batch_threads: Number of batches that run concurrently.
        allowed_batch_sizes: Sizes to which batches are padded, ascending and ending
            with `max_batch_size`. Empty: any size.
        pad_variable_length_inputs: Whether `(batch, n)` inputs of different n may share
            a batch. The server pads the narrower ones with the first element of the
            whole request's tensor. If it is off, such requests fail.

    Raises:
        ConfigError: If the server would reject the values.

    Examples:
        >>> Batching(8, 0, 2, 2, (1, 8)).text.splitlines()[0]
        'max_batch_size { value: 8 }'
    """

    max_batch_size: int
    batch_timeout_micros: int
    max_enqueued_batches: int
    num_batch_threads: int
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False

    def __post_init__(self) -> None:
        least = {"batch_timeout_micros": 0}
        for name in _WRAPPED:
            value = getattr(self, name)
            if value < least.get(name, 1):
                raise ConfigError(
                    f"`{name}` must be at least {least.get(name, 1)}. "
                    f"Received: {name}={value}"
                )
        sizes = self.allowed_batch_sizes
        rising = all(a < b for a, b in zip((0, *sizes), sizes, strict=False))
        if sizes and (not rising or sizes[-1] != self.max_batch_size):
            raise ConfigError(
                "`allowed_batch_sizes` must ascend and end with `max_batch_size`, "
                f"{self.max_batch_size}. Received: allowed_batch_sizes={sizes}"
            )

    @property
    def capacity(self) -> int:
        """Maximum number of rows that run or wait.

        Examples:
            >>> Batching(16, 0, 16, 2).capacity
            288
        """
        batches = self.num_batch_threads + self.max_enqueued_batches
        return self.max_batch_size * batches

    @property
    def text(self) -> str:
        """Content of the file."""
        lines = [f"{name} {{ value: {getattr(self, name)} }}" for name in _WRAPPED]
        lines += [f"allowed_batch_sizes: {size}" for size in self.allowed_batch_sizes]
        pad = str(self.pad_variable_length_inputs).lower()
        return "\n".join([*lines, f"pad_variable_length_inputs: {pad}", ""])

    def write(self, path: Path, notes: Sequence[str] = ()) -> None:
        """Writes the file atomically.

        Args:
            path: Output file; its folder must exist.
            notes: Comment lines above the parameters.

        Raises:
            OSError: If it cannot be written.
        """
        comments = "".join(f"# {note}\n" for note in notes)
        with atomic_write(path) as aside:
            aside.write_text(comments + self.text, encoding="utf-8")
            aside.chmod(READABLE)


def read_batching(path: Path) -> Batching:
    """Reads a `batching.config`.

    Args:
        path: The file.

    Raises:
        OSError: If the file cannot be read.
        ConfigError: If it has an unknown field, lacks one of the first four fields of
            `Batching`, or the server would reject it.
    """
    message = BatchingParameters()
    try:
        text_format.Parse(configuration_text(path, "batching.config"), message)
    except text_format.ParseError as error:
        raise ConfigError(
            "`batching.config` must be BatchingParameters in text format. Received: "
            f"{path}, {error}"
        ) from error
    values: dict[str, Any] = {}
    for name in _WRAPPED:
        if not message.HasField(name):
            raise ConfigError(f"`path` must set {name}. Received: {path} without it")
        values[name] = getattr(message, name).value
    return Batching(
        **values,
        allowed_batch_sizes=tuple(message.allowed_batch_sizes),
        pad_variable_length_inputs=message.pad_variable_length_inputs,
    )


@dataclass(frozen=True)
class CallTime:
    """Wall-clock time of calls of one batch size while all threads are busy.

    Attributes:
        p50: Median in milliseconds.
        p99: 99th percentile in milliseconds.
    """

    p50: float
    p99: float


@dataclass(frozen=True)
class Choice:
    """Chosen batching parameters and the reasons for them.

    Attributes:
        batching: The parameters.
        why: The reason for each parameter, by its name.
        holds_budget: Whether a request in a full batch stays within the budget, even
            after the longest wait for a thread.
    """

    batching: Batching
    why: Mapping[str, str]
    holds_budget: bool


def choose_batching(
    times: Mapping[int, CallTime],
    *,
    budget_ms: float,
    threads: int,
    pad: tuple[bool, str],
    warm_up_rows: int = 1,
) -> Choice:
    """Chooses batching parameters from measured times.

    In the worst case a request waits for the timeout, then for a batch that has just
    started, and then for its own: `timeout + 2 * p99` of a full batch must be within
    the budget.

    * `max_batch_size`: the largest measured size for which that holds, as long as each
      doubling still gives `GAIN` times the rows per second. It is never below the rows
      of the warm-up requests, because the model would not load;
    * `batch_timeout_micros`: the fixed cost of a call, which is what sharing a call
      saves, limited by what the budget leaves;
    * `max_enqueued_batches`: the number of batches that start within the budget.
      Requests behind them would be late, so they are rejected at once.

    Args:
        times: Times of the slowest signature by batch size; size 1 is required.
        budget_ms: Budget of the p99 in milliseconds.
        threads: Number of concurrent batches, as while the times were measured.
        pad: Whether to pad inputs of different widths, and the reason; see `padding`.
        warm_up_rows: Rows of the largest warm-up request.

    Raises:
        ConfigError: If a single row takes longer than the budget, or no measured size
            is as large as the warm-up requests.

    Examples:
        >>> times = {1: CallTime(1.0, 1.2), 4: CallTime(1.3, 2.0)}
        >>> chosen = choose_batching(times, budget_ms=10, threads=2, pad=(True, ""))
        >>> chosen.batching.max_batch_size, chosen.batching.batch_timeout_micros
        (4, 900)
    """
    _check_times(times, budget_ms, warm_up_rows)
    largest, stopped = _largest(times, budget_ms)
    if largest < warm_up_rows:
        largest = min(size for size in times if size >= warm_up_rows)
        stopped = f"the warm-up requests, of up to {warm_up_rows} rows, must fit"
    worst = times[largest].p99
    slack = max(0.0, budget_ms - 2 * worst)
    fixed = _fixed_cost(times, largest)
    timeout = min(fixed, slack)
    waiting = int(threads * max(0.0, budget_ms - timeout - worst) / worst)
    batching = Batching(
        max_batch_size=largest,
        # In steps of 100 µs: further digits are noise.
        batch_timeout_micros=int(timeout * 10 + 1e-6) * 100,
        max_enqueued_batches=max(1, waiting),
        num_batch_threads=threads,
        pad_variable_length_inputs=pad[0],
    )
    why = {
        "max_batch_size": f"{_of_full(times, largest)}; {stopped}",
        "batch_timeout_micros": (
            f"the fixed cost of a call is about {fixed:.2f} ms; the budget of "
            f"{budget_ms:g} ms leaves {slack:.2f} ms for waiting"
        ),
        "max_enqueued_batches": f"{threads} threads start this many within the budget",
        "num_batch_threads": f"{threads} ran concurrently during the measurement",
        "allowed_batch_sizes": (
            "on CPUs they save nothing, and with them a request without rows ends the "
            "server"
        ),
        "pad_variable_length_inputs": pad[1],
    }
    return Choice(batching, why, holds_budget=2 * worst <= budget_ms)


def padding(signatures: Mapping[str, Mapping[str, Any]]) -> tuple[bool, str]:
    """Whether the server should pad inputs of different widths, and the reason.

    Without padding, requests of different widths that share a batch all fail. With it,
    the server fills narrower inputs with the first element of the whole request. An
    export ignores that if the clients begin each list without length with an empty
    entry; see `recdistill.export.layout.lists_without_length`.

    Args:
        signatures: Signatures by name as in an export's manifest: `inputs` has the
            `shape` of each input, with None for an axis of any size.

    Examples:
        >>> padding({"rank": {"inputs": {"genres": {"shape": [None, None]}}}})[0]
        True
        >>> padding({"encode_query": {"inputs": {"age": {"shape": [None]}}}})[0]
        False
    """
    any_width = {
        name
        for signature in signatures.values()
        for name, info in signature["inputs"].items()
        if None in info["shape"][1:]
    }
    if not any_width:
        return False, "no input has a variable width"
    return True, (
        f"{', '.join(sorted(any_width))} may differ in width, and requests of "
        "different widths in one batch fail without padding"
    )


def _largest(times: Mapping[int, CallTime], budget_ms: float) -> tuple[int, str]:
    sizes = sorted(times)
    for smaller, size in itertools.pairwise(sizes):
        if 2 * times[size].p99 > budget_ms:
            return smaller, (
                f"with {size}, two calls in a row take {2 * times[size].p99:.2f} ms, "
                f"over the budget of {budget_ms:g} ms"
            )
        gain = (size / times[size].p50) / (smaller / times[smaller].p50)
        if gain < GAIN:
            return smaller, f"{size} would only give {gain - 1:+.0%} rows per second"
    return sizes[-1], "larger sizes were not measured"


def _check_times(
    times: Mapping[int, CallTime], budget_ms: float, warm_up_rows: int
) -> None:
    if budget_ms < times[1].p99:
        raise ConfigError(
            "`budget_ms` must be at least the p99 of a call with one row, "
            f"{times[1].p99:.2f} ms. Received: budget_ms={budget_ms:g}"
        )
    if max(times) < warm_up_rows:
        raise ConfigError(
            "`times` must reach the rows of the largest warm-up request, "
            f"{warm_up_rows}. Received: sizes {sorted(times)}"
        )


def _of_full(times: Mapping[int, CallTime], size: int) -> str:
    full, alone = times[size], times[1].p50
    return (
        f"{size} rows take {full.p50:.2f} ms (p99 {full.p99:.2f}), each row "
        f"{full.p50 / size / alone:.0%} of the time of a single row"
    )


def _fixed_cost(times: Mapping[int, CallTime], largest: int) -> float:
    """Fixed cost of a call in ms: intercept of the line through both end points."""
    if largest == 1:
        return 0.0
    slope = (times[largest].p50 - times[1].p50) / (largest - 1)
    return max(0.0, times[1].p50 - max(0.0, slope))


_WRAPPED = tuple(field.name for field in fields(Batching))[:4]
"""Fields that the message keeps in an `Int64Value`."""
