"""Local copies of folders that fsspec URLs name."""

from pathlib import Path

import fsspec
import pytest

from recdistill.data.remote_folder import local_copy
from recdistill.errors import FetchError


@pytest.fixture
def storage(tmp_path):
    """The file system of `memory://` with a folder of two files."""
    found = fsspec.filesystem("memory")
    found.store.clear()
    found.pipe({"/shop/interactions.csv": b"one", "/shop/items/a.csv": b"two"})
    yield found
    found.store.clear()


def contents(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in paths
        if not path.name.startswith(".")
    }


def test_a_folder_is_copied_and_only_changed_files_are_copied_again(storage, tmp_path):
    copied = []

    def progress(activity, done, total):
        copied.append((done, total))

    folder = local_copy("memory://shop", tmp_path, progress)
    assert contents(folder) == {"interactions.csv": b"one", "items/a.csv": b"two"}
    assert copied == [(3, 6), (6, 6)]

    storage.pipe({"/shop/interactions.csv": b"three", "/shop/items/b.csv": b"four"})
    storage.rm("/shop/items/a.csv")
    assert local_copy("memory://shop", tmp_path, progress) == folder
    assert contents(folder) == {"interactions.csv": b"three", "items/b.csv": b"four"}
    assert copied[2:] == [(5, 9), (9, 9)]

    local_copy("memory://shop/", tmp_path / "other", progress)
    local_copy("memory://shop", tmp_path, progress)
    assert len(copied) == 6  # Two files for the other cache, none for the first.


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"t")])
def test_a_file_that_the_cache_has_lost_is_copied_again(storage, tmp_path, harm):
    folder = local_copy("memory://shop", tmp_path)
    harm(folder / "items" / "a.csv")
    local_copy("memory://shop", tmp_path)
    assert contents(folder) == {"interactions.csv": b"one", "items/a.csv": b"two"}


def test_a_file_that_was_removed_and_came_back_is_copied_again(storage, tmp_path):
    folder = local_copy("memory://shop", tmp_path)
    old = storage.store.pop("/shop/items/a.csv")
    local_copy("memory://shop", tmp_path)
    assert contents(folder) == {"interactions.csv": b"one"}
    storage.store["/shop/items/a.csv"] = old
    local_copy("memory://shop", tmp_path)
    assert contents(folder) == {"interactions.csv": b"one", "items/a.csv": b"two"}


def test_a_copy_that_was_interrupted_goes_on(storage, tmp_path, monkeypatch):
    get_file, names = type(storage).get_file, []

    def broken(self, source, target, **options):
        names.append(source)
        if len(names) == 2:
            raise OSError("the connection was closed")
        return get_file(self, source, target, **options)

    monkeypatch.setattr(type(storage), "get_file", broken)
    with pytest.raises(FetchError, match="the connection was closed"):
        local_copy("memory://shop", tmp_path)
    folder = local_copy("memory://shop", tmp_path)
    assert contents(folder) == {"interactions.csv": b"one", "items/a.csv": b"two"}
    assert len(names) == 3  # The first file was not copied again.


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory://nothing", "not a folder with files"),
        ("memory://shop/interactions.csv", "not a folder with files"),
        ("nonsense://shop", "nonsense"),
    ],
)
def test_a_url_that_is_not_a_folder_is_named(storage, tmp_path, url, said):
    with pytest.raises(FetchError, match=said) as caught:
        local_copy(url, tmp_path)
    assert f"{url!r}" in str(caught.value)
