"""Admission of requests: concurrency, waiting time and memory.

A request that would wait too long is refused at once, because its answer would come too
late. Otherwise an overloaded server would only compute late answers.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from grpc import StatusCode

from recdistill.serving.server.request_errors import (
    RequestError,
    overloaded,
    too_large,
)

__all__ = ["Admission", "HeldMemory", "RequestMemory", "Slots"]

_SHARE = 0.5
"""Largest share of the time to the deadline that a request may be expected to wait."""

_NEW = 0.1
"""Weight of the latest request in the mean duration."""


class RequestMemory:
    """Memory of all requests that a server reads and processes, with a limit.

    Args:
        limit: Maximum in bytes.

    Examples:
        >>> memory = RequestMemory(100)
        >>> with memory.held() as held:
        ...     held.add(60)
        ...     memory.used
        60
        >>> memory.used
        0
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def held(self) -> Iterator[HeldMemory]:
        """Memory of one request, until the context ends."""
        held = HeldMemory(self)
        try:
            yield held
        finally:
            held.resize(0)


class HeldMemory:
    """Memory of one request.

    Args:
        memory: The memory of all requests.
    """

    def __init__(self, memory: RequestMemory) -> None:
        self._memory, self._size = memory, 0

    def add(self, size: int) -> None:
        """Reserves more bytes.

        Raises:
            RequestError: If the limit would be exceeded.
        """
        self.resize(self._size + size)

    def resize(self, size: int) -> None:
        """Sets the number of reserved bytes.

        Raises:
            RequestError: If the limit would be exceeded.
        """
        memory = self._memory
        if size > memory.limit:
            raise too_large(
                f"The request may need {-(-size >> 20)} MiB of memory when it is "
                f"decoded, more than the limit of {memory.limit >> 20} MiB. Send fewer "
                "values."
            )
        with memory.lock:
            if memory.used - self._size + size > max(memory.limit, memory.used):
                raise overloaded(
                    "The server is overloaded: the requests in progress use the memory "
                    "for requests. Try again later."
                )
            memory.used += size - self._size
            self._size = size


@dataclass(eq=False)
class _Waiter:
    """A request that waits for a slot."""

    due: float | None
    ready: threading.Event = field(default_factory=threading.Event)
    late: bool = False


class Admission:
    """Decides which requests wait, for a number of requests that run concurrently.

    A request is refused at once if the queue is full, or if its expected wait exceeds
    `patience_s` or half the time to its deadline.

    Args:
        running: Maximum number of requests that run concurrently.
        waiting: Maximum number of requests that wait.

    Attributes:
        duration_s: Moving average of the time that a request runs.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self.duration_s = 0.0
        self._running, self._waiting = running, waiting

    def check(
        self, ahead: int, deadline_s: float | None, patience_s: float = math.inf
    ) -> None:
        """Refuses a request that would wait too long.

        Args:
            ahead: Number of requests that must end before it can run.
            deadline_s: Time until the deadline in seconds; None for no deadline.
            patience_s: Longest expected wait in seconds. It is not compared while fewer
                requests wait than run.

        Raises:
            RequestError: If the request is refused.
        """
        wait_s = ahead * self.duration_s / self._running
        late = deadline_s is not None and wait_s > _SHARE * deadline_s
        slow = ahead > self._running and wait_s > patience_s
        if ahead > self._waiting or late or slow:
            raise overloaded(
                f"The server is overloaded: {ahead - 1} requests wait. Try again later."
            )

    def record(self, duration_s: float) -> None:
        """Adds the time that a request has run to the average."""
        self.duration_s += _NEW * (duration_s - self.duration_s)


class Slots(Admission):
    """Slots for requests that run concurrently, and a bounded queue for them.

    Requests leave the queue in the order of their arrival; one is dropped if its
    deadline would probably pass while it runs.

    Args:
        running: Maximum number of requests that run concurrently.
        waiting: Maximum number of requests that wait.
    """

    def __init__(self, running: int, waiting: int) -> None:
        super().__init__(running, waiting)
        self._free = running
        self._queue: deque[_Waiter] = deque()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def slot(
        self, deadline_s: float | None = None, patience_s: float = math.inf
    ) -> Iterator[bool]:
        """Waits for a slot and holds it until the context ends.

        Args:
            deadline_s: Time until the deadline in seconds; None for no deadline.
            patience_s: Longest expected wait in seconds. It is not compared while fewer
                requests wait than run.

        Yields:
            Whether the request has waited.

        Raises:
            RequestError: If the request is refused, or its deadline passes.
        """
        waited = self._enter(deadline_s, patience_s)
        started = time.monotonic()
        try:
            yield waited
        finally:
            self._leave(time.monotonic() - started)

    def _enter(self, deadline_s: float | None, patience_s: float) -> bool:
        with self._lock:
            if self._free:
                self._free -= 1
                return False
            self.check(len(self._queue) + 1, deadline_s, patience_s)
            due = None if deadline_s is None else time.monotonic() + deadline_s
            waiter = _Waiter(due)
            self._queue.append(waiter)
        if deadline_s is not None:
            deadline_s = min(deadline_s, threading.TIMEOUT_MAX)
        if not waiter.ready.wait(deadline_s):
            self._give_up(waiter)
        if waiter.late:
            raise RequestError(
                StatusCode.DEADLINE_EXCEEDED,
                "The deadline of the request passed while it waited.",
            )
        return True

    def _give_up(self, waiter: _Waiter) -> None:
        with self._lock:
            # It may have got its slot in the meantime.
            if not waiter.ready.is_set():
                self._queue.remove(waiter)
                waiter.late = True

    def _leave(self, duration_s: float) -> None:
        with self._lock:
            self.record(duration_s)
            ends = time.monotonic() + self.duration_s
            while self._queue:
                waiter = self._queue.popleft()
                waiter.late = waiter.due is not None and waiter.due < ends
                waiter.ready.set()
                if not waiter.late:
                    return
            self._free += 1
