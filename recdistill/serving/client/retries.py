"""When a request is sent again, and after how long.

Predictions change nothing on the server, so to send one twice is always right; the
question is what it does to a server in trouble. Hence:

* only what nobody took is sent again: no connection, a full queue, a server that
  drains (UNAVAILABLE, 503). A connection that breaks while an answer is awaited looks
  the same and is treated the same;
* never after a deadline: the deadline is the caller's patience for all tries together,
  and it is spent;
* never after any other answer of the server: it would be the same again;
* each pause is drawn at random up to a bound that doubles, so that clients which
  failed together do not come back together;
* a budget for all calls of a client: while more than a tenth of the calls fail, the
  retries stop, so that they do not multiply the load of a server that is down.

Reference: M. Brooker (2015), "Exponential Backoff And Jitter", for the pauses; the
budget is that of gRPC's proposal A6, retry throttling.
"""

from __future__ import annotations

import random
import threading

__all__ = ["RetryPolicy"]

_TOKENS, _EARNED = 10.0, 0.1


class RetryPolicy:
    """The retries of one client; threads may share it.

    Args:
        retries: Most tries after the first; 0 for none.
        first_pause_s: Bound of the first pause, in seconds; it doubles with each try.

    Raises:
        ValueError: If an argument is negative.

    Example:
        >>> policy = RetryPolicy(retries=1, first_pause_s=0.01)
        >>> policy.pause(0, seconds_left=1.0) <= 0.01
        True
        >>> policy.pause(1, seconds_left=1.0) is None  # There was one retry.
        True
    """

    def __init__(self, retries: int = 2, first_pause_s: float = 0.01) -> None:
        if retries < 0 or first_pause_s < 0:
            raise ValueError(
                "`retries` and `first_pause_s` must not be negative. Received: "
                f"retries={retries}, first_pause_s={first_pause_s}"
            )
        self._retries, self._first_pause_s = retries, first_pause_s
        self._tokens = _TOKENS
        self._lock = threading.Lock()

    def pause(self, tries: int, seconds_left: float) -> float | None:
        """Seconds to wait after an UNAVAILABLE; None for "give up".

        Args:
            tries: Retries of this call so far.
            seconds_left: Until its deadline.
        """
        with self._lock:
            self._tokens = max(0.0, self._tokens - 1)
            allowed = self._tokens > _TOKENS / 2
        # Not for safety: only so that clients do not come back together.
        pause = random.uniform(0, self._first_pause_s * 2**tries)
        if tries >= self._retries or not allowed or pause >= seconds_left:
            return None
        return pause

    def succeeded(self) -> None:
        """A call was answered: the budget recovers a little."""
        with self._lock:
            self._tokens = min(_TOKENS, self._tokens + _EARNED)
