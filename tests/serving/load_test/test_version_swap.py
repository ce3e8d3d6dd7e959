"""version_swap: a copy is published, watched and removed, even after errors."""

import threading

import pytest

from recdistill.atomic import locked_folder
from recdistill.errors import BusyError, NotAnExportError
from recdistill.serving.client.protocols import VersionStatus
from recdistill.serving.client.serving_errors import ServingError
from recdistill.serving.load_test.version_swap import staged_copy

pytestmark = pytest.mark.slow


@pytest.fixture
def export(tmp_path):
    for version in (6, 7):
        folder = tmp_path / "films" / str(version)
        folder.mkdir(parents=True)
        (folder / "saved_model.pb").write_text(f"version {version}")
    return tmp_path / "films"


class ServerStates:
    """Answers of a server to the question for its versions, one after another.

    Args:
        answers: States by version, or an error; the last one is repeated.
    """

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), 0
        self.all_given = threading.Event()

    def __call__(self):
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if self.asked == len(self.answers):
            self.all_given.set()
        if isinstance(answer, Exception):
            raise answer
        return [VersionStatus(v, state, "") for v, state in answer.items()]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def swapped(export, states):
    """The swap, ended after the server has given all its answers."""
    with staged_copy(export, states) as swap:
        swap.begin(0.0, 0.0)  # Due long ago on the clock of `time.monotonic`.
        states.all_given.wait()
        return swap.end(), names(export), (export / "8" / "saved_model.pb").read_text()


def test_a_complete_copy_of_the_latest_version_is_published_and_removed(export):
    swap, during, content = swapped(export, ServerStates({8: "AVAILABLE", 7: "END"}))
    assert swap.version == 8
    assert during == ["6", "7", "8"] and content == "version 7"
    assert names(export) == ["6", "7"]


def test_a_swap_ends_when_the_new_version_is_available_and_the_old_one_unloaded(export):
    states = ServerStates(
        {7: "AVAILABLE"},
        {7: "AVAILABLE", 8: "LOADING"},
        {7: "UNLOADING", 8: "AVAILABLE"},
        {6: "END", 7: "END", 8: "AVAILABLE"},
    )
    swap, _, _ = swapped(export, states)
    assert states.asked == 4
    assert swap.available_s >= swap.published_s


def test_a_server_that_cannot_answer_is_asked_again(export):
    busy = ServingError("DEADLINE_EXCEEDED", "busy", "The request", "grpc://a:1")
    states = ServerStates(busy, {8: "AVAILABLE"})
    swap, _, _ = swapped(export, states)
    assert states.asked == 2 and swap.available_s is not None


def test_a_version_that_is_not_loaded_by_the_end_has_no_time(export):
    swap, _, _ = swapped(export, ServerStates({7: "AVAILABLE", 8: "LOADING"}))
    assert (swap.version, swap.available_s) == (8, None)
    assert names(export) == ["6", "7"]


def test_a_test_that_ends_before_the_publication_has_no_swap(export):
    with staged_copy(export, ServerStates({7: "AVAILABLE"})) as swap:
        swap.begin(1e9, 0.0)
        assert swap.end() is None
        assert names(export) == [".staging-load-test-8", "6", "7"]
    assert names(export) == ["6", "7"]


def test_an_error_during_the_test_leaves_nothing_behind(export):
    states = ServerStates({8: "LOADING"})
    with pytest.raises(KeyError), staged_copy(export, states) as swap:
        swap.begin(0.0, 0.0)
        states.all_given.wait()
        raise KeyError
    swap.end()
    assert names(export) == ["6", "7"]


def test_a_folder_that_an_export_is_using_is_refused(export):
    with locked_folder(export), pytest.raises(BusyError):
        with staged_copy(export, list):
            pass
    assert names(export) == ["6", "7"]


def test_a_folder_without_versions_is_refused(tmp_path):
    with pytest.raises(NotAnExportError, match="numbered versions"):
        with staged_copy(tmp_path, list):
            pass
