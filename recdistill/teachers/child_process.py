"""A model in a child process, which may crash or block without affecting this process.

The child runs `recdistill.teachers.model_process`. Each answer has a deadline, and the
error for a child that ended or is late has its last lines of output.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from recdistill.errors import TeacherError
from recdistill.teachers import model_process
from recdistill.teachers.model_process import (
    ERROR,
    HELLO,
    READY,
    SCORES,
    read_frame,
    write_frame,
)

LAST_BYTES = 2_000
"""Number of bytes of the child process's output in an error message."""

_PIPE_BYTES = 1 << 16
"""Bytes that a pipe is given at once."""

START_S, SCORE_S = 300.0, 300.0
"""Deadlines for the import of the packages, and for the scores of one chunk."""


class ChildProcess:
    """Process that loads one model and scores with it.

    Args:
        label: Name of the model in error messages.
        settings: Settings of the process.
        load_s: Deadline for loading the model, in seconds.
        environment: Additional environment variables.

    Raises:
        TeacherError: If the model cannot be loaded; the message has the last lines of
            output of the process.

    Attributes:
        hello: The model's description.
    """

    def __init__(
        self,
        label: str,
        settings: Mapping[str, Any],
        load_s: float,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._label = label
        self._stderr = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-P", model_process.__file__, json.dumps(settings)],
            env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
        )
        self._close = weakref.finalize(self, _stop, self._process, self._stderr)
        self._lock = threading.Lock()
        self._read(READY, "could not be loaded", START_S)
        hello = self._read(HELLO, "could not be loaded", load_s)
        self.hello: dict[str, Any] = json.loads(hello.item())

    def scores(self, inputs: Mapping[str, np.ndarray]) -> Any:
        """Scores of one chunk.

        Raises:
            TeacherError: If the model fails, the process ends, or it is late.
        """
        with self._lock:
            try:
                self._send(inputs, "failed", SCORE_S)
                return self._read(SCORES, "failed", SCORE_S)
            except TeacherError:
                raise
            except BaseException:
                # An interrupted call leaves its answer in the pipe, where the next one
                # would take it for its own.
                self._process.kill()
                raise

    def _send(
        self, inputs: Mapping[str, np.ndarray], what: str, deadline_s: float
    ) -> None:
        stdin = self._process.stdin
        if stdin is None or stdin.closed:
            return  # `_read` reports it.
        frame = io.BytesIO()
        write_frame(frame, {k: _sendable(v) for k, v in inputs.items()})
        try:
            _Deadline(stdin.fileno(), deadline_s).write(frame.getbuffer())
        except TimeoutError:
            raise self._late(what, deadline_s) from None
        except OSError:
            return  # The process has ended; `_read` reports its last lines.

    def _late(self, what: str, deadline_s: float) -> TeacherError:
        """Ends the process, and returns the error about its missing answer."""
        self._process.kill()
        return TeacherError(
            f"The teacher {self._label} {what}: its process did not answer "
            f"within {deadline_s:g} s. Its last lines:\n{self._last_lines()}"
        )

    def close(self) -> None:
        """Ends the process."""
        self._close()

    def _read(self, key: str, what: str, deadline_s: float) -> np.ndarray:
        stdout = self._process.stdout
        answer = None
        if stdout is not None and not stdout.closed:
            try:
                answer = read_frame(_Deadline(stdout.fileno(), deadline_s))
            except TimeoutError:
                raise self._late(what, deadline_s) from None
        if answer is None:
            raise TeacherError(
                f"The teacher {self._label} {what}: its process ended with "
                f"{self._status()}. Its last lines:\n{self._last_lines()}"
            )
        if ERROR in answer:
            trace = answer[ERROR].item().decode().strip()
            raise TeacherError(
                f"The teacher {self._label} {what}: {trace.splitlines()[-1]}"
            )
        return answer[key]

    def _status(self) -> str:
        """Exit status or signal of the process, in words."""
        try:
            status = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "no exit status"
        if status < 0:
            return f"signal {signal.Signals(-status).name}"
        return f"exit status {status}"

    def _last_lines(self) -> str:
        if self._stderr.closed:
            return "(closed)"
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - LAST_BYTES))
        return self._stderr.read().decode(errors="replace").strip() or "(none)"


class _Deadline:
    """Reads or writes a pipe; all calls together must end before the deadline."""

    def __init__(self, descriptor: int, seconds: float) -> None:
        self._descriptor = descriptor
        self._end = time.monotonic() + seconds

    def write(self, content: memoryview) -> None:
        """Writes all of the content.

        Raises:
            TimeoutError: If the deadline has passed.
            OSError: If the pipe is closed at its other end.
        """
        # A blocking pipe would wait until all is written.
        os.set_blocking(self._descriptor, False)
        while content:
            self._wait(select.POLLOUT)
            content = content[os.write(self._descriptor, content[:_PIPE_BYTES]) :]

    def read(self, size: int, /) -> bytes:
        """Reads `size` bytes, or less at the end of the pipe.

        Raises:
            TimeoutError: If the deadline has passed.
        """
        parts, missing = [], size
        while missing > 0:
            self._wait(select.POLLIN)
            part = os.read(self._descriptor, min(missing, 1 << 20))
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _wait(self, event: int) -> None:
        # Unlike `select`, it takes descriptors above 1,023.
        poll = select.poll()
        poll.register(self._descriptor, event)
        left = max(0.0, self._end - time.monotonic())
        if not poll.poll(1e3 * left):
            raise TimeoutError("The deadline has passed.")


def _stop(process: subprocess.Popen[bytes], stderr: IO[bytes]) -> None:
    """Closes the pipes, which ends the process, and waits for it."""
    for stream in (process.stdin, process.stdout, stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _sendable(values: np.ndarray) -> np.ndarray:
    """Text as fixed-width UTF-8 bytes for a frame."""
    if values.dtype.kind not in "OU":
        return values
    return np.char.encode(values.astype(str), "utf-8")
