"""Atomic file writes and locked folders."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys

import pytest

from recdistill.atomic import (
    atomic_write,
    create_readable_folder,
    difference,
    folder_checksums,
    locked_folder,
    read_sealed,
    refuse_pipes,
    remove,
    require_space,
    write_sealed,
)
from recdistill.errors import BusyError


def test_the_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "file"
    with atomic_write(target) as part:
        part.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_in_the_block_leaves_only_the_old_file(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with (
        pytest.raises(RuntimeError, match="half-way"),
        atomic_write(target) as part,
    ):
        part.write_text("ne")
        raise RuntimeError("half-way")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "file"
    target.write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*file'"),
        atomic_write(target) as part,
    ):
        part.write_text("new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    target = tmp_path / "none" / "file"
    with pytest.raises(OSError, match=r"No such file.*: '.*none/file'$"):
        atomic_write(target).__enter__()


def test_a_link_at_the_temporary_name_is_not_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("untouched")
    target = tmp_path / "file"
    temporary = tmp_path / ".file.partial"
    temporary.symlink_to(elsewhere)
    with atomic_write(target) as part:
        part.write_text("new")
    assert not target.is_symlink()
    assert (target.read_text(), elsewhere.read_text()) == ("new", "untouched")
    temporary.mkdir()
    (temporary / "left behind").touch()
    with atomic_write(target) as part:
        part.write_text("newer")
    assert target.read_text() == "newer"


def test_removing_a_link_keeps_its_target(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    for name in ("link", "missing"):
        remove(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    remove(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_readable_whatever_the_umask(tmp_path):
    tmp_path.chmod(0o700)
    before = os.umask(0o077)
    try:
        create_readable_folder(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    modes = [p.stat().st_mode & 0o777 for p in (tmp_path / "a", tmp_path / "a" / "b")]
    assert modes == [0o755, 0o755]
    assert tmp_path.stat().st_mode & 0o777 == 0o700


class TestSealedJson:
    def test_it_is_json_with_the_sha_256_of_the_text_before_its_checksum(
        self, tmp_path
    ):
        path = tmp_path / "file.json"
        write_sealed(path, {"a": [1, None], "ü": 2.5})
        # printf '{\n "a": [\n  1,\n  null\n ],\n "\\u00fc": 2.5' | sha256sum
        assert path.read_text() == (
            '{\n "a": [\n  1,\n  null\n ],\n "\\u00fc": 2.5,\n "checksum": '
            '"e04fe7de8ebae9754d74accdd05b226d63dfa6af4941b646e845ede39754ebdb"\n}'
        )
        assert read_sealed(path) == {"a": [1, None], "ü": 2.5}
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
    def test_values_that_are_not_json_are_refused_and_leave_no_file(
        self, tmp_path, value
    ):
        with pytest.raises((ValueError, TypeError)):
            write_sealed(tmp_path / "file.json", {"a": value})
        assert list(tmp_path.iterdir()) == []


def test_a_pipe_in_a_folder_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert folder_checksums(tmp_path) == {"pipe": "not a file"}


def test_the_lock_ends_with_the_process_that_holds_it(tmp_path):
    hold = (
        "import sys; from pathlib import Path\n"
        "from recdistill.atomic import locked_folder\n"
        "with locked_folder(Path(sys.argv[1])):\n"
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
            pytest.raises(BusyError, match="Another recdistill process is using"),
            locked_folder(tmp_path),
        ):
            pass
        holder.kill()
        holder.wait()
    with locked_folder(tmp_path):
        pass


def test_a_folder_without_locks_is_not_called_busy(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="No locks"), locked_folder(tmp_path, wait_s=9.0):
        pass


def test_locking_leaves_no_file_in_the_folder(tmp_path):
    with locked_folder(tmp_path):
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_the_lock_is_released_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), locked_folder(tmp_path):
        raise RuntimeError
    with locked_folder(tmp_path), pytest.raises(BusyError), locked_folder(tmp_path):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_folder_can_be_locked(tmp_path):
    tmp_path.chmod(0o500)
    with locked_folder(tmp_path):
        pass


def test_too_little_space_is_an_error_with_both_numbers(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    require_space(tmp_path / "later" / "on", 1_000)
    with pytest.raises(OSError, match=r"1,001 bytes are needed, 1,000 free") as error:
        require_space(tmp_path, 1_001)
    assert error.value.errno == 28


def test_a_pipe_is_refused_and_files_and_folders_are_not(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "file", tmp_path / "missing"):
        refuse_pipes(path)
    with pytest.raises(OSError, match="a pipe or a device"):
        refuse_pipes(tmp_path / "pipe")


def test_each_difference_between_checksums_is_named():
    written = {"a": "1", "b": "2"}
    assert difference(written, dict(written)) is None
    assert difference(written, {"a": "1"}) == "the file 'b' is missing"
    assert difference(written, written | {"c": "3"}) == (
        "the file 'c' does not belong there"
    )
