"""`recdistill release`: output and errors; the rules are tested in test_releases."""

import json

import pytest

from recdistill.atomic import folder_checksums, write_sealed
from recdistill.export import layout
from tests.cli.command_line import assert_is_one_paragraph, call


@pytest.fixture
def films(tmp_path):
    folder = tmp_path / "films"
    for version in (1, 2, 3, 10):
        path = folder / str(version)
        (path / "assets.extra").mkdir(parents=True)
        (path / "saved_model.pb").write_text(f"version {version}")
        manifest = {"sha256": folder_checksums(path)}
        write_sealed(path / layout.MANIFEST, manifest)
    return folder


def test_promotion_rollback_and_pruning_print_their_result(films):
    assert call("release", "promote", films, 3).exit_code == 0
    loading = call("release", "promote", films)
    assert "tells the server to load version 10" in " ".join(loading.stdout.split())
    hurried = call("release", "promote", films)
    assert hurried.exit_code == 2
    assert_is_one_paragraph(hurried, "`--endpoint` must name the running server")
    moved = call("release", "promote", films, "--now", "--json")
    assert json.loads(moved.stdout)["state"] == "moved"
    back = call("release", "rollback", films)
    assert back.stdout.startswith("stable → 3, from 10")
    assert call("release", "prune", films, "--keep", 1).stdout == "Removed: 1, 2\n"


def test_an_endpoint_that_is_not_a_url_is_an_error(films):
    call("release", "promote", films, 3)
    result = call("release", "promote", films, "--endpoint", "ftp://host")
    assert result.exit_code == 2
    assert_is_one_paragraph(result, "`endpoint` must be like grpc://host:8500")


def test_an_unknown_version_is_an_error(films):
    result = call("release", "promote", films, 7)
    assert result.exit_code == 2
    assert_is_one_paragraph(result, "`version` must be one of")
