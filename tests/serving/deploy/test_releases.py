"""releases: labels move by the server's rules; used versions are never removed."""

import pytest

from recdistill.atomic import folder_checksums, write_sealed
from recdistill.errors import ArtefactError, ReleaseError
from recdistill.export import layout
from recdistill.serving.deploy.models_config import read_models
from recdistill.serving.deploy.releases import promote, prune, rollback


def write_version(folder, version):
    """A version with a manifest, without a model."""
    path = folder / str(version)
    (path / "assets.extra").mkdir(parents=True)
    (path / "saved_model.pb").write_text(f"version {version}")
    manifest = {"sha256": folder_checksums(path)}
    write_sealed(path / layout.MANIFEST, manifest)


@pytest.fixture
def films(tmp_path):
    folder = tmp_path / "films"
    for version in (1, 2, 3, 10):
        write_version(folder, version)
    (folder / ".staging-11").mkdir()
    return folder


def labels(folder):
    return dict(read_models(folder.parent / "models.config")["films"].labels)


def loaded(folder):
    return read_models(folder.parent / "models.config")["films"].versions


class TestPromote:
    def test_the_highest_version_gets_the_label_and_an_absolute_path(self, films):
        done = promote(films)
        assert (done.version, done.before, done.state) == (10, None, "moved")
        assert labels(films) == {"stable": 10}
        models = read_models(films.parent / "models.config")
        assert models["films"].base_path == str(films.resolve())

    def test_a_label_moves_in_two_steps_while_a_server_runs(self, films):
        promote(films, 3)
        waiting = promote(films, 10)
        assert waiting.state == "loading"
        assert labels(films) == {"stable": 3}
        assert loaded(films) == (3, 10)
        moved = promote(films, 10)
        assert (moved.state, moved.before) == ("moved", 3)
        assert labels(films) == {"stable": 10}
        assert promote(films, 10).state == "unchanged"

    def test_a_label_moves_in_one_step_without_a_server(self, films):
        promote(films, 3)
        assert promote(films, 10, now=True).state == "moved"
        assert labels(films) == {"stable": 10}
        assert loaded(films) == (3, 10)

    def test_another_label_does_not_move_the_first(self, films):
        promote(films, 3)
        promote(films, 10, label="canary")
        assert labels(films) == {"canary": 10, "stable": 3}

    def test_a_version_with_changed_files_is_refused(self, films):
        (films / "3" / "saved_model.pb").write_text("other")
        with pytest.raises(ArtefactError, match=r"3 .*'saved_model.pb' is damaged"):
            promote(films, 3)
        (films / "10" / "variables").write_text("new")
        with pytest.raises(ArtefactError, match=r"10 .*'variables' does not belong"):
            promote(films)
        assert not (films.parent / "models.config").exists()

    def test_a_missing_version_is_refused(self, films):
        with pytest.raises(ReleaseError, match=r"\[1, 2, 3, 10\].*version=4"):
            promote(films, 4)
        with pytest.raises(ReleaseError, match="must have the versions of a model"):
            promote(films.parent / "books")


class TestRollback:
    def test_the_label_moves_back_to_the_version_that_it_left(self, films):
        promote(films, 3)
        promote(films, 10, now=True)
        done = rollback(films)
        assert (done.version, done.before) == (3, 10)
        assert labels(films) == {"stable": 3}
        # And forward again, because both versions are loaded.
        assert rollback(films).version == 10

    def test_the_version_of_another_label_is_not_used(self, films):
        promote(films, 3)
        promote(films, 10, label="canary")
        with pytest.raises(
            ReleaseError, match=r"stable.* version 3, loaded: \[3, 10\]"
        ):
            rollback(films)

    def test_a_missing_label_is_refused(self, films):
        with pytest.raises(ReleaseError, match="which does not exist"):
            rollback(films)
        promote(films)
        with pytest.raises(ReleaseError, match=r"\['stable'\].*label='canary'"):
            rollback(films, label="canary")

    def test_a_version_that_was_deleted_is_refused(self, films):
        promote(films, 3)
        promote(films, 10, now=True)
        (films / "3").rename(films.parent / "away")
        with pytest.raises(ReleaseError, match="must exist"):
            rollback(films)


class TestPrune:
    def test_latest_labelled_and_loaded_versions_are_kept(self, films):
        promote(films, 1)
        promote(films, 2, now=True)
        assert prune(films, 1) == [3]
        assert layout.versions(films) == [1, 2, 10]
        assert not list(films.glob(".pruned-*"))

    def test_versions_are_ordered_as_numbers(self, films):
        assert prune(films, 2, unlabelled=True) == [1, 2]

    def test_leftovers_of_a_killed_prune_are_removed(self, films):
        (films / "1").rename(films / ".pruned-1")
        assert prune(films, 9, unlabelled=True) == []
        assert not (films / ".pruned-1").exists()

    def test_without_models_config_nothing_is_removed(self, films):
        with pytest.raises(ReleaseError, match="with the labels"):
            prune(films, 1)
        assert layout.versions(films) == [1, 2, 3, 10]

    def test_at_least_one_version_must_be_kept(self, films):
        with pytest.raises(ReleaseError, match="keep=0"):
            prune(films, 0, unlabelled=True)
