"""The columnar engine: what exceeds its memory is on disk, and a full disk is named."""

import errno

import pytest

from recdistill.pipeline.preparation import columnar_engine as module
from recdistill.pipeline.preparation.columnar_engine import columnar_engine

SORT = "SELECT hash(range) AS key, repeat('x', 200) AS text FROM range(400000)"


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(module, "MOST_MEMORY", 2**25)
    monkeypatch.setattr(module, "LEAST_MEMORY", 2**25)
    monkeypatch.setattr(module, "MOST_THREADS", 1)


def test_what_exceeds_the_memory_is_in_the_folder_until_the_end(
    tmp_path, little_memory
):
    with columnar_engine(tmp_path) as engine:
        engine.execute(f"CREATE TABLE rows AS {SORT}")
        assert list((tmp_path / "spilled").iterdir())
        counted = engine.sql("SELECT count(DISTINCT key) FROM rows").fetchall()
    assert counted == [(400_000,)]
    assert not list(tmp_path.glob("spilled/*"))


def test_a_full_disk_is_an_error_that_names_the_folder(tmp_path, little_memory):
    with pytest.raises(OSError, match="temporary files") as caught:
        with columnar_engine(tmp_path) as engine:
            engine.execute("SET max_temp_directory_size = '1MB'")
            engine.execute(f"CREATE TABLE rows AS {SORT}")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "spilled")
