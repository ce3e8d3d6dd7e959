"""Waiting for a condition, without an assumption about the speed of the machine."""

import time

LONG_S = 300
"""Time after which a test fails because it hangs, in seconds."""


def wait_until(condition):
    """Waits until `condition()` is true, and returns its value."""
    end = time.monotonic() + LONG_S
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"The condition was not met within {LONG_S} seconds")
