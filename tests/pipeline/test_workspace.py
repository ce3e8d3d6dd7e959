"""The workspace: artefacts are written atomically and found by their inputs."""

import os

import pytest

from recdistill.pipeline.workspace import (
    Artefact,
    Workspace,
    fingerprint,
    write_json,
)


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
    monkeypatch.setattr("recdistill.pipeline.workspace.__version__", "other")
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


def test_json_is_written_atomically(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_json(path, {"a": [1, 2.5, None]})
    assert path.read_text() == '{\n "a": [\n  1,\n  2.5,\n  null\n ]\n}'

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"a": 2})
    assert path.read_text().startswith('{\n "a": [')


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_values_that_are_not_json_are_refused_and_leave_no_file(tmp_path, value):
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "file.json", {"a": value})
    assert list(tmp_path.iterdir()) == []


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
    write_json(first.path / "record.json", record)
    assert make(two, shared=True).path.parent == two.root
