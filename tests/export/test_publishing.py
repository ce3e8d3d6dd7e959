"""publishing: a version appears complete or not at all."""

import pytest

from recdistill.errors import BusyError
from recdistill.export import publishing

pytestmark = pytest.mark.slow


def test_files_of_a_killed_export_are_removed(tmp_path):
    killed = tmp_path / ".staging-1" / "variables"
    killed.mkdir(parents=True)
    (killed / "variables.index").write_text("half")
    with publishing.staged(tmp_path) as (staging, version):
        assert list(staging.iterdir()) == []
        (staging / "saved_model.pb").write_text("whole")
    assert version == 1
    assert [p.name for p in tmp_path.iterdir()] == ["1"]
    assert (tmp_path / "1" / "saved_model.pb").read_text() == "whole"


def test_version_numbers_are_compared_as_numbers(tmp_path):
    for name in ("2", "10", "not-a-version"):
        (tmp_path / name).mkdir()
    with publishing.staged(tmp_path) as (staging, version):
        assert (staging.name, version) == (".staging-11", 11)
    assert (tmp_path / "11").is_dir()


def test_a_second_export_to_the_same_folder_is_refused_meanwhile(tmp_path):
    with publishing.staged(tmp_path) as (staging, _):
        with pytest.raises(BusyError, match="Another recdistill process is using"):
            with publishing.staged(tmp_path):
                pass
        assert staging.is_dir()
    assert (tmp_path / "1").is_dir()
