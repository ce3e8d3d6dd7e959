"""Artefacts whose copies are kept in object storage."""

import shutil

import fsspec
import pytest

from recdistill.errors import ArtefactError, GuardError, StorageError
from recdistill.pipeline.artefacts.artefact import RECORD, Artefact
from recdistill.pipeline.artefacts.artefact_storage import (
    ArtefactStorage,
    artefact_storage,
)
from recdistill.pipeline.artefacts.workspace import Workspace
from recdistill.pipeline.config import load_config
from recdistill.pipeline.ray_cluster.ray_workers import SharedRun
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.steps import STEPS
from tests.small_pipelines import write_config

URL = "memory://bucket/runs"


@pytest.fixture
def bucket():
    """The file system of `memory://`, empty."""
    found = fsspec.filesystem("memory")
    found.store.clear()
    yield found
    found.store.clear()


def workspace(local) -> Workspace:
    return Workspace(local / "run", ArtefactStorage(URL, local))


def make(place, content="whole", **options) -> Artefact:
    with place.produce("step", {"a": 1}, **options) as draft:
        if draft.done is None:
            (draft.path / "inner").mkdir(exist_ok=True)
            (draft.path / "inner" / "file").write_text(content)
    return draft.artefact()


def said(artefact):
    artefact.verify()
    return (artefact.path / "inner" / "file").read_text()


def test_an_artefact_is_copied_to_the_storage_and_used_by_another_machine(
    bucket, tmp_path
):
    first = make(workspace(tmp_path / "one"))
    folder = f"/bucket/runs/run/{first.path.name}"
    assert sorted(bucket.find(folder)) == [f"{folder}/inner/file", f"{folder}/{RECORD}"]
    second = make(workspace(tmp_path / "other"), content="not written")
    assert second.reused
    assert second.record == first.record
    assert said(second) == "whole"


def test_a_shared_artefact_of_another_run_is_used_on_another_machine(bucket, tmp_path):
    first = make(workspace(tmp_path / "one"))
    local = tmp_path / "other"
    again = Workspace(local / "again", ArtefactStorage(URL, local))
    own = make(again, content="its own")
    assert not own.reused
    shutil.rmtree(own.path)
    bucket.rm(f"/bucket/runs/again/{own.path.name}", recursive=True)
    shared = make(again, content="not written", shared=True)
    assert shared.reused and shared.record == first.record
    assert shared.path == local / "run" / first.path.name
    assert said(shared) == "whole"


def test_an_artefact_that_the_storage_lost_is_copied_again(bucket, tmp_path):
    make(workspace(tmp_path))
    bucket.store.clear()
    assert make(workspace(tmp_path)).reused
    assert said(make(workspace(tmp_path / "other"), content="not written")) == "whole"


def test_a_copy_without_a_record_is_not_an_artefact(bucket, tmp_path):
    first = make(workspace(tmp_path / "one"))
    bucket.rm(f"/bucket/runs/run/{first.path.name}/{RECORD}")
    second = make(workspace(tmp_path / "other"), content="again")
    assert not second.reused
    assert said(make(workspace(tmp_path / "third"))) == "again"


def test_an_artefact_that_is_not_valid_any_more_is_replaced_in_the_storage(
    bucket, tmp_path
):
    make(workspace(tmp_path / "one"))
    other = workspace(tmp_path / "other")
    assert said(make(other, "new", valid=lambda artefact: False)) == "new"
    assert said(make(workspace(tmp_path / "third"))) == "new"


def test_a_discarded_artefact_leaves_the_storage(bucket, tmp_path):
    kept, other = make(workspace(tmp_path)), tmp_path / "run" / "step-none"
    storage = ArtefactStorage(URL, tmp_path)
    storage.discard(other)
    assert bucket.find("/bucket/runs/run")
    storage.discard(kept.path)
    assert not bucket.find("/bucket/runs/run")


def test_a_damaged_copy_is_refused_and_nothing_is_left_in_its_place(bucket, tmp_path):
    first = make(workspace(tmp_path / "one"))
    bucket.pipe(f"/bucket/runs/run/{first.path.name}/inner/file", b"other")
    other = workspace(tmp_path / "other")
    with pytest.raises(ArtefactError, match="'inner/file' is damaged"):
        make(other)
    assert not (other.root / first.path.name).exists()


def test_an_interrupted_copy_leaves_the_local_artefact(bucket, tmp_path, monkeypatch):
    put_file = type(bucket).put_file

    def broken(self, source, target, **options):
        if target.endswith(RECORD):
            raise OSError("the connection was closed")
        return put_file(self, source, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(bucket), "put_file", broken)
        with pytest.raises(StorageError, match="the connection was closed"):
            make(workspace(tmp_path / "one"))
    assert not [name for name in bucket.find("/bucket") if name.endswith(RECORD)]
    assert make(workspace(tmp_path / "one")).reused
    assert said(make(workspace(tmp_path / "other"), content="not written")) == "whole"


def test_a_package_that_is_missing_is_named(tmp_path):
    with pytest.raises(StorageError, match="nothing://bucket"):
        ArtefactStorage("nothing://bucket", tmp_path)


@pytest.fixture
def config(bucket, tmp_path, monkeypatch):
    """A configuration whose `workdir` is a URL, with a cache of its own."""
    monkeypatch.setenv("RECDISTILL_CACHE", str(tmp_path / "cache"))
    return load_config(write_config(tmp_path), [f"workdir={URL}"])


def test_a_url_that_cannot_be_used_is_an_error_of_the_storage(tmp_path):
    config = load_config(write_config(tmp_path), ["workdir=nothing://bucket"])
    with pytest.raises(StorageError, match="nothing://bucket"):
        Pipeline(config)


def test_a_pipeline_continues_on_another_machine(config, tmp_path, monkeypatch):
    first = Pipeline(config)
    prepared = first.run("prepare")
    (first.workspace.root / "report.json").write_text("{}")
    assert Pipeline(config).run("prepare").reused
    assert fsspec.filesystem("memory").cat("/bucket/runs/tiny/report.json") == b"{}"

    shared = SharedRun.of(first.context)
    monkeypatch.setenv("RECDISTILL_CACHE", str(tmp_path / "elsewhere"))
    shutil.rmtree(tmp_path / "cache")
    opened = shared.open({}).artefacts["prepare"]
    assert opened.record == prepared.record
    assert (tmp_path / "elsewhere") in opened.path.parents
    opened.verify()
    assert Pipeline(config).run("prepare").reused


def test_the_report_of_a_run_that_stops_is_copied(config, bucket, monkeypatch):
    def stop(*_):
        raise GuardError("a slice is below the baseline")

    pipeline = Pipeline(config)
    (pipeline.workspace.root / "report.json").write_text("{}")
    monkeypatch.setattr(type(STEPS["prepare"]), "work", stop)
    with pytest.raises(GuardError):
        pipeline.run("prepare")
    assert bucket.cat("/bucket/runs/tiny/report.json") == b"{}"


def test_a_local_folder_has_no_storage(tmp_path):
    assert artefact_storage(load_config(write_config(tmp_path))) is None
