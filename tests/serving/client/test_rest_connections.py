"""REST connections of both clients: deadlines, reuse, invalid answers and closing."""

import asyncio
import contextlib
import math
import socket
import subprocess
import sys
import threading

import pytest

from recdistill.serving import (
    AsyncClient,
    Client,
    DeadlineError,
    ServingError,
    UnavailableError,
)
from tests.serving.scripted_server import STATUS, http, requests, scripted
from tests.serving.waiting import LONG_S, wait_until

pytestmark = pytest.mark.slow


class Waiting:
    """Calls `versions` of an `AsyncClient` from the outside."""

    def __init__(self, *arguments, **options):
        self.client = AsyncClient(*arguments, **options)
        self.loop = asyncio.new_event_loop()

    def versions(self, **options):
        return self.loop.run_until_complete(self.client.versions(**options))

    def close(self):
        self.loop.run_until_complete(self.client.close())

    def end(self):
        self.close()
        self.loop.close()


@pytest.fixture(params=[Client, Waiting], ids=["blocking", "async"])
def connect(request):
    """Creates clients of one kind that do not retry, and closes them."""
    made = []

    def connect(port, host="127.0.0.1", scheme="http", **options):
        options = {"deadline_s": LONG_S, "retries": 0, **options}
        made.append(request.param(f"{scheme}://{host}:{port}", "films", **options))
        return made[-1]

    yield connect
    for client in made:
        getattr(client, "end", client.close)()


def answering(connection, number):
    for _ in requests(connection):
        connection.sendall(http())


def number_of(statuses):
    return [each.version for each in statuses]


class TestDeadline:
    @pytest.mark.parametrize(
        ("start", "piece"),
        [
            (b"", b" "),
            (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n", b" "),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        ],
        ids=["nothing", "headers", "body", "chunks"],
    )
    def test_it_ends_an_answer_that_arrives_byte_by_byte(self, connect, start, piece):
        over = threading.Event()

        def drip(connection, number):
            connection.sendall(start)
            while not over.wait(0.02):
                connection.sendall(piece)

        with scripted(drip) as port:
            with pytest.raises(DeadlineError, match="timed out"):
                connect(port).versions(deadline_s=0.2)
            over.set()

    def test_it_ends_a_tls_handshake_with_each_of_several_addresses(
        self, connect, monkeypatch
    ):
        found = [(0, 0, 0, "", (f"127.0.0.{n}", 0)) for n in range(1, 6)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: found)
        silent = threading.Event()
        with scripted(lambda *_: silent.wait(), host="0.0.0.0") as port:
            client = connect(port, "several.test", "https")
            with pytest.raises(DeadlineError):
                client.versions(deadline_s=0.3)
            silent.set()

    def test_it_ends_the_look_up_of_a_name(self, connect, monkeypatch):
        answered = threading.Event()
        here = [(0, 0, 0, "", ("127.0.0.1", 0))]
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda *a, **k: answered.wait(LONG_S) and here
        )
        with scripted(answering) as port:
            client = connect(port, "slow.test")
            with pytest.raises(DeadlineError):
                client.versions(deadline_s=0.1)
            answered.set()
            assert number_of(client.versions()) == [7]

    def test_infinity_is_no_deadline(self, connect):
        with scripted(answering) as port:
            client = connect(port, deadline_s=math.inf)
            assert number_of(client.versions()) == [7]
            assert number_of(client.versions(deadline_s=math.inf)) == [7]

    def test_an_address_that_does_not_answer_leaves_time_for_the_next(
        self, connect, monkeypatch
    ):
        found = [(0, 0, 0, "", (host, 0)) for host in ("127.0.0.2", "127.0.0.1")]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: found)
        with (
            scripted(answering) as port,
            socket.socket() as full,
            contextlib.ExitStack() as waiting,
        ):
            full.bind(("127.0.0.2", port))
            full.listen(0)
            # The queue is full then, and the system ignores further connections.
            for _ in range(3):
                caller = waiting.enter_context(socket.socket())
                caller.setblocking(False)
                caller.connect_ex(("127.0.0.2", port))
            client = connect(port, "two.test")
            assert number_of(client.versions(deadline_s=4.0)) == [7]


class TestReuse:
    def test_bytes_after_an_answer_are_not_the_next_answer(self, connect):
        """Whether they come with the answer or after it."""
        wrong = http({"model_version_status": [{"version": "9", "state": "END"}]})
        late, sent = threading.Event(), threading.Event()

        def handle(connection, number):
            for _ in requests(connection):
                if number == 0:
                    connection.sendall(http(extra=wrong))
                    continue
                connection.sendall(http())
                if number == 1 and late.wait(LONG_S):
                    connection.sendall(wrong)
                    sent.set()

        with scripted(handle) as port:
            client = connect(port)
            assert number_of(client.versions()) == [7]
            assert number_of(client.versions()) == [7]
            late.set()
            sent.wait(LONG_S)
            assert number_of(client.versions()) == [7]

    def test_a_request_is_sent_once_if_the_connection_breaks(self, connect):
        seen = []

        def handle(connection, number):
            for _ in requests(connection):
                seen.append(number)
                if len(seen) == 2:
                    return
                connection.sendall(http())

        with scripted(handle) as port:
            client = connect(port)
            client.versions()
            with pytest.raises(UnavailableError, match="closed the connection"):
                client.versions()
            assert seen == [0, 0]
            client.versions()
            assert seen == [0, 0, 1]

    @pytest.mark.parametrize(
        "last", [b"Connection: close\r\n", b"Transfer-Encoding: chunked\r\n"]
    )
    def test_a_connection_is_kept_only_if_the_answer_allows_it(self, connect, last):
        body = b'{"model_version_status": [{"version": "7", "state": "AVAILABLE"}]}'
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(body) + last
        if b"chunked" in last:  # With a length too, the end is not certain.
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        used = []

        def handle(connection, number):
            for _ in requests(connection):
                used.append(number)
                connection.sendall(head + b"\r\n" + body)

        with scripted(handle) as port:
            client = connect(port)
            for _ in range(2):
                assert number_of(client.versions()) == [7]
        assert used == [0, 1]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00@\x00\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 OK 200\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n0123456789",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}??0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + 70_000 * b"y",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\xff\xfe\x00\x00",
        b"HTTP/1.1 200 OK\r\n\r\n" + 100_000 * b"[",
        b"HTTP/1.1 500 No\r\n\r\n" + 100_000 * b"[",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /v2\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_an_invalid_answer_is_a_serving_error(connect, answer):
    def handle(connection, number):
        connection.recv(65_536)
        connection.sendall(answer)

    with scripted(handle) as port, pytest.raises(ServingError):
        connect(port).versions()


@pytest.mark.parametrize(
    "host", ["no such host.test", "a" * 300, "x..y", "größe.invalid"]
)
def test_a_name_without_an_address_is_unavailable(connect, monkeypatch, host):
    real = socket.getaddrinfo

    def offline(name, *arguments, **options):
        name.encode("idna")  # As the system's function does first.
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    with pytest.raises(UnavailableError):
        connect(1, host).versions()
    assert real is not socket.getaddrinfo


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:%d\r\n\r\n%s",
        b"HTTP/1.1 200\r\nContent-Length: %d\r\ncontent-length: 66\r\n\r\n%s",
        b"HTTP/1.0 200 OK\r\nX: %d\r\n\r\n%s",
    ],
)
def test_a_valid_but_unusual_answer_is_read(connect, head):
    body = b'{"model_version_status": [{"version": "7", "state": "AVAILABLE"}]}'
    assert len(body) == 66

    def handle(connection, number):
        connection.recv(65_536)
        connection.sendall(head % (len(body), body))

    with scripted(handle) as port:
        assert number_of(connect(port).versions()) == [7]


def test_chunks_and_trailers_are_read(connect):
    pieces = [b'{"model_version_status"', b': [{"version": "7", ', b'"state": "END"}]}']
    chunks = b"".join(b"%X;a=b\r\n%s\r\n" % (len(p), p) for p in pieces)

    def handle(connection, number):
        for _ in requests(connection):
            head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
            connection.sendall(head + chunks + b"0\r\nX: y\r\n\r\n")

    with scripted(handle) as port:
        client = connect(port)
        for _ in range(2):
            [status] = client.versions()
            assert (status.version, status.state) == (7, "END")


class TestClosing:
    def test_a_closed_client_refuses_calls(self, connect):
        with scripted(answering) as port:
            client = connect(port, retries=3)
            client.versions()
            client.close()
            for _ in range(2):
                with pytest.raises(ServingError, match="the client is closed") as got:
                    client.versions()
                assert got.value.code == "CANCELLED"

    def test_closing_a_client_ends_its_running_calls(self):
        arrived, over = threading.Event(), threading.Event()

        def handle(connection, number):
            connection.recv(65_536)
            arrived.set()
            over.wait(LONG_S)

        with scripted(handle) as port:
            client = Client(f"http://127.0.0.1:{port}", "films", deadline_s=LONG_S)
            failed = []

            def call():
                try:
                    client.versions()
                except ServingError as error:
                    failed.append(error.detail)

            thread = threading.Thread(target=call)
            thread.start()
            arrived.wait(LONG_S)
            client.close()
            thread.join(LONG_S)
            assert failed == ["the client is closed"]
            over.set()

    def test_a_deleted_client_closes_its_connections(self):
        ended = threading.Event()

        def handle(connection, number):
            answering(connection, number)
            ended.set()

        with scripted(handle) as port:
            client = Client(f"http://127.0.0.1:{port}", "films", deadline_s=LONG_S)
            client.versions()
            del client
            assert wait_until(ended.is_set)


FORK = """
import os, sys
from recdistill.serving import Client

client = Client(sys.argv[1], "films", deadline_s=60.0)
client.versions()
child = os.fork()
client.versions()
if child:
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(0)
"""


def test_a_forked_process_can_use_the_client():
    used = set()

    def handle(connection, number):
        for _ in requests(connection):
            used.add(number)
            connection.sendall(http(STATUS))

    with scripted(handle) as port:
        command = [sys.executable, "-c", FORK, f"http://127.0.0.1:{port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONG_S)
    assert done.returncode == 0, done.stderr
    # Parent and child do not share a connection.
    assert used == {0, 1}
