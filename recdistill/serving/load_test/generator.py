"""Sends requests by the clock, in processes of their own.

The process that draws the progress bar must not delay a request, and one Python
process cannot keep more than one core busy. So the generators are separate processes;
they hold nothing but ready messages, and import nothing but the client's channels.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import multiprocessing
import selectors
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import numpy as np

from recdistill.serving.client.async_channels import AsyncChannel, open_async_channel
from recdistill.serving.client.channels import Endpoint
from recdistill.serving.client.serving_errors import ServingError
from recdistill.serving.load_test.samples import Samples
from recdistill.serving.load_test.workload import Workload

__all__ = ["GeneratorError", "Load", "Progress", "generate"]

WARM_UP = 20
"""Requests that each generator sends first, unmeasured: connections are set up."""

_HEAD_START_S = 0.2
"""From the order to start to the start, so that all generators have heard of it."""

_CONNECTIONS = 512


class GeneratorError(RuntimeError):
    """A load generator died."""


@dataclass(frozen=True)
class Load:
    """How hard to push.

    Attributes:
        seconds: For how long requests are sent.
        rate: Open loop: requests a second, evenly spaced, whatever the answers do. Over
            REST at most 512 a process are under way; others wait, on the clock.
        clients: Closed loop: each sends its next request when the last is answered.
            Exactly one of `rate` and `clients` is given.
        processes: Number of generators.
        deadline_s: Seconds after which a request has failed.

    Raises:
        ValueError: If a value does not fit.
    """

    seconds: float
    rate: float | None = None
    clients: int | None = None
    processes: int = 1
    deadline_s: float = 1.0

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.clients is None):
            raise ValueError(
                "Exactly one of `rate` and `clients` must be given. Received: "
                f"rate={self.rate}, clients={self.clients}"
            )
        for name in ("seconds", "rate", "clients", "processes", "deadline_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"`{name}` must be positive. Received: {name}={value}")


@dataclass(frozen=True)
class Progress:
    """Where a test stands.

    Attributes:
        elapsed_s: Seconds since the start.
        sent: Requests so far.
        answered: Answers so far.
        failed: Failures so far.
    """

    elapsed_s: float
    sent: int
    answered: int
    failed: int


def generate(
    endpoint: Endpoint,
    workload: Workload,
    load: Load,
    progress: Callable[[Progress], None] = lambda _: None,
    started: Callable[[float], None] = lambda _: None,
) -> Samples:
    """Runs a test.

    Args:
        endpoint: The server.
        workload: What is sent.
        load: How hard.
        progress: Told a few times a second.
        started: Told once when the first request is due, on the clock of
            `time.monotonic`.

    Returns:
        What became of every request.

    Raises:
        GeneratorError: If a generator process dies.
    """
    with _generators(endpoint, workload, load) as pipes:
        for pipe in pipes:
            _receive(pipe)  # It is connected.
        start = time.monotonic() + _HEAD_START_S
        for pipe in pipes:
            pipe.send(start)
        started(start)
        counts = {pipe: (0, 0, 0) for pipe in pipes}
        parts: dict[Connection, Samples] = {}
        while len(parts) < len(pipes):
            ready = wait([pipe for pipe in pipes if pipe not in parts], timeout=0.5)
            for pipe in (pipe for pipe in pipes if pipe in ready):
                news = _receive(pipe)
                if isinstance(news, Samples):
                    parts[pipe] = news
                else:
                    counts[pipe] = news
            elapsed = max(0.0, time.monotonic() - start)
            progress(Progress(elapsed, *map(sum, zip(*counts.values(), strict=True))))
    return Samples.joined(list(parts.values()))


@contextlib.contextmanager
def _generators(
    endpoint: Endpoint, workload: Workload, load: Load
) -> Iterator[list[Connection]]:
    """The processes, each at the other end of a pipe; they are gone afterwards."""
    # A fresh interpreter: gRPC does not survive a fork.
    context = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []
    pipes: list[Connection] = []
    try:
        for number in range(load.processes):
            here, there = context.Pipe()
            process = context.Process(
                target=_run,
                args=(there, endpoint, workload, load, number),
                daemon=True,
            )
            process.start()
            there.close()
            processes.append(process)
            pipes.append(here)
        yield pipes
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join(timeout=2)
            if process.is_alive():
                process.terminate()
                process.join()
            process.close()


def _receive(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except (EOFError, OSError) as error:
        raise GeneratorError(
            "A load generator ended before its time; what it printed says why."
        ) from error


def _run(
    pipe: Connection, endpoint: Endpoint, workload: Workload, load: Load, number: int
) -> None:
    """The life of a generator process."""
    # epoll's timeout is in whole milliseconds, as long as the answers take; select's is
    # in microseconds.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    generator = _Generator(pipe, endpoint, workload, load, number)
    try:
        with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
            loop.run_until_complete(generator.run())
    finally:
        loop.close()


class _Generator:
    """One process of a load test."""

    def __init__(
        self,
        pipe: Connection,
        endpoint: Endpoint,
        workload: Workload,
        load: Load,
        number: int,
    ) -> None:
        self.pipe, self.endpoint, self.workload = pipe, endpoint, workload
        self.load, self.number = load, number
        self.channel: AsyncChannel
        self.rows: list[tuple[float, float, float, int, int]] = []
        self.codes = {"OK": 0}
        self.start = 0.0
        self.sent = self.failed = 0

    async def run(self) -> None:
        self.channel = open_async_channel(self.endpoint, _CONNECTIONS)
        for place in range(WARM_UP):
            with contextlib.suppress(ServingError):
                await self._send(place)
        self.pipe.send("ready")
        gc.collect()
        gc.freeze()
        self.start = await asyncio.get_running_loop().run_in_executor(
            None, self.pipe.recv
        )
        telling = asyncio.create_task(self._tell())
        await (self._open_loop() if self.load.rate else self._closed_loop())
        telling.cancel()
        await self.channel.close()
        self.pipe.send(self._samples())

    async def _open_loop(self) -> None:
        """Sends by the schedule, whatever became of the requests before."""
        rate = self.load.rate or 1.0
        under_way: set[asyncio.Task[None]] = set()
        total = math.ceil(rate * self.load.seconds)
        for number in range(self.number, total, self.load.processes):
            due = self.start + number / rate
            # Also when late: the answers want to be read.
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._measured(number, due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        if under_way:
            await asyncio.wait(under_way)

    async def _closed_loop(self) -> None:
        """So many clients, each with one request at a time."""
        clients = range(self.number, self.load.clients or 0, self.load.processes)
        await asyncio.gather(*(self._client(client) for client in clients))

    async def _client(self, number: int) -> None:
        await asyncio.sleep(max(0.0, self.start - time.monotonic()))
        end = self.start + self.load.seconds
        turn = number
        while (now := time.monotonic()) < end:
            await self._measured(turn, now)
            turn += self.load.clients or 1

    async def _measured(self, number: int, due: float) -> None:
        self.sent += 1
        sent = time.monotonic()
        code, version = 0, -1
        try:
            body = await self._send(number)
        except ServingError as error:
            code = self.codes.setdefault(error.code, len(self.codes))
            self.failed += 1
            answered = time.monotonic()
        else:
            answered = time.monotonic()
            found = self.endpoint.protocol.answering_version(body, self.workload.target)
            version = -1 if found is None else found
        self.rows.append((due - self.start, answered - due, sent - due, code, version))

    async def _send(self, number: int) -> bytes:
        messages = self.workload.messages
        message = messages[number % len(messages)]
        return await self.channel.send(message, self.load.deadline_s)

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(0.25)
            answered = len(self.rows) - self.failed
            self.pipe.send((self.sent, answered, self.failed))

    def _samples(self) -> Samples:
        columns = np.array(self.rows, "float64").reshape(-1, 5).T
        return Samples(
            due_s=columns[0],
            latency_s=columns[1].astype("float32"),
            lag_s=columns[2].astype("float32"),
            code=columns[3].astype("int16"),
            version=columns[4].astype("int64"),
            codes=list(self.codes),
        )
