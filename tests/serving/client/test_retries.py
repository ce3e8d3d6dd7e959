"""retries: length and number of pauses, and the budget."""

import math
import random

import pytest

from recdistill.serving.client.retries import RetryPolicy


def test_pauses_are_random_below_a_bound_that_doubles():
    random.seed(5)
    drawn = [
        [RetryPolicy(3, 0.01).pause(tries, 10.0) for _ in range(200)]
        for tries in range(3)
    ]
    for tries, pauses in enumerate(drawn):
        bound = 0.01 * 2**tries
        assert 0 <= min(pauses) < 0.1 * bound
        assert 0.9 * bound < max(pauses) <= bound


def test_answers_restore_the_budget():
    policy = RetryPolicy(1, 0.0)
    assert [policy.pause(0, 1.0) is None for _ in range(6)] == [False] * 4 + [True] * 2
    for _ in range(30):  # From 4 tokens to 7; the next failure leaves 6.
        policy.succeeded()
    assert policy.pause(0, 1.0) is not None


def test_an_unthrottled_policy_has_no_budget():
    policy = RetryPolicy(1, 0.0, throttled=False)
    assert all(policy.pause(0, 1.0) == 0.0 for _ in range(50))
    assert policy.pause(1, 1.0) is None


def test_negative_arguments_are_errors():
    with pytest.raises(
        ValueError, match=r"must be finite and not be negative\. Received: retries=-1"
    ):
        RetryPolicy(-1)
    for pause in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"first_pause_s={pause}"):
            RetryPolicy(1, pause)


def test_the_bound_of_the_pause_stays_finite():
    assert RetryPolicy(5000, 0.0, throttled=False).pause(4000, 1.0) == 0.0
