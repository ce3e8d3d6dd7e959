"""A group of processes in a ring, which exchange arrays over TCP."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

LENGTH = struct.Struct("<Q")
"""Number of bytes of a message, which comes before it."""


class LostWorkerError(ConnectionError):
    """A process of the group that ended."""


class WorkerGroup:
    """A ring of processes: each receives from the one before it and sends to the next.

    Sums take two rounds, each over one part of the array per process, so that the
    traffic of a process does not grow with the number of processes (ring all-reduce).

    Args:
        rank: Number of this process, from 0.
        listening: A listening socket of this process.
        addresses: Host and port of the listening socket of each process.
        token: 32 bytes that the processes of this group, and no others, know.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
        broken: Whether a connection was lost.

    Raises:
        LostWorkerError: If another process cannot be reached.
    """

    def __init__(
        self,
        rank: int,
        listening: socket.socket,
        addresses: Sequence[tuple[str, int]],
        token: bytes,
    ) -> None:
        self.rank, self.size, self.broken = rank, len(addresses), False
        # A process sends and receives at the same time, or large arrays would block.
        self._sender = ThreadPoolExecutor(1)
        try:
            self._next = socket.create_connection(addresses[(rank + 1) % self.size])
            self._next.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._next.sendall(token)
            self._previous = _accepted(listening, token)
        except OSError as error:
            raise LostWorkerError(f"A worker cannot be reached: {error}") from error
        finally:
            listening.close()

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum over all processes of a flat array, the same bytes in all.

        Raises:
            LostWorkerError: If another process ended.
        """
        parts = np.array_split(values, self.size)
        for step in range(self.size - 1):
            mine, other = self.rank - step, self.rank - step - 1
            received = self._passed(parts[mine % self.size].tobytes())
            place = other % self.size
            parts[place] = parts[place] + np.frombuffer(received, values.dtype)
        for step in range(self.size - 1):
            mine, other = self.rank - step + 1, self.rank - step
            received = self._passed(parts[mine % self.size].tobytes())
            parts[other % self.size] = np.frombuffer(received, values.dtype)
        return np.concatenate(parts)

    def gather(self, values: np.ndarray) -> list[np.ndarray]:
        """The arrays of all processes in the order of rank; first axes may differ.

        Raises:
            LostWorkerError: If another process ended.
        """
        found = {self.rank: values}
        content = np.ascontiguousarray(values).tobytes()
        for step in range(1, self.size):
            content = self._passed(content)
            array = np.frombuffer(content, values.dtype)
            found[(self.rank - step) % self.size] = array.reshape(-1, *values.shape[1:])
        return [found[rank] for rank in range(self.size)]

    def close(self) -> None:
        """Closes the connections."""
        self._sender.shutdown(wait=False)
        self._next.close()
        self._previous.close()

    def _passed(self, content: bytes) -> bytes:
        """Sends to the next process and receives from the previous one."""
        try:
            message = LENGTH.pack(len(content)) + content
            sending = self._sender.submit(self._next.sendall, message)
            (length,) = LENGTH.unpack(_received(self._previous, LENGTH.size))
            received = _received(self._previous, length)
            sending.result()
        except OSError as error:
            self.broken = True
            # The others learn of it, one after the other.
            self.close()
            raise LostWorkerError(f"A worker was lost: {error}") from error
        return received


def listening_socket(host: str) -> socket.socket:
    """A listening socket on a free port."""
    return socket.create_server((host, 0), backlog=8)


def _accepted(listening: socket.socket, token: bytes) -> socket.socket:
    """The connection of the previous process; others are closed."""
    while True:
        connection, _ = listening.accept()
        connection.settimeout(60)
        try:
            known = _received(connection, len(token)) == token
        except OSError:
            known = False
        if known:
            # A peer may validate or save for as long as it takes.
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return connection
        connection.close()


def _received(connection: socket.socket, length: int) -> bytes:
    found = bytearray(length)
    view = memoryview(found)
    while len(view):
        count = connection.recv_into(view)
        if not count:
            raise LostWorkerError("the connection was closed")
        view = view[count:]
    return bytes(found)
