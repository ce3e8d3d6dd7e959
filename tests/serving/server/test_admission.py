"""admission: which requests run, wait, are refused or are dropped."""

import threading

import pytest
from grpc import StatusCode

from recdistill.serving.server.admission import RequestMemory, Slots
from recdistill.serving.server.request_errors import RequestError
from tests.serving.waiting import wait_until


class Running:
    """A request in a thread, which holds its slot until `end`."""

    def __init__(self, slots, **limits):
        self.slots, self.limits, self.error = slots, limits, None
        self.started, self.ended = threading.Event(), threading.Event()
        self.waited = None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            with self.slots.slot(**self.limits) as self.waited:
                self.started.set()
                self.ended.wait()
        except RequestError as error:
            self.error = error

    def end(self):
        self.ended.set()
        self.thread.join()
        return self


def queued(slots, number):
    wait_until(lambda: len(slots._queue) == number)


def refused(slots, **limits):
    with pytest.raises(RequestError) as caught, slots.slot(**limits):
        pass
    assert caught.value.code == StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.http_status == 503
    return caught.value.message


class TestSlots:
    def test_requests_run_in_the_order_of_their_arrival(self):
        slots = Slots(1, 2)
        first = Running(slots)
        first.started.wait()
        second = Running(slots)
        queued(slots, 1)
        third = Running(slots)
        queued(slots, 2)
        first.end()
        second.started.wait()
        assert not third.started.is_set()
        second.end()
        third.started.wait()
        third.end()
        assert [each.waited for each in (first, second, third)] == [False, True, True]
        assert slots._free == 1

    def test_a_request_is_refused_if_the_queue_is_full(self):
        slots = Slots(1, 1)
        first = Running(slots)
        first.started.wait()
        second = Running(slots)
        queued(slots, 1)
        assert "overloaded: 1 requests wait" in refused(slots)
        first.end()
        second.started.wait()
        assert second.end().error is None

    def test_a_request_is_refused_if_it_would_wait_half_the_time_it_has(self):
        slots = Slots(2, 100)
        running = [Running(slots) for _ in range(2)]
        for each in running:
            each.started.wait()
        slots.duration_s = 4.0
        # One request ahead of the slot: 4 s / 2 slots = 2 s.
        refused(slots, deadline_s=3.9)
        waiting = Running(slots, deadline_s=400.0)
        queued(slots, 1)
        refused(slots, deadline_s=7.9)
        for each in running:
            each.end()
        waiting.started.wait()
        assert waiting.end().error is None

    def test_patience_is_compared_when_as_many_wait_as_run(self):
        slots = Slots(1, 100)
        first = Running(slots)
        first.started.wait()
        slots.duration_s = 4.0
        second = Running(slots, patience_s=0.5)
        queued(slots, 1)
        refused(slots, patience_s=0.5)
        first.end()
        second.end()

    def test_a_request_that_cannot_end_before_its_deadline_is_dropped(self):
        slots = Slots(1, 100)
        first = Running(slots)
        first.started.wait()
        late, patient = Running(slots, deadline_s=500.0), Running(slots)
        queued(slots, 2)
        slots.duration_s = 10_000.0
        first.end()
        late.thread.join()
        assert late.error.code == StatusCode.DEADLINE_EXCEEDED
        patient.started.wait()
        assert patient.end().error is None

    def test_a_request_whose_deadline_passes_while_it_waits_leaves_the_queue(self):
        slots = Slots(1, 100)
        first = Running(slots)
        first.started.wait()
        late = Running(slots, deadline_s=0.01)
        late.thread.join()
        assert late.error.code == StatusCode.DEADLINE_EXCEEDED
        assert not slots._queue
        first.end()
        assert slots._free == 1

    def test_the_duration_is_a_moving_average(self):
        slots = Slots(1, 1)
        slots._leave(1.0)
        slots._leave(2.0)
        assert slots.duration_s == pytest.approx(0.9 * 0.1 + 0.1 * 2.0)


class TestMemory:
    def test_memory_is_shared_and_freed(self):
        memory = RequestMemory(100)
        with memory.held() as one:
            one.add(40)
            one.add(20)
            with memory.held() as other, pytest.raises(RequestError) as caught:
                other.add(41)
            assert caught.value.http_status == 503
            one.resize(10)
            with memory.held() as other:
                other.add(90)
                assert memory.used == 100
            assert memory.used == 10
        assert memory.used == 0

    def test_a_request_that_never_fits_is_too_large(self):
        memory = RequestMemory(2**20)
        with memory.held() as held, pytest.raises(RequestError) as caught:
            held.add(2**20 + 1)
        assert caught.value.http_status == 413
        assert "2 MiB of memory" in caught.value.message
        assert "limit of 1 MiB" in caught.value.message
        assert memory.used == 0
