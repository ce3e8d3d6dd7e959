"""files: whole or not at all, and one process at a time."""

import os
import subprocess
import sys

import pytest

from recdistill.atomic import held, whole
from recdistill.errors import BusyError


def test_file_appears_when_the_block_is_left(tmp_path):
    target = tmp_path / "file"
    with whole(target) as aside:
        aside.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_error_in_the_block_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="half-way"), whole(target) as aside:
        aside.write_text("ne")
        raise RuntimeError("half-way")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "file"
    target.write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"), whole(target) as aside:
        aside.write_text("new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_second_process_finds_the_folder_busy_until_the_first_is_gone(tmp_path):
    hold = (
        "import sys; from pathlib import Path; from recdistill.atomic import held\n"
        "with held(Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(BusyError, match="Another recdistill process is at work in"),
            held(tmp_path),
        ):
            pass
        holder.kill()
        holder.wait()
    with held(tmp_path):
        pass
