"""Runs that are killed or fail at any point end in the same result."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recdistill.atomic import folder_checksums
from tests import small_pipelines
from tests.pipeline.tiny_runs import (
    FIRST_ROUND,
    artefact_names,
    go,
    made,
    report_of,
    weights,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The tiny pipeline in another folder, killed once in every step."""
    folder = tmp_path_factory.mktemp("killed")
    root = Path(__file__).parents[2]
    arguments = [str(small_pipelines.write_config(folder))]
    for place in small_pipelines.places(folder):
        arguments += ["--set", place]
    script = Path(__file__).with_name("killed_runs.py")
    process = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=root,
        env={"PYTHONPATH": str(root), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    codes, _, receipt = process.stdout.partition("\n")
    return folder, json.loads(codes), receipt


def checksums(folder):
    """The checksums of all files without those that tell the time and durations."""
    timed = {"record.json", "report.json", "report.html", "MODEL_CARD.md"}
    timed |= {f"assets.extra/{name}" for name in ("recdistill.json", "MODEL_CARD.md")}
    return folder_checksums(folder, without=timed)


class TestInterruptedRuns:
    def test_every_attempt_was_killed_and_the_last_one_finished(self, killed):
        _, codes, receipt = killed
        assert codes == [-9] * 10
        assert "Distillation receipt" in receipt

    def test_metrics_equal_those_of_an_undisturbed_run(self, killed, tiny_run):
        report = report_of(killed[0])
        fingerprint = tiny_run.report.metrics_fingerprint()
        assert report.metrics_fingerprint() == fingerprint

    def test_artefacts_equal_those_of_an_undisturbed_run_byte_for_byte(
        self, killed, tiny_run
    ):
        root = killed[0] / "runs" / "tiny"
        for step in FIRST_ROUND[:6]:
            name = tiny_run.artefacts[step].path.name
            ours, theirs = checksums(tiny_run.root / name), checksums(root / name)
            assert ours
            assert ours == theirs

    def test_the_export_equals_that_of_an_undisturbed_run_byte_for_byte(
        self, killed, tiny_run
    ):
        version = Path("export") / "tiny" / "1"
        ours, theirs = (
            checksums(tiny_run.folder / version),
            checksums(killed[0] / version),
        )
        assert {"saved_model.pb", "variables/variables.index"} < set(ours)
        assert ours == theirs

    def test_no_partial_folder_is_left_and_one_version_is_published(self, killed):
        folder, _, receipt = killed
        names = [path.name for path in (folder / "runs" / "tiny").iterdir()]
        assert [name for name in names if "partial" in name] == []
        assert len(artefact_names(folder)) == len(FIRST_ROUND)
        versions = folder / "export" / "tiny"
        assert [path.name for path in versions.iterdir()] == ["1"]
        assert f"SavedModel  {versions / '1'}\n" in receipt

    def test_a_full_disk_leaves_no_partial_artefact(self, copied, monkeypatch):
        before = artefact_names(copied)

        def fail(path, content):
            with path.open("wb") as file:
                file.write(bytes(content)[:9])
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", fail)
            with pytest.raises(OSError, match="No space left"):
                go(copied, "student.steps=10", until="baseline")
        assert artefact_names(copied) == before
        done = go(copied, "student.steps=10", until="baseline")
        assert made(done) == ["baseline"]
        assert len(weights(done["baseline"].path)) > 5

    def test_a_failed_write_keeps_the_old_report(self, copied, monkeypatch):
        before = artefact_names(copied)
        report = (copied / "runs" / "tiny" / "report.json").read_bytes()

        def fail(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("recdistill.atomic.os.fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            go(copied, "evaluate.latency_candidates=[21]")
        assert artefact_names(copied) == before
        assert (copied / "runs" / "tiny" / "report.json").read_bytes() == report
