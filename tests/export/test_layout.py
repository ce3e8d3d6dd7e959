"""layout: versions of an export, its manifest, and no import of TensorFlow."""

import json
import subprocess
import sys

import pytest

from recdistill.errors import NotAnExportError
from recdistill.export.layout import (
    MANIFEST,
    find_version,
    published_with_key,
    read_manifest,
    versions,
)


@pytest.fixture
def folder(tmp_path):
    """Versions 2 and 10 with a SavedModel, 12 without one, and other entries."""
    for name in ("2", "10", "12", ".staging-11", "labels"):
        (tmp_path / name).mkdir()
    for name in ("2", "10", ".staging-11"):
        (tmp_path / name / "saved_model.pb").touch()
    (tmp_path / "77").touch()
    return tmp_path


def write_manifest(version, text):
    (version / MANIFEST).parent.mkdir(exist_ok=True)
    (version / MANIFEST).write_text(text)


def test_versions_are_folders_with_a_number_as_name_in_numeric_order(folder):
    assert versions(folder) == [2, 10, 12]


def test_a_folder_that_does_not_exist_has_no_versions(folder):
    assert versions(folder / "missing") == []


def test_the_latest_version_is_the_highest_number_with_a_saved_model(folder):
    assert find_version(folder) == folder / "10"


def test_the_folder_of_one_version_is_returned_unchanged(folder):
    assert find_version(folder / "2") == folder / "2"


@pytest.mark.parametrize("name", ["12", "missing", "labels"])
def test_a_folder_without_a_saved_model_is_refused(folder, name):
    with pytest.raises(
        NotAnExportError, match=rf"numbered versions. Received: .*{name}"
    ):
        find_version(folder / name)


def test_a_manifest_is_read_as_json(folder):
    write_manifest(folder / "2", json.dumps({"name": "films"}))
    assert read_manifest(folder / "2") == {"name": "films"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [(None, "no such file"), ("{", "invalid JSON"), ("7", "7")],
)
def test_a_missing_or_damaged_manifest_is_reported_with_the_reason(
    folder, text, reason
):
    if text is not None:
        write_manifest(folder / "2", text)
    with pytest.raises(NotAnExportError, match=rf"Received: .*2 \({reason}"):
        read_manifest(folder / "2")


def test_a_published_version_is_found_by_its_key(folder):
    for version, key in (("2", "a"), ("10", "b"), (".staging-11", "c")):
        document = {"metadata": {"key": key}}
        write_manifest(folder / version, json.dumps(document))
    assert published_with_key(folder, "a") == folder / "2"
    assert published_with_key(folder, "c") is None
    assert published_with_key(folder / "missing", "a") is None


def test_the_module_and_the_record_reader_do_not_import_tensorflow():
    program = (
        "import sys, recdistill.export.layout, recdistill.export.warm_up\n"
        "print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False False\n"
