"""child_process: a model that is late or ends, from the side of its parent."""

import fcntl
import os
import resource
import subprocess
import sys
import tempfile
import threading

import numpy as np
import pytest

from recdistill.errors import TeacherError
from recdistill.teachers import child_process
from recdistill.teachers.child_process import ChildProcess

pytestmark = pytest.mark.slow

LATE = """
import sys, time
print("still thinking", file=sys.stderr, flush=True)
time.sleep(600)
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    path = tmp_path / "script.py"
    monkeypatch.setattr("recdistill.teachers.model_process.__file__", str(path))
    return path


@pytest.fixture
def child():
    """A process that neither reads nor answers."""
    child = object.__new__(ChildProcess)
    child._label, child._lock = "model", threading.Lock()
    child._stderr = tempfile.TemporaryFile()
    child._process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    yield child
    child_process._stop(child._process, child._stderr)


def test_a_process_that_is_late_is_ended_with_its_last_words(script, monkeypatch):
    script.write_text(LATE)
    monkeypatch.setattr(child_process, "START_S", 3.0)
    with pytest.raises(TeacherError, match=r"not answer within 3 s(.*\n)+still think"):
        ChildProcess("late", {}, load_s=1.0)


def test_a_process_that_does_not_read_is_late(child, monkeypatch):
    monkeypatch.setattr(child_process, "SCORE_S", 0.5)
    with pytest.raises(TeacherError, match=r"did not answer within 0\.5 s"):
        child.scores({"x": np.zeros(100_000)})  # More than a pipe holds.
    assert child._process.wait(10) == -9


def test_after_an_interrupted_call_no_other_gets_its_answer(child, monkeypatch):
    def interrupted(self, size):
        raise KeyboardInterrupt

    monkeypatch.setattr(child_process._Deadline, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        child.scores({"x": np.zeros(2)})
    monkeypatch.undo()
    with pytest.raises(TeacherError, match="its process ended with signal SIGKILL"):
        child.scores({"x": np.zeros(2)})


def test_a_pipe_with_a_high_descriptor_can_be_read():
    reading, writing = os.pipe()
    low, high = resource.getrlimit(resource.RLIMIT_NOFILE)
    if high != resource.RLIM_INFINITY and high < 1_200:
        pytest.skip("the system allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(low, 1_200), high))
    moved = fcntl.fcntl(reading, fcntl.F_DUPFD, 1_100)
    try:
        os.write(writing, b"ready")
        deadline = child_process._Deadline(moved, 5.0)
        assert deadline.read(5) == b"ready"
        late = child_process._Deadline(moved, 0.01)
        with pytest.raises(TimeoutError):
            late.read(1)
    finally:
        for each in (reading, writing, moved):
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (low, high))


def test_the_signal_that_ended_a_process_is_named(script):
    script.write_text("import os\nos.abort()\n")
    with pytest.raises(TeacherError, match=r"late could not be .* signal SIGABRT"):
        ChildProcess("late", {}, load_s=1.0)
