"""Retry policy: which requests are sent again, and after which pause.

Predictions change nothing on the server, so sending one twice is always safe. The
following rules avoid extra load on an overloaded server:

* Only a request that the server did not accept (`UnavailableError`) is sent again: no
  connection, a full queue (UNAVAILABLE, HTTP 503), no free thread
  (RESOURCE_EXHAUSTED), a server that shuts down (UNAVAILABLE or CANCELLED). A
  connection that breaks before the answer arrives counts as unavailable.
* A request is not sent again after its deadline, which covers all attempts together.
* A request is not sent again after any other error, because it would fail again.
* Each pause is drawn at random below a bound that doubles ("full jitter"), so that
  clients that failed at the same time do not retry at the same time.
* A client has a retry budget for all its calls: while more than a tenth of them fail,
  it does not retry, so that retries do not multiply the load of a server that is down.

Reference: M. Brooker (2015), "Exponential Backoff And Jitter", for the pauses; gRPC
proposal A6, "retry throttling", for the budget.
"""

from __future__ import annotations

import math
import random
import threading

__all__ = ["RetryPolicy"]

_TOKENS, _EARNED = 10.0, 0.1


class RetryPolicy:
    """Exponential backoff with jitter and a retry budget. It is thread-safe.

    Args:
        retries: Maximum number of attempts after the first.
        first_pause_s: Upper bound of the first pause, in seconds. It doubles with each
            retry.
        throttled: Whether the retry budget applies. False suits a batch job, which
            should wait until the server is back.

    Raises:
        ValueError: If `retries` or `first_pause_s` is negative, or not a number.

    Examples:
        >>> policy = RetryPolicy(retries=1, first_pause_s=0.01)
        >>> policy.pause(0, seconds_left=1.0) <= 0.01
        True
        >>> policy.pause(1, seconds_left=1.0) is None
        True
    """

    def __init__(
        self, retries: int = 2, first_pause_s: float = 0.01, throttled: bool = True
    ) -> None:
        if retries < 0 or not 0 <= first_pause_s < math.inf:
            raise ValueError(
                "`retries` and `first_pause_s` must be finite and not be negative. "
                f"Received: retries={retries}, first_pause_s={first_pause_s}"
            )
        self._retries, self._first_pause_s = retries, first_pause_s
        self._tokens, self._throttled = _TOKENS, throttled
        self._lock = threading.Lock()

    def pause(self, tries: int, seconds_left: float) -> float | None:
        """Seconds to wait before the next attempt; None to give up.

        Args:
            tries: Retries of this call so far.
            seconds_left: Seconds until the deadline of the call.
        """
        with self._lock:
            self._tokens = max(0.0, self._tokens - 1)
            allowed = self._tokens > _TOKENS / 2 or not self._throttled
        pause = random.uniform(0, self._first_pause_s * 2.0 ** min(tries, 64))
        if tries >= self._retries or not allowed or pause >= seconds_left:
            return None
        return pause

    def succeeded(self) -> None:
        """Restores a part of the budget after an answered call."""
        with self._lock:
            self._tokens = min(_TOKENS, self._tokens + _EARNED)
