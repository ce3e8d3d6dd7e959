"""A server that treats each connection as a test says, byte for byte."""

import contextlib
import json
import socket
import threading

STATUS = {"model_version_status": [{"version": "7", "state": "AVAILABLE"}]}


def http(content=STATUS, extra=b""):
    """A complete answer, followed by `extra`."""
    body = json.dumps(content).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body) + (
        extra
    )


@contextlib.contextmanager
def scripted(handle, host="127.0.0.1", port=0):
    """Runs `handle(connection, number)` for each connection, counted from 0.

    Yields:
        The port. An `OSError` in `handle` ends that connection; all connections are
        closed at the end.
    """
    stopped, connections = threading.Event(), []

    def run(connection, number):
        with contextlib.suppress(OSError), connection:
            handle(connection, number)

    def accept():
        while not stopped.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                thread = threading.Thread(
                    target=run, args=(connection, len(connections)), daemon=True
                )
                connections.append((connection, thread))
                thread.start()

    with socket.create_server((host, port)) as listener:
        listener.settimeout(0.02)
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stopped.set()
            accepting.join()
            for connection, thread in connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                thread.join()


def requests(connection):
    """Reads requests without a body, one for each round of the caller's loop."""
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            got = connection.recv(65_536)
            if not got:
                return
            received += got
        request, _, received = received.partition(b"\r\n\r\n")
        yield request
