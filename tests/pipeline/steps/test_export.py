"""The step export: versions appear once, and a removed one is exported again."""

import shutil
from pathlib import Path

import pytest

from recdistill.export import publishing
from tests import small_pipelines
from tests.pipeline.tiny_runs import go, made

pytestmark = pytest.mark.slow


class TestTheExport:
    @pytest.fixture
    def unchecked(self, monkeypatch):
        """Skips the parity check in a fresh process."""
        monkeypatch.setattr(publishing, "check_parity", small_pipelines.no_parity_check)

    def test_a_removed_export_is_written_again(self, copied, unchecked):
        first = go(copied, until="export")
        assert made(first) == ["export"]
        path = Path(first["export"].record["path"])
        assert path == copied / "export" / "tiny" / "1"
        assert made(go(copied, until="export")) == []
        shutil.rmtree(path)
        again = go(copied, until="export")
        assert made(again) == ["export"]
        assert Path(again["export"].record["path"]).is_dir()

    def test_another_student_is_exported_as_the_next_version(self, copied, unchecked):
        go(copied, until="export")
        done = go(copied, "distill.teacher_temperature=3.0", until="export")
        assert Path(done["export"].record["path"]).name == "2"
        versions = copied / "export" / "tiny"
        assert sorted(path.name for path in versions.iterdir()) == ["1", "2"]
