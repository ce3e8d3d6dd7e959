"""`batching.config`: how the model server puts requests together, and how to choose it.

The file is the text form of `tensorflow.serving.BatchingParameters`. That message is
not among those of `tensorflow-serving-api`, so its fields are declared here.

The choice rests on measured times of whole calls and on three facts about the server:
a batch runs on one thread of a pool; a request that finds all threads busy waits for
one; a batch of a size that is not allowed is filled up to the next one that is, and the
filling is computed like the rest.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)

from recdistill.atomic import atomic_write
from recdistill.errors import ConfigError

GAIN = 1.05
"""A batch size twice as large must answer this many times more rows a second."""

WASTE = 1.1
"""An allowed size is worth having if the next one takes this many times longer."""

SETS = frozenset({"exclude_ids", "allow_ids", "candidate_ids"})
"""Inputs in which an id may stand twice."""


@dataclass(frozen=True)
class Batching:
    """Parameters of a server's batcher; see the server's `session_bundle_config.proto`.

    Attributes:
        max_batch_size: Rows of a batch at most; a request with more is refused.
        batch_timeout_micros: How long a thread that is free waits for a fuller batch.
        max_enqueued_batches: Batches that wait at most; then requests are refused.
        num_batch_threads: Batches that run at once.
        allowed_batch_sizes: Ascending, the last one `max_batch_size`; a batch is filled
            up to one of them. Empty: any size.
        pad_variable_length_inputs: Whether `(batch, n)` inputs of different n go
            together: the narrow ones are filled with their own first element.

    Raises:
        ConfigError: If the server would not take the values.

    Example:
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
                "`allowed_batch_sizes` must rise and end with `max_batch_size`, "
                f"{self.max_batch_size}. Received: allowed_batch_sizes={sizes}"
            )

    @property
    def text(self) -> str:
        """The file's content."""
        lines = [f"{name} {{ value: {getattr(self, name)} }}" for name in _WRAPPED]
        lines += [f"allowed_batch_sizes: {size}" for size in self.allowed_batch_sizes]
        pad = str(self.pad_variable_length_inputs).lower()
        return "\n".join([*lines, f"pad_variable_length_inputs: {pad}", ""])

    def write(self, path: Path, notes: Sequence[str] = ()) -> None:
        """Writes the file.

        Args:
            path: The file; its folder must exist.
            notes: Lines that stand above the parameters as comments.

        Raises:
            OSError: If it cannot be written.
        """
        comments = "".join(f"# {note}\n" for note in notes)
        with atomic_write(path) as aside:
            aside.write_text(comments + self.text, encoding="utf-8")


def read_batching(path: Path) -> Batching:
    """Reads a `batching.config`.

    Args:
        path: The file.

    Raises:
        OSError: If it cannot be read.
        ConfigError: If it has a field that is none of `Batching`, lacks one of the
            first four, or the server would not take it.
    """
    message = _message_class()()
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), message)
    except text_format.ParseError as error:
        raise ConfigError(
            f"`path` must hold BatchingParameters in text form. Received: {error}"
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
    """Wall-clock time of a call with so many rows, while all threads are at work.

    Attributes:
        p50: In milliseconds.
        p99: In milliseconds.
    """

    p50: float
    p99: float


@dataclass(frozen=True)
class Choice:
    """Chosen parameters, and why.

    Attributes:
        batching: The parameters.
        why: One sentence for each, by its name.
        holds_budget: Whether a request in a full batch stays within the budget, after
            the worst wait for a thread.
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
    """Chooses a batcher's parameters from measured times.

    The worst that a request meets is a free thread's wait for others, a call that has
    just begun, and its own: `timeout + 2 * p99` of a full batch must be within budget.

    * `max_batch_size`: the largest measured size for which that holds, as long as each
      doubling still answers `GAIN` times the rows a second; never less than the warm-up
      requests have, which would otherwise keep the model from loading;
    * `batch_timeout_micros`: what a call costs before its first row, for that is what
      sharing it saves, and no more than the budget leaves;
    * `max_enqueued_batches`: as many as are answered within the budget. What waits
      behind them would be late: a quick refusal serves its caller better.

    Args:
        times: By batch size, of the slowest signature; has size 1.
        budget_ms: What 99 of 100 requests should stay under.
        threads: Batches that run at once, as they did while times were taken.
        pad: Whether to fill up inputs of unequal width, and why; see `padding`.
        warm_up_rows: Most rows of a warm-up request.

    Raises:
        ConfigError: If a single row already takes longer than the budget, or no
            measured size is as large as the warm-up requests.

    Example:
        >>> times = {1: CallTime(1.0, 1.2), 4: CallTime(1.3, 2.0)}
        >>> chosen = choose_batching(times, budget_ms=10, threads=2, pad=(True, ""))
        >>> chosen.batching.max_batch_size, chosen.batching.batch_timeout_micros
        (4, 900)
    """
    _check_times(times, budget_ms, warm_up_rows)
    largest, stopped = _largest(times, budget_ms)
    if largest < warm_up_rows:
        largest = min(size for size in times if size >= warm_up_rows)
        stopped = f"the warm-up requests have up to {warm_up_rows} rows and must fit"
    worst = times[largest].p99
    slack = max(0.0, budget_ms - 2 * worst)
    fixed = _fixed_cost(times, largest)
    timeout = min(fixed, slack)
    waiting = int(threads * max(0.0, budget_ms - timeout - worst) / worst)
    batching = Batching(
        max_batch_size=largest,
        batch_timeout_micros=int(timeout * 10 + 1e-6)
        * 100,  # the last digits are noise
        max_enqueued_batches=max(1, waiting),
        num_batch_threads=threads,
        allowed_batch_sizes=_allowed(times, largest),
        pad_variable_length_inputs=pad[0],
    )
    why = {
        "max_batch_size": f"{_of_full(times, largest)}; {stopped}",
        "batch_timeout_micros": (
            f"a call costs about {fixed:.2f} ms before its first row; the budget of "
            f"{budget_ms:g} ms leaves {slack:.2f} ms for waiting"
        ),
        "max_enqueued_batches": f"so many are begun in time by {threads} threads",
        "num_batch_threads": f"{threads} ran at once while times were taken",
        "allowed_batch_sizes": (
            f"sizes whose next one takes over {WASTE - 1:.0%} longer, and the largest"
        ),
        "pad_variable_length_inputs": pad[1],
    }
    return Choice(batching, why, holds_budget=2 * worst <= budget_ms)


def padding(signatures: Mapping[str, Mapping[str, Any]]) -> tuple[bool, str]:
    """Whether the server may fill up inputs of unequal width, and why.

    It fills with a row's own first element. That is harmless where naming an item twice
    is naming it once (exclusions, allow-lists), where the client cuts the answer
    (candidates), and where the true length travels along (histories). A bag of
    categories has nothing of the kind: its average would shift.

    Args:
        signatures: As in the manifest of an export: by name, `inputs` with the shape of
            each; an axis of any size is None.

    Example:
        >>> shape = {"shape": [None, None]}
        >>> lone = {"shape": [None]}
        >>> padding({"rank": {"inputs": {"history": shape, "history_length": lone}}})[0]
        True
        >>> padding({"rank": {"inputs": {"genres": shape}}})[0]
        False
    """
    bags, any_width = set(), set()
    for signature in signatures.values():
        inputs = signature["inputs"]
        for name, info in inputs.items():
            if None in info["shape"][1:]:
                any_width.add(name)
                if name not in SETS and f"{name}_length" not in inputs:
                    bags.add(name)
    if bags:
        return False, (
            f"{', '.join(sorted(bags))} would change when filled up with the first "
            "element; so requests of unequal width fail together, and clients must "
            "send one width"
        )
    if not any_width:
        return False, "no input has a width of its own"
    return True, (
        f"{', '.join(sorted(any_width))} may differ in width: lengths travel along, a "
        "repeated id changes nothing, and clients cut the scores of candidates"
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
            return smaller, f"{size} would answer only {gain - 1:+.0%} rows a second"
    return sizes[-1], "more was not tried"


def _check_times(
    times: Mapping[int, CallTime], budget_ms: float, warm_up_rows: int
) -> None:
    if budget_ms < times[1].p99:
        raise ConfigError(
            "`budget_ms` must be at least the time of a call with one row, "
            f"{times[1].p99:.2f} ms at p99. Received: budget_ms={budget_ms:g}"
        )
    if max(times) < warm_up_rows:
        raise ConfigError(
            "`times` must reach the rows of the largest warm-up request, "
            f"{warm_up_rows}. Received: sizes {sorted(times)}"
        )


def _of_full(times: Mapping[int, CallTime], size: int) -> str:
    full, alone = times[size], times[1].p50
    return (
        f"{size} rows take {full.p50:.2f} ms (p99 {full.p99:.2f}), a row "
        f"{full.p50 / size / alone:.0%} of what it takes alone"
    )


def _fixed_cost(times: Mapping[int, CallTime], largest: int) -> float:
    """Milliseconds of a call before its first row: a line through both ends."""
    if largest == 1:
        return 0.0
    slope = (times[largest].p50 - times[1].p50) / (largest - 1)
    return max(0.0, times[1].p50 - max(0.0, slope))


def _allowed(times: Mapping[int, CallTime], largest: int) -> tuple[int, ...]:
    allowed = [largest]
    for size in sorted((s for s in times if s < largest), reverse=True):
        if times[allowed[0]].p50 > WASTE * times[size].p50:
            allowed.insert(0, size)
    return tuple(allowed)


_WRAPPED = tuple(field.name for field in fields(Batching))[:4]
"""Fields that the message keeps in an `Int64Value`, in our order."""

_NUMBERS = {
    "max_batch_size": 1,
    "batch_timeout_micros": 2,
    "max_enqueued_batches": 3,
    "num_batch_threads": 4,
}


def _message_class() -> Any:
    """The class of `BatchingParameters`, from a declaration of its fields."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="recdistill/batching_parameters.proto",
        package="recdistill",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    message = file.message_type.add(name="BatchingParameters")
    for name, number in _NUMBERS.items():
        message.field.add(
            name=name,
            number=number,
            type=kinds.TYPE_MESSAGE,
            label=kinds.LABEL_OPTIONAL,
            type_name=".google.protobuf.Int64Value",
        )
    message.field.add(
        name="thread_pool_name",
        number=5,
        type=kinds.TYPE_MESSAGE,
        label=kinds.LABEL_OPTIONAL,
        type_name=".google.protobuf.StringValue",
    )
    message.field.add(
        name="allowed_batch_sizes",
        number=6,
        type=kinds.TYPE_INT64,
        label=kinds.LABEL_REPEATED,
    )
    message.field.add(
        name="pad_variable_length_inputs",
        number=7,
        type=kinds.TYPE_BOOL,
        label=kinds.LABEL_OPTIONAL,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    found = pool.FindMessageTypeByName("recdistill.BatchingParameters")
    return message_factory.GetMessageClass(found)
