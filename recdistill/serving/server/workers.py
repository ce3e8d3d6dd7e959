"""Threads that run requests from a bounded queue.

Requests wait in the queue and not in threads of their own: threads that wait for each
other took a fifth of the server's time.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator

from grpc import StatusCode

from recdistill.serving.server.admission import Admission
from recdistill.serving.server.request_errors import RequestError

__all__ = ["Workers"]

Work = Callable[[bool], None]
"""Runs a request. The argument is whether it has waited."""

_log = logging.getLogger(__name__)


class Workers(Admission):
    """Threads that run requests in the order of arrival.

    Args:
        running: Number of threads.
        waiting: Maximum number of requests that wait.
        name: Name of the threads.
    """

    def __init__(self, running: int, waiting: int, name: str) -> None:
        super().__init__(running, waiting)
        self._name = name
        self._blocked = self._threads = self._accepted = 0
        self._queue: queue.SimpleQueue[tuple[Work, bool] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._resize(running, 0)

    def submit(self, work: Work, deadline_s: float | None = None) -> None:
        """Adds a request to the queue.

        Args:
            work: Runs the request.
            deadline_s: Time until the deadline in seconds; None for no deadline.

        Raises:
            RequestError: If the request is refused.
        """
        with self._lock:
            if not self._running:
                raise RequestError(
                    StatusCode.UNAVAILABLE, "The server is shutting down."
                )
            ahead = self._accepted - self._running - self._blocked + 1
            if ahead > 0:
                self.check(ahead, deadline_s)
            self._accepted += 1
        self._queue.put((work, ahead > 0))

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Measures the time that a request runs."""
        started = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - started
            with self._lock:
                self.record(seconds)

    def set_blocked(self, number: int) -> None:
        """Replaces threads that wait for clients by more threads.

        Args:
            number: Number of threads that wait; more than `waiting` are not replaced.
        """
        self._resize(self._running, min(number, self._waiting))

    def close(self) -> None:
        """Ends the threads after the requests in the queue."""
        self._resize(0, 0)

    def _resize(self, running: int, blocked: int) -> None:
        with self._lock:
            self._running, self._blocked = running, blocked
            more = running + blocked - self._threads
            self._threads += max(0, more)
        for _ in range(more):
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        for _ in range(-more):
            self._queue.put(None)

    def _work(self) -> None:
        while True:
            job = self._queue.get()
            if job is None:
                with self._lock:
                    if self._threads > self._running + self._blocked:
                        self._threads -= 1
                        return
                continue
            try:
                work, waited = job
                work(waited)
            except Exception:
                # The thread must not end, because later requests would wait forever.
                _log.exception("A request failed")
            with self._lock:
                self._accepted -= 1
