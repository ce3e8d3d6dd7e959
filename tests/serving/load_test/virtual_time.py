"""An event loop in virtual time, and a server that answers in it."""

import asyncio
import selectors

from recdistill.serving.client.serving_errors import ServingError


class VirtualClock:
    """Clock of an event loop that advances it instead of waiting."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def run(self, coroutine):
        """Runs a coroutine in virtual time."""
        loop = asyncio.SelectorEventLoop(_Selector(self))
        loop.time = self.monotonic
        try:
            return loop.run_until_complete(coroutine)
        finally:
            loop.close()


class _Selector(selectors.SelectSelector):
    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready:
            self.clock.now += timeout or 0.0
        return ready


class VirtualServer:
    """Channel to a server in virtual time.

    Args:
        clock: The clock.
        takes: Seconds for an answer, given the time at which the request arrives.
        failures: Status codes of the first answers.

    Attributes:
        received: Arrival time and message of each request.
        at_once: Maximum number of requests in flight.
    """

    def __init__(self, clock, takes=lambda now: 0.0625, failures=()):
        self.clock, self.takes, self.failures = clock, takes, list(failures)
        self.received, self.in_flight, self.at_once = [], 0, 0

    async def send(self, message, timeout_s):
        self.received.append((self.clock.now, message))
        code = self.failures.pop(0) if self.failures else None
        self.in_flight += 1
        self.at_once = max(self.at_once, self.in_flight)
        await asyncio.sleep(self.takes(self.clock.now))
        self.in_flight -= 1
        if code is not None:
            raise ServingError(code, "no", "The request", "http://a")
        return b""
