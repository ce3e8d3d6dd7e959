"""client: the same calls, results and errors over gRPC and REST, blocking and async.

The server is `fake_server`, which uses the official stubs and `http.server`.
"""

import asyncio
import contextlib
import pickle
import socket
import threading
import time

import numpy as np
import pytest

from recdistill.serving import (
    AsyncClient,
    Client,
    DeadlineError,
    InvalidRequestError,
    NotFoundError,
    QueryError,
    RetryPolicy,
    ServingError,
    UnavailableError,
)
from tests.serving.fake_server import ITEMS, LOWEST, query, serving
from tests.serving.scripted_server import scripted
from tests.serving.waiting import LONG_S, wait_until


@pytest.fixture(scope="module")
def running():
    with serving() as fake:
        yield fake


@pytest.fixture
def server(running):
    running.failures.clear()
    running.seen.clear()
    running.delay_s, running.attempts, running.metadata_calls = 0.0, 0, 0
    running.barrier = None
    running.connections.clear()
    return running


class Blocking:
    """An async client with the interface of the blocking one."""

    def __init__(self, *arguments, **options):
        self._client = AsyncClient(*arguments, **options)
        self._loop = asyncio.new_event_loop()

    def __getattr__(self, name):
        attribute = getattr(self._client, name)
        if not callable(attribute):
            return attribute
        return lambda *a, **o: self._loop.run_until_complete(attribute(*a, **o))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._loop.run_until_complete(self._client.close())
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


@pytest.fixture(params=["grpc", "rest", "grpc async", "rest async"])
def connect(request, server):
    """Creates clients of one kind and closes them after the test."""
    protocol, _, asynchronous = request.param.partition(" ")
    made = []

    def connect(model="films", endpoint=None, **options):
        kind = Blocking if asynchronous else Client
        endpoint = endpoint or server.endpoints[protocol]
        # A long deadline, because the machine may be busy.
        client = kind(endpoint, model, **{"deadline_s": LONG_S, **options})
        made.append(client)
        return client

    connect.rest = protocol == "rest"
    yield connect
    for client in made:
        client.__exit__(None, None, None)


class TestResults:
    def test_recommend_returns_k_items_for_each_query(self, connect):
        queries = [query(), query(history=[]), query()]
        got = connect().recommend(queries, k=[3, 1, 2])
        assert [each.item_ids for each in got] == [ITEMS[:3], ITEMS[:1], ITEMS[:2]]
        # Ten items, and a history of two: 10 - i + 2.
        assert got[0].scores.tolist() == [12.0, 11.0, 10.0]
        assert got[1].scores.tolist() == [10.0]
        assert got[0].scores.dtype == "float32"

    def test_excluded_items_and_empty_entries_are_not_returned(self, connect):
        exclude = [ITEMS[:8], ["item-0", "never seen"]]
        got = connect().recommend([query(), query()], k=4, exclude=exclude)
        assert got[0].item_ids == ["映画", "новинка"]
        assert got[0].scores.tolist() == [4.0, 3.0]
        assert got[1].item_ids == ITEMS[1:5]

    def test_only_allowed_items_are_returned(self, connect):
        allow = [["größe", "item-3", "item-1"], None, ["nobody knows"]]
        got = connect().recommend(
            [query()] * 3, k=2, exclude=[["item-1"], [], []], allow=allow
        )
        assert [each.item_ids for each in got] == [["item-3", "größe"], ITEMS[:2], []]

    def test_rank_returns_scores_in_the_order_of_the_candidates(self, connect):
        candidates = [["новинка", "nobody knows", "item-0"], ["größe"], []]
        got = connect().rank([query(history=[])] * 3, candidates)
        np.testing.assert_array_equal(got[0].scores, np.float32([1.0, LOWEST, 10.0]))
        assert got[0].known.tolist() == [True, False, True]
        assert got[0].item_ids == candidates[0]
        assert got[1].scores.tolist() == [3.0]
        assert got[1].known.dtype == bool
        assert got[2].scores.shape == (0,)

    def test_encode_query_returns_one_row_per_query(self, connect):
        got = connect().encode_query([query(), query(history=["a"], age=None)])
        np.testing.assert_array_equal(got.values, np.float32([[2, 30], [1, np.nan]]))
        assert got.values.dtype == "float32"

    def test_predict_sends_arrays_unchanged(self, connect, server):
        client = connect()
        client.encode_query([query()])
        _, inputs = server.seen[-1]
        text = {
            name: np.array([[e.decode() for e in np.atleast_1d(row)] for row in value])
            for name, value in inputs.items()
            if value.dtype == object
        }
        given = {**inputs, **text, "user_id": np.array(["ann"])}
        got = client.predict("encode_query", given)
        assert got.outputs["embedding"].tolist() == [[2.0, 30.0]]

    def test_results_have_the_version_if_the_server_reports_it(self, connect):
        [got] = connect().recommend([query()])
        assert got.version == (None if connect.rest else 7)
        [pinned] = connect(version=7).recommend([query()])
        assert pinned.version == 7

    def test_versions_and_signatures_are_read_from_the_server(self, connect):
        client = connect()
        [status] = client.versions()
        assert (status.version, status.state) == (7, "AVAILABLE")
        signatures = client.signatures()
        assert sorted(signatures) == ["encode_query", "rank", "recommend"]
        taste = signatures["rank"].inputs["taste"]
        assert (taste.dtype, taste.shape) == ("float32", (None, 2))
        assert signatures["rank"].outputs["known"].dtype == "bool"
        assert signatures["rank"].histories == {"history": "history_length"}


class TestWhatIsSent:
    def test_histories_are_padded_and_sent_with_their_length(self, connect, server):
        connect().encode_query([query(history=["a", "größe", "c"]), query(history=[])])
        _, inputs = server.seen[-1]
        assert inputs["history"].tolist() == [
            [b"a", "größe".encode(), b"c"],
            [b"", b"", b""],
        ]
        assert inputs["history_length"].tolist() == [3, 0]

    def test_no_input_of_width_0_is_sent(self, connect, server):
        client = connect()
        client.recommend([query(history=[], jobs=[])])
        client.rank([query()], [[]])
        sent = {
            name: value for _, inputs in server.seen for name, value in inputs.items()
        }
        for name in ("history", "jobs", "exclude_ids", "candidate_ids"):
            assert sent[name].shape[1] >= 1, name

    def test_the_label_is_sent(self, connect):
        assert (
            connect(label="stable").recommend([query()], k=1)[0].item_ids == ITEMS[:1]
        )
        with pytest.raises(NotFoundError, match="no label canary"):
            connect(label="canary").recommend([query()])

    def test_numbers_are_sent_without_loss(self, connect, server):
        values = np.float32([0.1, 1 / 3])
        connect().encode_query([query(taste=values, age=1e-30)])
        _, inputs = server.seen[-1]
        assert inputs["taste"][0].tolist() == values.tolist()
        assert inputs["age"].tolist() == [float(np.float32(1e-30))]


class TestInvalidArguments:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda c: c.recommend([]), "`queries` must have at least one query"),
            (lambda c: c.rank([], []), "`queries` must have at least one query"),
            (lambda c: c.recommend([query()], k=0), r"`k` must be a number from 1"),
            (lambda c: c.recommend([query()], k=[1, 2]), r"Received: k=\[1, 2\]"),
            (lambda c: c.recommend([query()], k=True), r"Received: k=True"),
            (lambda c: c.recommend([query()], k=2.0), r"Received: k=2.0"),
            (lambda c: c.recommend([query()], k=None), r"Received: k=None"),
            (lambda c: c.recommend([query()], allow=[5]), r"`allow` must be a list"),
            (lambda c: c.recommend([query()], exclude=5), r"one list for each .*: 5"),
            (
                lambda c: c.recommend([query()] * 3, exclude=np.array([["a"], ["b"]])),
                r"`exclude` must have one list for each of the 3 queries.*: 2",
            ),
            (
                lambda c: c.recommend([query()], exclude=[[], []]),
                r"`exclude` must have one list for each of the 1",
            ),
            (lambda c: c.rank([query()], ["ab"]), r"`candidates` must be a list"),
            (
                lambda c: c.recommend([query()] * 2, allow=[None, []]),
                r"`allow` must name at least one item.*Received: \[\] for query 1",
            ),
            (
                lambda c: c.recommend([query()], allow=[["a"], ["b"]]),
                r"`allow` must have one list for each of the 1",
            ),
            (lambda c: c.recommend([{}]), "must have the feature 'age'"),
            (lambda c: c.recommend([query(agee=1)]), "Received: 'agee' in query 0"),
            (lambda c: c.predict("guess", {}), r"`signature` must be one.*'guess'"),
            (
                lambda c: c.predict("rank", {"age": np.zeros(0, "float32")}),
                r"`age` must have at least one row.*Received: \[0\]",
            ),
            (
                lambda c: c.predict("rank", {"age": np.zeros((1, 1), "float32")}),
                r"`age` must have the shape \(n\)\. Received: \[1, 1\]",
            ),
            (
                lambda c: c.predict("recommend", {"k": np.int32([0])}),
                r"`k` must be at least 1\. Received: 0 in row 0",
            ),
        ],
    )
    def test_an_invalid_query_is_not_sent(self, connect, server, call, message):
        with pytest.raises(QueryError, match=message):
            call(connect())
        assert server.attempts == 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"deadline_s": 0}, "`deadline_s` must be positive"),
            ({"deadline_s": -1.0}, "Received: deadline_s=-1.0"),
            ({"deadline_s": float("nan")}, "Received: deadline_s=nan"),
            ({"deadline_s": "1"}, "Received: deadline_s='1'"),
            ({"retries": -1}, "must be finite and not be negative"),
            ({"retries": 1.5}, "Received: retries=1.5"),
            ({"version": 1, "label": "a"}, "must not both be set"),
            ({"model": ""}, "`model` must not be empty"),
            ({"model": None}, "`model` must not be empty"),
            ({"model": "\ud800"}, "`model` must be text in Unicode"),
            ({"label": 7}, "`label` must be text in Unicode. Received: label=7"),
            ({"version": -1}, "`version` must be from 0"),
            ({"version": 2**63}, f"Received: version={2**63}"),
            ({"version": "7"}, "Received: version='7'"),
            ({"endpoint": "ftp://a"}, r"Received: endpoint='ftp://a'"),
        ],
    )
    def test_an_invalid_setting_is_an_error(self, connect, options, message):
        with pytest.raises(ValueError, match=message):
            connect(**options)


class TestErrors:
    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            ("INVALID_ARGUMENT", InvalidRequestError),
            ("NOT_FOUND", NotFoundError),
            ("UNAVAILABLE", UnavailableError),
            ("DEADLINE_EXCEEDED", DeadlineError),
            ("INTERNAL", ServingError),
        ],
    )
    def test_an_error_has_the_message_of_the_server(self, connect, server, code, kind):
        server.failures.append((code, "`k` must be from 1, größer"))
        client = connect(retries=0)
        with pytest.raises(kind) as caught:
            client.recommend([query()])
        error = caught.value
        assert type(error) is kind
        assert (error.code, error.detail) == (code, "`k` must be from 1, größer")
        assert "`recommend` of model 'films' at " in str(error)
        assert f"failed with {code}: `k` must be from 1" in str(error)
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), type(again)) == (str(error), kind)
        assert client.errors == {("recommend", code): 1}

    def test_an_unknown_model_is_an_error_on_the_first_call(self, connect):
        with pytest.raises(
            NotFoundError, match="Servable not found for request: books"
        ):
            connect("books").recommend([query()])

    def test_a_port_without_a_server_is_unavailable(self, connect):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            scheme = "http" if connect.rest else "grpc"
            client = connect(endpoint=f"{scheme}://127.0.0.1:{port}", deadline_s=2.0)
            with pytest.raises((UnavailableError, DeadlineError)) as caught:
                client.recommend([query()])
        assert str(port) in str(caught.value)

    def test_signatures_are_read_again_after_an_invalid_request(self, connect, server):
        client = connect()
        client.recommend([query()])
        client.recommend([query()])
        assert server.metadata_calls == 1
        server.failures.append(("INVALID_ARGUMENT", "another version"))
        with pytest.raises(InvalidRequestError):
            client.recommend([query()])
        client.recommend([query()])
        assert server.metadata_calls == 2


class TestDeadlines:
    def test_a_slow_answer_is_a_deadline_error(self, connect, server):
        client = connect()
        client.encode_query([query()])
        server.open_gate.clear()
        try:
            with pytest.raises(DeadlineError):
                client.encode_query([query()], deadline_s=0.2)
        finally:
            server.open_gate.set()
            wait_until(lambda: server.under_way == 0)

    def test_a_deadline_error_is_not_retried(self, connect, server):
        client = connect(retries=5)
        client.encode_query([query()])
        server.failures.append(("DEADLINE_EXCEEDED", "batch queue"))
        before = server.attempts
        with pytest.raises(DeadlineError):
            client.encode_query([query()])
        assert server.attempts == before + 1

    def test_retries_end_at_the_deadline(self, connect, server):
        client = connect(retries=RetryPolicy(1000, throttled=False))
        client.encode_query([query()])
        server.failures.extend([("UNAVAILABLE", "full")] * 1001)
        with pytest.raises((UnavailableError, DeadlineError)):
            client.encode_query([query()], deadline_s=0.3)
        # The bound of the pause doubles, so few retries fit into the deadline.
        assert len(server.failures) > 900


class TestRetries:
    def test_an_unavailable_request_is_sent_again(self, connect, server):
        server.failures.extend([("UNAVAILABLE", "full")] * 2)
        [got] = connect(retries=2).recommend([query()], k=1)
        assert got.item_ids == ITEMS[:1]
        assert server.attempts == 3

    @pytest.mark.parametrize(
        "failure",
        [
            ("CANCELLED", "CANCELLED"),
            ("RESOURCE_EXHAUSTED", "Server Threadpool Exhausted"),
            ("RESOURCE_EXHAUSTED", "Concurrent RPC limit exceeded!"),
            ("RESOURCE_EXHAUSTED", "The server is overloaded: 9 requests wait."),
        ],
    )
    def test_a_draining_or_full_server_is_unavailable(self, connect, server, failure):
        server.failures.append(failure)
        [got] = connect(retries=1).recommend([query()], k=1)
        assert got.item_ids == ITEMS[:1]
        assert server.attempts == 2
        server.failures.append(failure)
        with pytest.raises(UnavailableError) as caught:
            connect(retries=0).recommend([query()], k=1)
        assert (caught.value.code, caught.value.detail) == failure

    @pytest.mark.parametrize(
        ("code", "detail"),
        [
            ("INVALID_ARGUMENT", "no"),
            ("NOT_FOUND", "no"),
            ("INTERNAL", "no"),
            ("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 4)"),
            ("RESOURCE_EXHAUSTED", "OOM when allocating tensor"),
            ("RESOURCE_EXHAUSTED", "Bodies must have at most 9 bytes. Received: 12"),
        ],
    )
    def test_other_errors_are_not_retried(self, connect, server, code, detail):
        server.failures.append((code, detail))
        with pytest.raises(ServingError):
            connect(retries=3).recommend([query()])
        assert server.attempts == 1

    def test_the_budget_stops_retries_while_the_server_is_down(self, connect, server):
        client = connect(retries=1)
        client.encode_query([query()])
        before = server.attempts
        server.failures.extend([("UNAVAILABLE", "down")] * 100)
        for _ in range(20):
            with pytest.raises(UnavailableError):
                client.encode_query([query()])
        # Twenty calls; a full budget allows two retries.
        assert server.attempts - before == 22


class TestGrpcConnections:
    @pytest.mark.parametrize("kind", [Client, Blocking])
    def test_it_connects_over_a_link_with_a_long_round_trip(self, server, kind):
        """The server's half of the handshake arrives after 0.4 s."""

        def forward(connection, number):
            with socket.create_connection(("127.0.0.1", server.grpc_port)) as other:
                for source, sink in ((connection, other), (other, connection)):
                    copy = threading.Thread(target=pump, args=(source, sink))
                    copy.start()
                copy.join()

        def pump(source, sink):
            with contextlib.suppress(OSError):
                while piece := source.recv(65_536):
                    time.sleep(0.2)
                    sink.sendall(piece)
                sink.shutdown(socket.SHUT_RDWR)

        with scripted(forward) as port:
            endpoint = f"grpc://127.0.0.1:{port}"
            with kind(endpoint, "films", deadline_s=LONG_S, retries=0) as client:
                assert client.versions()[0].version == 7

    @pytest.mark.parametrize("kind", [Client, Blocking])
    def test_a_closed_client_refuses_calls(self, server, kind):
        endpoint = server.endpoints["grpc"]
        with kind(endpoint, "films", deadline_s=LONG_S, retries=3) as client:
            client.versions()
            client.close()
            for _ in range(2):
                with pytest.raises(ServingError, match="the client is closed") as got:
                    client.versions()
                assert got.value.code == "CANCELLED"

    def test_closing_a_client_ends_its_running_calls(self, server):
        async def call():
            client = AsyncClient(server.endpoints["grpc"], "films", deadline_s=LONG_S)
            await client.signatures()
            server.open_gate.clear()
            try:
                running = asyncio.create_task(client.encode_query([query()]))
                while not server.under_way:
                    await asyncio.sleep(0.01)
                await client.close()
                with pytest.raises(ServingError, match="the client is closed"):
                    await running
            finally:
                server.open_gate.set()
                wait_until(lambda: server.under_way == 0)

        asyncio.run(call())


class TestObservations:
    def test_latencies_are_recorded_by_signature_and_version(self, connect, server):
        client = connect()
        for _ in range(3):
            client.encode_query([query()])
        server.delay_s = 0.05
        client.recommend([query()])
        version = None if connect.rest else 7
        assert client.latency.keys() == {
            ("encode_query", version),
            ("recommend", version),
        }
        assert client.latency["encode_query", version].count == 3
        assert client.latency["recommend", version].max > 0.05

    def test_a_call_with_retries_has_one_latency(self, connect, server):
        client = connect(retries=1)
        client.encode_query([query()])
        server.failures.append(("UNAVAILABLE", "full"))
        client.encode_query([query()])
        [histogram] = client.latency.values()
        assert histogram.count == 2
        assert client.errors == {}


def answers(client):
    """The answer in a list, which is empty while there is no server."""
    try:
        return [client.encode_query([query()])]
    except UnavailableError:
        return []


class TestConnections:
    def test_rest_connections_are_reused(self, connect, server):
        if not connect.rest:
            pytest.skip("gRPC has one connection for all calls.")
        client = connect()
        for _ in range(5):
            client.encode_query([query()])
        server.failures.append(("INTERNAL", "no"))
        with pytest.raises(ServingError):
            client.encode_query([query()])
        client.encode_query([query()])
        assert len(server.connections) == 1

    def test_a_connection_that_the_server_closed_is_replaced(self, connect, server):
        if not connect.rest:
            pytest.skip("gRPC reconnects.")
        client = connect(retries=0)
        client.encode_query([query()])
        server.hang_up()
        client.encode_query([query()])
        assert len(server.connections) == 2

    def test_a_client_reconnects_after_the_server_was_restarted(self, connect):
        with serving() as first:
            kind = "rest" if connect.rest else "grpc"
            port = first.rest_port if connect.rest else first.grpc_port
            client = connect(endpoint=first.endpoints[kind])
            client.encode_query([query()])
        with pytest.raises((UnavailableError, DeadlineError)):
            client.encode_query([query()], deadline_s=0.5)
        with serving(**{f"{kind}_port": port}):
            [got] = wait_until(lambda: answers(client))
        assert got.values.tolist() == [[2.0, 30.0]]

    def test_threads_can_share_a_client(self, server):
        for protocol in ("grpc", "rest"):
            with Client(
                server.endpoints[protocol], "films", deadline_s=LONG_S
            ) as client:
                wrong = []

                def work(number, client=client, wrong=wrong):
                    for _ in range(10):
                        history = ["a"] * number
                        got = client.encode_query([query(history=history)])
                        if got.values[0, 0] != number:
                            wrong.append(got)

                threads = [threading.Thread(target=work, args=[n]) for n in range(6)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert wrong == []
                assert sum(h.count for h in client.latency.values()) == 60

    def test_async_calls_run_concurrently(self, server):
        async def eight(endpoint):
            async with AsyncClient(endpoint, "films", deadline_s=LONG_S) as client:
                await client.signatures()
                calls = [
                    client.encode_query([query(history=["a"] * n)]) for n in range(8)
                ]
                got = await asyncio.gather(*calls)
                return [each.values[0, 0] for each in got]

        for protocol in ("grpc", "rest"):
            # Every answer waits until four requests have arrived.
            server.barrier = threading.Barrier(4)
            got = asyncio.run(eight(server.endpoints[protocol]))
            assert got == list(range(8))
