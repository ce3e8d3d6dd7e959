"""workers: requests that wait in a queue, and threads that are replaced."""

import contextlib
import threading

import pytest
from grpc import StatusCode

from recdistill.serving.server.request_errors import RequestError
from recdistill.serving.server.workers import Workers
from tests.serving.waiting import wait_until


class Request:
    """A request that runs until `end`, and records its place in the order."""

    order: list

    def __init__(self, workers, order=None, **limits):
        self.started, self.ended = threading.Event(), threading.Event()
        self.workers, self.order, self.waited = workers, order, None
        workers.submit(self.run, **limits)

    def run(self, waited):
        self.waited = waited
        if self.order is not None:
            self.order.append(self)
        self.started.set()
        self.ended.wait()


@pytest.fixture
def make():
    with contextlib.ExitStack() as stack:

        def start(running, waiting):
            workers = Workers(running, waiting, "test")
            stack.callback(workers.close)
            return workers

        yield start


def finished(workers):
    wait_until(lambda: workers._accepted == 0)


def refused(workers, **limits):
    with pytest.raises(RequestError) as caught:
        workers.submit(lambda waited: None, **limits)
    return caught.value


def test_requests_run_in_the_order_of_their_arrival(make):
    workers, order = make(1, 2), []
    requests = [Request(workers, order) for _ in range(3)]
    for request in requests:
        request.started.wait()
        request.ended.set()
    finished(workers)
    assert order == requests
    assert [each.waited for each in requests] == [False, True, True]


def test_a_request_is_refused_at_once_if_the_queue_is_full(make):
    workers = make(1, 1)
    requests = [Request(workers) for _ in range(2)]
    error = refused(workers)
    assert error.code == StatusCode.RESOURCE_EXHAUSTED
    assert "1 requests wait" in error.message
    for request in requests:
        request.ended.set()
    finished(workers)


def test_a_request_is_refused_if_it_would_wait_half_the_time_it_has(make):
    workers = make(2, 100)
    running = [Request(workers) for _ in range(2)]
    workers.duration_s = 4.0
    # One request must end before: 4 s / 2 threads = 2 s.
    refused(workers, deadline_s=3.9)
    waiting = Request(workers, deadline_s=400.0)
    refused(workers, deadline_s=7.9)
    for request in (*running, waiting):
        request.ended.set()
    finished(workers)


def test_a_thread_is_free_whatever_the_deadline(make):
    workers = make(1, 1)
    workers.duration_s = 100.0
    request = Request(workers, deadline_s=0.01)
    request.started.wait()
    assert request.waited is False
    request.ended.set()
    finished(workers)


def test_threads_that_wait_for_clients_are_replaced_and_ended(make):
    workers = make(1, 2)
    slow, other = Request(workers), Request(workers)
    slow.started.wait()
    assert not other.started.is_set()
    workers.set_blocked(5)  # At most `waiting`.
    other.started.wait()
    assert workers._threads == 3
    slow.ended.set()
    other.ended.set()
    workers.set_blocked(0)
    wait_until(lambda: workers._threads == 1)
    last = Request(workers)
    last.ended.set()
    finished(workers)


def test_a_thread_outlives_an_error(make, caplog):
    workers = make(1, 1)

    def broken(waited):
        raise ZeroDivisionError

    workers.submit(broken)
    finished(workers)
    request = Request(workers)
    request.started.wait()
    request.ended.set()
    assert "A request failed" in caplog.text


def test_after_the_end_requests_are_refused(make):
    workers = make(2, 1)
    workers.close()
    assert refused(workers).code == StatusCode.UNAVAILABLE
    wait_until(lambda: workers._threads == 0)


def test_the_duration_is_a_moving_average(make):
    workers = make(1, 1)
    workers.record(1.0)
    workers.record(2.0)
    assert workers.duration_s == pytest.approx(0.9 * 0.1 + 0.1 * 2.0)
