"""The workspace: artefacts are written atomically and found by their inputs."""

import hashlib
import os

import pytest

from recdistill.atomic import fingerprint, write_sealed
from recdistill.errors import ArtefactError
from recdistill.pipeline.artefacts import workspace as workspace_module
from recdistill.pipeline.artefacts.artefact import Artefact
from recdistill.pipeline.artefacts.workspace import (
    CLOCK,
    KEPT_SECONDS,
    Workspace,
    earlier_seconds,
)
from recdistill.pipeline.engine import LocalEngine


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "run")


def make(workspace, inputs=None, content="whole", **kwargs) -> Artefact:
    with workspace.produce("step", inputs or {"a": 1}, **kwargs) as draft:
        if draft.done is None:
            (draft.path / "file").write_text(content)
            draft.record = {"said": content}
    return draft.artefact()


def names(workspace):
    return sorted(path.name for path in workspace.root.iterdir())


def test_an_artefact_is_published_under_its_key_with_its_record(workspace):
    artefact = make(workspace)
    assert artefact.path.name == f"step-{artefact.key[:12]}"
    assert (artefact.path / "file").read_text() == "whole"
    assert artefact.record["said"] == "whole"
    assert artefact.record["key"] == artefact.key
    assert artefact.record["seconds"] >= 0
    assert not artefact.reused
    assert names(workspace) == [artefact.path.name]


def test_equal_inputs_reuse_the_artefact(workspace):
    first = make(workspace)
    before = (first.path / "file").stat().st_mtime_ns
    again = make(workspace, content="another")
    assert again.reused
    assert (again.path, again.record) == (first.path, first.record)
    assert (first.path / "file").read_text() == "whole"
    assert (first.path / "file").stat().st_mtime_ns == before


def test_other_inputs_steps_and_versions_have_other_keys(workspace, monkeypatch):
    keys = [make(workspace, inputs).key for inputs in ({"a": 1}, {"a": 2}, {"b": 1})]
    with workspace.produce("other", {"a": 1}) as draft:
        keys.append(draft.key)
    monkeypatch.setattr("recdistill.pipeline.artefacts.workspace.__version__", "other")
    keys.append(make(workspace).key)
    assert len(set(keys)) == 5


def test_the_order_of_keys_does_not_change_a_fingerprint():
    one, other = {"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})


def test_a_failed_step_keeps_its_files_for_the_next_attempt(
    workspace,
):
    with pytest.raises(KeyError), workspace.produce("step", {"a": 1}) as draft:
        (draft.path / "half").write_text("half")
        raise KeyError
    assert [name for name in names(workspace) if not name.startswith(".")] == []
    with workspace.produce("step", {"a": 1}) as draft:
        assert draft.done is None
        assert (draft.path / "half").read_text() == "half"
    assert (draft.artefact().path / "half").exists()


def attempt_at(monkeypatch, folder, second):
    monkeypatch.setattr(workspace_module.time, "time", lambda: float(second))
    return earlier_seconds(folder)


def written_at(path, second):
    path.parent.mkdir(exist_ok=True)
    path.write_text("content")
    os.utime(path, (second, second))


def test_seconds_of_killed_attempts_count_until_their_last_file(tmp_path, monkeypatch):
    assert attempt_at(monkeypatch, tmp_path, 1_000) == 0
    written_at(tmp_path / "one", 1_030)
    written_at(tmp_path / "folder" / "two", 1_070)
    assert attempt_at(monkeypatch, tmp_path, 2_000) == 70
    # An attempt that wrote nothing adds nothing, and loses nothing.
    assert attempt_at(monkeypatch, tmp_path, 3_000) == 70
    written_at(tmp_path / "three", 3_005)
    assert attempt_at(monkeypatch, tmp_path, 4_000) == 75


def test_a_damaged_clock_counts_from_now(tmp_path, monkeypatch):
    (tmp_path / CLOCK).write_text("[70")
    assert attempt_at(monkeypatch, tmp_path, 1_000) == 0
    written_at(tmp_path / "one", 1_030)
    assert attempt_at(monkeypatch, tmp_path, 2_000) == 30


def test_an_attempt_that_was_killed_before_the_renaming_can_be_continued(
    workspace, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(workspace_module.os, "rename", dying)
        with pytest.raises(KeyboardInterrupt):
            make(workspace)
    artefact = make(workspace, content="of the next attempt")
    artefact.verify()
    assert list(artefact.record["sha256"]) == ["file"]


def dying(*paths):
    raise KeyboardInterrupt


def test_the_record_has_the_seconds_of_all_attempts_and_no_clock(workspace):
    with workspace.produce("step", {"a": 1}) as draft:
        draft.earlier = 70 + earlier_seconds(draft.path)
    record = draft.artefact().record
    assert 70 <= record["seconds"] < 100
    assert CLOCK not in record["sha256"]
    draft.artefact().verify()


def test_restart_removes_the_files_of_a_stopped_attempt(workspace):
    with pytest.raises(KeyError), workspace.produce("step", {"a": 1}) as draft:
        (draft.path / "half").write_text("half")
        raise KeyError
    with workspace.produce("step", {"a": 1}) as draft:
        draft.restart()
        assert list(draft.path.iterdir()) == []
    assert not (draft.artefact().path / "half").exists()


def test_a_draft_is_not_an_artefact_before_it_is_published(workspace):
    with workspace.produce("step", {"a": 1}) as draft:
        with pytest.raises(RuntimeError, match="is not published yet"):
            draft.artefact()
        assert not draft.final.exists()
    assert draft.artefact().path.is_dir()


def test_an_invalid_artefact_is_written_again(workspace):
    make(workspace)
    again = make(workspace, content="new", valid=lambda artefact: False)
    assert not again.reused
    assert (again.path / "file").read_text() == "new"
    kept = make(workspace, content="newer", valid=lambda a: a.record["said"] == "new")
    assert kept.reused


def test_a_partly_removed_artefact_is_written_again(workspace, monkeypatch):
    first = make(workspace)
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    with (
        pytest.raises(KeyError),
        workspace.produce("step", {"a": 1}, lambda artefact: False),
    ):
        raise KeyError
    monkeypatch.undo()
    assert (first.path / "file").exists()  # the removal did nothing
    again = make(workspace, content="new")
    assert not again.reused
    assert (again.path / "file").read_text() == "new"


def test_a_shared_artefact_of_another_run_is_used_from_there(tmp_path):
    one, two = Workspace(tmp_path / "one"), Workspace(tmp_path / "two")
    first = make(one)
    again = make(two, content="another", shared=True)
    assert again.reused
    assert (again.path, again.record) == (first.path, first.record)
    assert names(two) == []
    other = make(two, {"a": 2}, shared=True)
    assert not other.reused
    assert other.path.parent == two.root


def test_an_artefact_that_is_not_shared_is_written_in_every_run(tmp_path):
    make(Workspace(tmp_path / "one"))
    second = make(Workspace(tmp_path / "two"))
    assert not second.reused
    assert second.path.parent == tmp_path / "two"


def test_an_unfinished_artefact_is_not_shared(tmp_path):
    one, two = Workspace(tmp_path / "one"), Workspace(tmp_path / "two")
    with pytest.raises(OSError), one.produce("step", {"a": 1}) as draft:
        (draft.path / "file").write_text("half")
        raise OSError
    assert make(two, shared=True).path.parent == two.root


def test_a_folder_with_the_same_name_and_another_key_is_not_used(tmp_path):
    one, two = Workspace(tmp_path / "one"), Workspace(tmp_path / "two")
    first = make(one)
    record = first.record | {"key": first.key[:12] + "0" * 52}
    write_sealed(first.path / "record.json", record)
    assert make(two, shared=True).path.parent == two.root


NOW = 10 * KEPT_SECONDS


class TestUnfinishedFolders:
    """What killed attempts left, for steps whose settings have changed since."""

    @pytest.fixture(autouse=True)
    def today(self, monkeypatch):
        monkeypatch.setattr(workspace_module.time, "time", lambda: NOW)

    @staticmethod
    def left(workspace, name, age=KEPT_SECONDS + 1.0):
        """A folder whose file and whose own last changes are so many seconds old."""
        folder = workspace.root / name
        (folder / "inner").mkdir(parents=True)
        written_at(folder / "inner" / "file", NOW - age)
        for each in (folder / "inner", folder):
            os.utime(each, (NOW - age, NOW - age))
        return folder

    @pytest.mark.parametrize(
        "name",
        [".partial-step-0123456789ab", ".training-step-0a", ".fetched/step-0a"],
    )
    def test_old_ones_are_removed_when_the_step_is_finished(self, workspace, name):
        old = self.left(workspace, name)
        recent = self.left(workspace, f"{name}1", age=KEPT_SECONDS)
        artefact = make(workspace)
        assert not old.exists()
        assert (recent / "inner" / "file").exists()
        assert (artefact.path / "file").exists()

    def test_old_ones_are_removed_when_the_step_is_skipped(self, workspace):
        make(workspace)
        old = self.left(workspace, ".partial-step-0a")
        assert make(workspace).reused
        assert not old.exists()

    def test_one_that_another_process_writes_is_kept(self, workspace):
        folder = self.left(workspace, ".partial-step-0a")
        os.utime(folder / "inner" / "file", (NOW, NOW))
        make(workspace)
        assert folder.exists()

    def test_those_of_other_steps_and_runs_are_kept(self, workspace, tmp_path):
        other = Workspace(tmp_path / "other")
        kept = [
            self.left(workspace, ".partial-steps-0a"),
            self.left(other, ".partial-step-0a"),
        ]
        make(other)
        kept[1] = self.left(other, ".partial-step-0a")
        assert make(workspace, shared=True).path.parent == other.root
        assert all(each.exists() for each in kept)

    def test_they_are_kept_if_the_step_fails(self, workspace):
        old = self.left(workspace, ".partial-step-0a")
        with pytest.raises(KeyError), workspace.produce("step", {"a": 1}):
            raise KeyError
        assert old.exists()

    def test_an_old_attempt_with_the_same_settings_is_continued(self, workspace):
        with pytest.raises(KeyError), workspace.produce("step", {"a": 1}) as draft:
            raise KeyError
        draft.path.rmdir()
        self.left(workspace, draft.path.name)
        assert (make(workspace).path / "inner" / "file").exists()

    def test_states_of_a_killed_training_are_removed(self, workspace):
        class Killed:
            name = "step"

            def work(self, run, draft):
                raise KeyboardInterrupt

        with (
            pytest.raises(KeyboardInterrupt),
            workspace.produce("step", {"a": 2}) as draft,
        ):
            LocalEngine().train(Killed(), None, draft)
        assert len(names(workspace)) == 2
        for path in workspace.root.rglob("*"):
            os.utime(path, (0, 0))
        artefact = make(workspace)
        assert names(workspace) == [artefact.path.name]

    def test_one_that_cannot_be_removed_does_not_stop_the_run(
        self, workspace, monkeypatch
    ):
        make(workspace)
        self.left(workspace, ".partial-step-0a")

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("shutil.rmtree", refuse)
        assert make(workspace).reused


class TestDamagedFiles:
    @pytest.fixture
    def artefact(self, workspace):
        with workspace.produce("step", {"a": 1}) as draft:
            (draft.path / "inner").mkdir()
            (draft.path / "inner" / "rows").write_bytes(b"many rows")
            (draft.path / "empty").write_bytes(b"")
        return draft.artefact()

    def test_the_record_has_the_sha_256_of_each_file(self, artefact):
        assert artefact.record["sha256"] == {
            "empty": hashlib.sha256(b"").hexdigest(),
            "inner/rows": hashlib.sha256(b"many rows").hexdigest(),
        }
        artefact.verify()
        assert artefact.file("inner/rows").read_bytes() == b"many rows"

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            (lambda rows: rows.write_bytes(b"manY rows"), "'inner/rows' is damaged"),
            (lambda rows: rows.write_bytes(b"many row"), "'inner/rows' is damaged"),
            (lambda rows: rows.write_bytes(b""), "'inner/rows' is damaged"),
            (lambda rows: rows.unlink(), "'inner/rows' is missing"),
            (lambda rows: rows.with_name("b").touch(), "'inner/b' does not belong"),
        ],
    )
    def test_a_damaged_file_is_named_with_the_step_that_writes_it(
        self, artefact, change, fault
    ):
        change(artefact.path / "inner" / "rows")
        with pytest.raises(ArtefactError, match=fault) as error:
            artefact.verify()
        assert str(artefact.path) in str(error.value)
        assert "run the step `step` again" in str(error.value)

    def test_one_file_is_verified_alone(self, artefact):
        (artefact.path / "empty").unlink()
        artefact.file("inner/rows")
        with pytest.raises(ArtefactError, match="'empty' is missing"):
            artefact.file("empty")
        (artefact.path / "inner" / "rows").write_bytes(b"other rows")
        with pytest.raises(ArtefactError, match="'inner/rows' is damaged"):
            artefact.file("inner/rows")

    def test_each_changed_byte_of_the_record_is_noticed(self, artefact, workspace):
        path = artefact.path / "record.json"
        whole = path.read_bytes()
        for place in range(len(whole)):
            path.write_bytes(
                whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
            )
            with (
                pytest.raises(ArtefactError, match=r"'record.json' is damaged"),
                workspace.produce("step", {"a": 1}),
            ):
                pass

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"key": "1"}'])
    def test_a_record_that_is_not_one_is_refused(self, artefact, workspace, text):
        (artefact.path / "record.json").write_text(text)
        with (
            pytest.raises(ArtefactError, match=r"does not end with a checksum"),
            workspace.produce("step", {"a": 1}),
        ):
            pass

    def test_a_damaged_record_of_another_run_is_not_used(self, artefact, tmp_path):
        (artefact.path / "record.json").write_text("{")
        with Workspace(tmp_path / "two").produce("step", {"a": 1}, shared=True) as new:
            assert new.done is None
