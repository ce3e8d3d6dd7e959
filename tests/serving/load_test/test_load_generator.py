"""load_generator: schedule, latency and failures in virtual time; real processes."""

import numpy as np
import pytest

from recdistill.errors import LoadTestError
from recdistill.serving.client.endpoints import Endpoint
from recdistill.serving.client.protocols import Target
from recdistill.serving.load_test import load_generator
from recdistill.serving.load_test.load_generator import Load, generate
from recdistill.serving.load_test.request_samples import Samples
from recdistill.serving.load_test.workload import Workload
from tests.serving.load_test.virtual_time import VirtualClock, VirtualServer

pytestmark = pytest.mark.slow

WORK = Workload(["a", "b", "c"], "recommend", 1, 3, Target("films", version=7))


@pytest.fixture
def clock(monkeypatch):
    clock = VirtualClock()
    monkeypatch.setattr(load_generator, "time", clock)
    return clock


def sent(clock, server, load, number=0):
    """Samples of one generator process, in virtual time."""
    endpoint = Endpoint.parse("http://a")
    generator = load_generator._Generator(None, endpoint, WORK, load, number)
    generator.channel, generator.start = server, clock.now
    clock.run(generator.send_all())
    return generator.samples()


class TestOpenLoop:
    def test_requests_are_sent_on_schedule_and_messages_take_turns(self, clock):
        """Eight a second for half a second: at 0, 1/8, 2/8 and 3/8 s."""
        server = VirtualServer(clock)
        seen = sent(clock, server, Load(seconds=0.5, rate=8))
        assert server.received == [(0.0, "a"), (0.125, "b"), (0.25, "c"), (0.375, "a")]
        assert seen.due_s.tolist() == [0.0, 0.125, 0.25, 0.375]
        assert seen.latency_s.tolist() == [0.0625] * 4
        assert seen.lag_s.tolist() == [0.0] * 4
        assert seen.versions == {"7": 4}

    def test_processes_share_the_schedule_without_gap_or_overlap(self, clock):
        load = Load(seconds=0.75, rate=8, processes=2)
        parts = []
        for number in range(2):
            clock.now = 0.0
            parts.append(sent(clock, VirtualServer(clock), load, number))
        assert parts[0].due_s.tolist() == [0.0, 0.25, 0.5]
        assert parts[1].due_s.tolist() == [0.125, 0.375, 0.625]
        assert len(Samples.joined(parts)) == 6

    def test_sending_goes_on_while_earlier_requests_wait(self, clock):
        server = VirtualServer(clock, takes=lambda now: 10.0)
        sent(clock, server, Load(seconds=0.5, rate=8, deadline_s=20))
        assert [when for when, _ in server.received] == [0.0, 0.125, 0.25, 0.375]
        assert server.at_once == 4

    def test_a_stall_shows_in_every_request_that_was_due_in_it(self, clock):
        """The server stalls from 1/4 to 3/4 s; 64 requests a second are due.

        The 32 requests due in the stall wait for its end, the first of them for half a
        second and the last for 1/64 s. Half of those, 16, wait for over a quarter.
        """
        server = VirtualServer(clock, takes=stall(0.25, 0.75))
        seen = sent(clock, server, Load(seconds=1.0, rate=64))
        assert (seen.latency_s > 0).sum() == 32
        assert (seen.latency_s > 0.25).sum() == 16
        assert seen.latency_s.max() == 0.5

    def test_latency_counts_from_when_a_request_was_due(self, clock):
        """The generator is 0.25 s late, and the answer takes 0.0625 s."""
        load = Load(seconds=0.1, rate=8)
        endpoint = Endpoint.parse("http://a")
        generator = load_generator._Generator(None, endpoint, WORK, load, 0)
        generator.channel, generator.start = VirtualServer(clock), 0.0
        clock.now = 0.25
        clock.run(generator.send_all())
        seen = generator.samples()
        assert (seen.due_s[0], seen.lag_s[0], seen.latency_s[0]) == (0.0, 0.25, 0.3125)

    def test_failures_are_counted_by_code_and_no_request_is_repeated(self, clock):
        failures = ["UNAVAILABLE"] * 3 + ["INTERNAL"] * 2
        server = VirtualServer(clock, failures=failures)
        seen = sent(clock, server, Load(seconds=1.25, rate=8))
        assert len(server.received) == len(seen) == 10
        assert seen.errors == {"UNAVAILABLE": 3, "INTERNAL": 2}
        assert seen.percentiles().n == 5


class TestClosedLoop:
    def test_each_client_sends_when_its_last_request_is_answered(self, clock):
        """Answers take 1/16 s: eight rounds of three clients in half a second."""
        server = VirtualServer(clock)
        seen = sent(clock, server, Load(seconds=0.5, clients=3))
        assert len(seen) == len(server.received) == 24
        assert server.at_once == 3
        assert seen.lag_s.max() == 0.0
        assert sorted(set(seen.due_s.tolist())) == [n / 16 for n in range(8)]

    def test_a_stall_shows_in_one_request_of_each_client(self, clock):
        server = VirtualServer(
            clock, takes=lambda now: stall(0.25, 0.75)(now) or 0.0625
        )
        seen = sent(clock, server, Load(seconds=1.0, clients=1))
        assert (seen.latency_s > 0.0625).sum() == 1

    def test_processes_share_the_clients(self, clock):
        load = Load(seconds=0.5, clients=3, processes=2)
        at_once = []
        for number in range(2):
            clock.now = 0.0
            server = VirtualServer(clock)
            sent(clock, server, load, number)
            at_once.append(server.at_once)
        assert at_once == [2, 1]


def stall(start, end):
    """Time to an answer of a server that answers nothing from `start` to `end`."""
    return lambda now: end - now if start <= now < end else 0.0


class TestProcesses:
    @pytest.mark.parametrize("protocol", ["grpc", "rest"])
    def test_every_scheduled_request_is_sent_and_answered(
        self, server, workload, protocol
    ):
        endpoint, work = workload(protocol, batch_size=2)
        counts = []
        load = Load(seconds=0.5, rate=60, processes=2, deadline_s=60)
        seen = generate(endpoint, work, load, progress=counts.append)
        assert len(seen) == 30 and seen.errors == {}
        np.testing.assert_allclose(np.sort(seen.due_s), np.arange(30) / 60, atol=1e-6)
        assert seen.versions == ({"7": 30} if protocol == "grpc" else {})
        assert len({inputs["user_id"][0] for _, inputs in server.seen}) == 5
        assert all(len(inputs["user_id"]) == 2 for _, inputs in server.seen)
        assert server.attempts == 30 + 2 * load_generator.WARM_UP
        assert counts[-1].answered <= 30 and counts[-1].failed == 0

    def test_a_server_that_does_not_answer_exceeds_the_deadline(self, server, workload):
        endpoint, work = workload()
        server.open_gate.clear()
        seen = generate(endpoint, work, Load(seconds=0.2, rate=20, deadline_s=0.1))
        assert seen.errors == {"DEADLINE_EXCEEDED": 4}

    def test_a_generator_that_dies_raises_an_error(self, workload):
        endpoint, _ = workload()
        broken = Workload([], "recommend", 1, 0, Target("films"))
        with pytest.raises(LoadTestError, match="generator process died"):
            generate(endpoint, broken, Load(seconds=1.0, rate=5))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rate": 1, "clients": 1},
        {"rate": 0},
        {"rate": float("inf")},
        {"clients": 1, "processes": 0},
        {"clients": 1, "deadline_s": -1},
    ],
)
def test_a_load_out_of_range_is_refused(settings):
    with pytest.raises(LoadTestError, match="Received"):
        Load(seconds=1.0, **settings)
