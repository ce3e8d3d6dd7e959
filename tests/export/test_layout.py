"""layout: versions of an export and its manifest."""

import pytest

from recdistill.atomic import folder_checksums, write_sealed
from recdistill.errors import ArtefactError, NotAnExportError
from recdistill.export.layout import (
    MANIFEST,
    find_version,
    read_manifest,
    superseded_by,
    verified_manifest,
    version_with,
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


def write_manifest(version, document):
    (version / MANIFEST).parent.mkdir(exist_ok=True)
    write_sealed(version / MANIFEST, document)


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


@pytest.mark.parametrize("name", ["a[b]", "x[", "a\\b"])
def test_a_path_from_which_tensorflow_cannot_load_is_refused(tmp_path, name):
    version = tmp_path / name / "1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").touch()
    for export in (version, version.parent):
        with pytest.raises(NotAnExportError, match="do not find the weights there"):
            find_version(export)


@pytest.mark.parametrize("name", ["a]", "a*", "a?", "{b}", "größe und ö"])
def test_a_path_with_other_special_characters_is_accepted(tmp_path, name):
    version = tmp_path / name / "1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").touch()
    assert find_version(tmp_path / name) == version


def test_a_manifest_is_read_as_it_was_written(folder):
    write_manifest(folder / "2", {"name": "films"})
    assert read_manifest(folder / "2") == {"name": "films"}


def test_a_missing_manifest_is_an_error_with_its_name(folder):
    with pytest.raises(NotAnExportError, match=r"recdistill.json. Received: .*2 \(no"):
        read_manifest(folder / "2")


def test_each_changed_byte_of_a_manifest_is_noticed(folder):
    path = folder / "2" / MANIFEST
    write_manifest(folder / "2", {"name": "films", "sha256": {}})
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ArtefactError, match=r"recdistill.json' is damaged: it"):
            read_manifest(folder / "2")
    for text in (b"", b"{", whole[:-1], whole + b"\n"):
        path.write_bytes(text)
        with pytest.raises(ArtefactError, match=r"again with `recdistill export`"):
            read_manifest(folder / "2")


class TestTheFilesOfAVersion:
    @pytest.fixture
    def version(self, folder):
        version = folder / "2"
        (version / "variables").mkdir()
        (version / "variables" / "variables.index").write_bytes(b"index")
        write_manifest(version, {"sha256": folder_checksums(version)})
        return version

    def test_intact_files_are_accepted_also_with_the_batching_of_an_operator(
        self, version
    ):
        (version / "batching_params.pbtxt").write_text("max_batch_size { value: 8 }")
        names = ["saved_model.pb", "variables/variables.index"]
        assert list(verified_manifest(version)["sha256"]) == names

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            (lambda path: path.write_bytes(b"jndex"), "'variables/variables.index' is"),
            (lambda path: path.write_bytes(b""), "'variables/variables.index' is dama"),
            (lambda path: path.unlink(), "'variables/variables.index' is missing"),
            (
                lambda path: path.with_name("more").write_bytes(b""),
                "'variables/more' does not belong there",
            ),
        ],
    )
    def test_a_damaged_file_is_named_with_the_command_that_writes_it(
        self, version, change, fault
    ):
        change(version / "variables" / "variables.index")
        with pytest.raises(ArtefactError, match=fault) as error:
            verified_manifest(version)
        assert "again with `recdistill export`" in str(error.value)


def test_a_published_version_is_found_by_its_key(folder):
    for version, key in (("2", "a"), ("10", "b"), (".staging-11", "c")):
        document = {"metadata": {"key": key}}
        write_manifest(folder / version, document)
    assert version_with(folder, "key", "a") == folder / "2"
    assert version_with(folder, "key", "c") is None
    assert version_with(folder, "name", "a") is None
    assert version_with(folder / "missing", "key", "a") is None


@pytest.mark.parametrize(
    ("other", "is_another"),
    [
        ({"metadata": {"fingerprint": "f"}, "reindexed_from": 2}, False),
        ({"metadata": {"fingerprint": "f"}, "reindexed_from": None}, True),
        ({"metadata": {"fingerprint": "g"}, "reindexed_from": 2}, True),
        (None, True),
    ],
)
def test_a_version_is_superseded_by_a_higher_one_of_another_model(
    folder, other, is_another
):
    own = {"metadata": {"fingerprint": "f"}, "reindexed_from": None}
    write_manifest(folder / "2", own)
    if other is not None:
        write_manifest(folder / "10", other)
    assert superseded_by(folder / "2") == (folder / "10" if is_another else None)
    assert superseded_by(folder / "10") is None
