"""Load generator: sends requests on a schedule, from separate processes.

The progress bar must not delay requests, and one Python process cannot use more than
one core. Each generator is therefore a separate process, which has only serialised
messages and imports only the client's channels.
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

from recdistill.errors import LoadTestError
from recdistill.serving.client.async_channels import AsyncChannel, open_async_channel
from recdistill.serving.client.endpoints import Endpoint
from recdistill.serving.client.serving_errors import ServingError
from recdistill.serving.load_test.request_samples import Samples
from recdistill.serving.load_test.workload import Workload

__all__ = ["Load", "RequestCounts", "generate"]

WARM_UP = 20
"""Unmeasured requests that each generator sends first, to set up its connections."""

_HEAD_START_S = 0.2
"""Delay before the start, so that every generator has received the start time."""

_CONNECTIONS = 512


@dataclass(frozen=True)
class Load:
    """Load that a test puts on a server.

    Attributes:
        seconds: Duration of the test.
        rate: Open loop: requests a second, evenly spaced, independent of the answers.
            Over REST each process has at most 512 requests in flight; further requests
            wait, and their waiting time counts.
        clients: Closed loop: number of concurrent clients, each of which sends its next
            request when the last one is answered. Exactly one of `rate` and `clients`
            is given.
        processes: Number of generator processes.
        deadline_s: Timeout of each request in seconds.

    Raises:
        LoadTestError: If a value is out of range.
    """

    seconds: float
    rate: float | None = None
    clients: int | None = None
    processes: int = 1
    deadline_s: float = 1.0

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.clients is None):
            raise LoadTestError(
                "Exactly one of `rate` and `clients` must be given. Received: "
                f"rate={self.rate}, clients={self.clients}"
            )
        for name in ("seconds", "rate", "clients", "processes", "deadline_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise LoadTestError(
                    f"`{name}` must be positive. Received: {name}={value}"
                )


@dataclass(frozen=True)
class RequestCounts:
    """Progress of a running test.

    Attributes:
        elapsed_s: Seconds since the start.
        sent: Number of requests sent so far.
        answered: Number of requests answered so far.
        failed: Number of failed requests so far.
    """

    elapsed_s: float
    sent: int
    answered: int
    failed: int


def generate(
    endpoint: Endpoint,
    workload: Workload,
    load: Load,
    progress: Callable[[RequestCounts], None] = lambda _: None,
    started: Callable[[float], None] = lambda _: None,
) -> Samples:
    """Sends the requests of a load test and records each of them.

    Args:
        endpoint: Address of the server.
        workload: The messages to send.
        load: Rate or number of clients, and duration.
        progress: Callback for progress, called a few times a second.
        started: Callback with the time at which the first request is due, on the clock
            of `time.monotonic`; called once.

    Raises:
        LoadTestError: If a generator process dies.
    """
    with _generators(endpoint, workload, load) as pipes:
        for pipe in pipes:
            _receive(pipe)  # The generator is connected.
        start = time.monotonic() + _HEAD_START_S
        for pipe in pipes:
            pipe.send(start)
        started(start)
        counts = {pipe: (0, 0, 0) for pipe in pipes}
        parts: dict[Connection, Samples] = {}
        while len(parts) < len(pipes):
            ready = wait([pipe for pipe in pipes if pipe not in parts], timeout=0.5)
            for pipe in (pipe for pipe in pipes if pipe in ready):
                message = _receive(pipe)
                if isinstance(message, Samples):
                    parts[pipe] = message
                else:
                    counts[pipe] = message
            elapsed = max(0.0, time.monotonic() - start)
            progress(
                RequestCounts(elapsed, *map(sum, zip(*counts.values(), strict=True)))
            )
    return Samples.joined(list(parts.values()))


@contextlib.contextmanager
def _generators(
    endpoint: Endpoint, workload: Workload, load: Load
) -> Iterator[list[Connection]]:
    """Starts the processes, yields a pipe to each, and ends them afterwards."""
    # A fresh interpreter, because gRPC does not survive a fork.
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
        raise LoadTestError(
            "A load generator process died. Its output above has the reason."
        ) from error


def _run(
    pipe: Connection, endpoint: Endpoint, workload: Workload, load: Load, number: int
) -> None:
    """Entry point of a generator process."""
    # The timeout of epoll is in whole milliseconds, as long as an answer takes; that of
    # select is in microseconds.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    generator = _Generator(pipe, endpoint, workload, load, number)
    try:
        with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
            loop.run_until_complete(generator.run())
    finally:
        loop.close()


class _Generator:
    """One generator process; `number` is its index among `load.processes`."""

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
        self.channel = open_async_channel(self.endpoint, connections=_CONNECTIONS)
        for place in range(WARM_UP):
            with contextlib.suppress(ServingError):
                await self._send(place)
        self.pipe.send("ready")
        gc.collect()
        gc.freeze()
        self.start = await asyncio.get_running_loop().run_in_executor(
            None, self.pipe.recv
        )
        reporting = asyncio.create_task(self._report())
        await self.send_all()
        reporting.cancel()
        await self.channel.close()
        self.pipe.send(self.samples())

    async def send_all(self) -> None:
        """Sends this process's share of the requests and waits for all answers."""
        await (self._open_loop() if self.load.rate else self._closed_loop())

    async def _open_loop(self) -> None:
        """Sends by the schedule, independent of earlier requests."""
        rate = self.load.rate or 1.0
        in_flight: set[asyncio.Task[None]] = set()
        total = math.ceil(rate * self.load.seconds)
        for number in range(self.number, total, self.load.processes):
            due = self.start + number / rate
            # Also when late, so that answers are read in the meantime.
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._measured(number, due))
            in_flight.add(task)
            task.add_done_callback(in_flight.discard)
        if in_flight:
            await asyncio.wait(in_flight)

    async def _closed_loop(self) -> None:
        """Runs this process's clients, each with one request at a time."""
        clients = range(self.number, self.load.clients or 0, self.load.processes)
        await asyncio.gather(*(self._client(client) for client in clients))

    async def _client(self, number: int) -> None:
        await asyncio.sleep(max(0.0, self.start - time.monotonic()))
        end = self.start + self.load.seconds
        while (now := time.monotonic()) < end:
            await self._measured(number, now)
            number += self.load.clients or 1

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

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(0.25)
            answered = len(self.rows) - self.failed
            self.pipe.send((self.sent, answered, self.failed))

    def samples(self) -> Samples:
        columns = np.array(self.rows, "float64").reshape(-1, 5).T
        return Samples(
            due_s=columns[0],
            latency_s=columns[1].astype("float32"),
            lag_s=columns[2].astype("float32"),
            code=columns[3].astype("int16"),
            version=columns[4].astype("int64"),
            codes=list(self.codes),
        )
