"""child_process: a model that is late or ends, from the side of its parent."""

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


def test_a_process_that_is_late_is_ended_with_its_last_words(script, monkeypatch):
    script.write_text(LATE)
    monkeypatch.setattr(child_process, "START_S", 3.0)
    with pytest.raises(TeacherError, match=r"not answer within 3 s(.*\n)+still think"):
        ChildProcess("late", {}, load_s=1.0)


def test_the_signal_that_ended_a_process_is_named(script):
    script.write_text("import os\nos.abort()\n")
    with pytest.raises(TeacherError, match=r"late could not be .* signal SIGABRT"):
        ChildProcess("late", {}, load_s=1.0)
