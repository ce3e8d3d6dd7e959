"""A fake server and a workload for it."""

import pytest

from recdistill.serving.client.client import Client
from recdistill.serving.client.endpoints import Endpoint
from recdistill.serving.client.protocols import Target
from recdistill.serving.load_test.workload import Workload, rows_of
from tests.serving.fake_server import ITEMS, query, serving
from tests.serving.waiting import LONG_S


@pytest.fixture(scope="module")
def running():
    with serving() as fake:
        yield fake


@pytest.fixture
def server(running):
    running.failures.clear()
    running.seen.clear()
    running.delay_s, running.attempts = 0.0, 0
    running.versions.clear()
    running.versions[7] = "AVAILABLE"
    yield running
    running.open_gate.set()


@pytest.fixture
def workload(server):
    """Function that returns the server's endpoint and a workload of five queries."""

    def make(protocol="grpc", batch_size=1):
        endpoint = Endpoint.parse(server.endpoints[protocol])
        with Client(endpoint.url, "films", deadline_s=LONG_S) as client:
            contract = client.signatures()["recommend"]
        queries = [query(user_id=f"user {n}", history=ITEMS[:n]) for n in range(5)]
        rows = rows_of(queries, contract, k=3)
        target, protocol = Target("films"), endpoint.protocol
        work = Workload.of_rows(rows, protocol, target, "recommend", batch_size)
        return endpoint, work

    return make
