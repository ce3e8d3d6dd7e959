"""retries: how long, how often, and when no more."""

import random

from recdistill.serving.client.retries import RetryPolicy


def test_pauses_double_and_are_drawn_at_random():
    random.seed(5)
    drawn = [
        [RetryPolicy(3, 0.01).pause(tries, 10.0) for _ in range(200)]
        for tries in range(3)
    ]
    for tries, pauses in enumerate(drawn):
        bound = 0.01 * 2**tries
        assert 0 <= min(pauses) < 0.1 * bound
        assert 0.9 * bound < max(pauses) <= bound


def test_the_budget_comes_back_with_answers():
    policy = RetryPolicy(1, 0.0)
    assert [policy.pause(0, 1.0) is None for _ in range(6)] == [False] * 4 + [True] * 2
    for _ in range(30):  # From 4 tokens to 7; the next failure leaves 6.
        policy.succeeded()
    assert policy.pause(0, 1.0) is not None
