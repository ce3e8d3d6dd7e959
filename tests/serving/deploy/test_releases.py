"""releases: labels move by the server's rules, and nothing that is used goes away."""

import json

import pytest

from recdistill.errors import ReleaseError
from recdistill.export import layout, publishing
from recdistill.serving.deploy.models_config import read_models
from recdistill.serving.deploy.releases import promote, prune, rollback


def write_version(folder, version):
    """As export leaves it, but for a model."""
    path = folder / str(version)
    (path / "assets.extra").mkdir(parents=True)
    (path / "saved_model.pb").write_text(f"version {version}")
    manifest = {"sha256": publishing.hashes(path)}
    (path / layout.MANIFEST).write_text(json.dumps(manifest))


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

    def test_a_label_moves_in_two_turns_as_the_server_wants_it(self, films):
        promote(films, 3)
        waiting = promote(films, 10)
        assert waiting.state == "loading"
        assert labels(films) == {"stable": 3}
        assert loaded(films) == (3, 10)
        moved = promote(films, 10)
        assert (moved.state, moved.before) == ("moved", 3)
        assert labels(films) == {"stable": 10}
        assert promote(films, 10).state == "unchanged"

    def test_or_in_one_where_no_server_runs(self, films):
        promote(films, 3)
        assert promote(films, 10, now=True).state == "moved"
        assert labels(films) == {"stable": 10}
        assert loaded(films) == (3, 10)

    def test_another_label_leaves_the_first_alone(self, films):
        promote(films, 3)
        promote(films, 10, label="canary")
        assert labels(films) == {"canary": 10, "stable": 3}

    def test_a_version_whose_files_changed_is_refused_by_file(self, films):
        (films / "3" / "saved_model.pb").write_text("other")
        with pytest.raises(ReleaseError, match=r"3 with saved_model\.pb changed"):
            promote(films, 3)
        (films / "10" / "variables").write_text("new")
        with pytest.raises(ReleaseError, match="10 with variables changed, missing"):
            promote(films)
        assert not (films.parent / "models.config").exists()

    def test_a_version_that_is_not_there_is_refused(self, films):
        with pytest.raises(ReleaseError, match=r"\[1, 2, 3, 10\].*version=4"):
            promote(films, 4)
        with pytest.raises(ReleaseError, match="must have the versions of a model"):
            promote(films.parent / "books")


class TestRollback:
    def test_goes_back_to_the_version_that_the_label_left(self, films):
        promote(films, 3)
        promote(films, 10, now=True)
        done = rollback(films)
        assert (done.version, done.before) == (3, 10)
        assert labels(films) == {"stable": 3}
        # And back again: the server has both loaded.
        assert rollback(films).version == 10

    def test_does_not_take_the_version_of_another_label(self, films):
        promote(films, 3)
        promote(films, 10, label="canary")
        with pytest.raises(
            ReleaseError, match=r"stable.* version 3, loaded: \[3, 10\]"
        ):
            rollback(films)

    def test_of_a_label_that_is_not_there_is_refused(self, films):
        with pytest.raises(ReleaseError, match="which does not exist"):
            rollback(films)
        promote(films)
        with pytest.raises(ReleaseError, match=r"\['stable'\].*label='canary'"):
            rollback(films, label="canary")

    def test_a_version_that_was_removed_by_hand_is_refused(self, films):
        promote(films, 3)
        promote(films, 10, now=True)
        (films / "3").rename(films.parent / "away")
        with pytest.raises(ReleaseError, match="must exist"):
            rollback(films)


class TestPrune:
    def test_keeps_the_last_and_what_is_labelled_or_loaded(self, films):
        promote(films, 1)
        promote(films, 2, now=True)
        assert prune(films, 1) == [3]
        assert layout.versions(films) == [1, 2, 10]
        assert not list(films.glob(".pruned-*"))

    def test_counts_versions_as_numbers(self, films):
        assert prune(films, 2, unlabelled=True) == [1, 2]

    def test_what_a_killed_prune_left_is_removed(self, films):
        (films / "1").rename(films / ".pruned-1")
        assert prune(films, 9, unlabelled=True) == []
        assert not (films / ".pruned-1").exists()

    def test_without_the_labels_nothing_is_removed_unless_there_are_none(self, films):
        with pytest.raises(ReleaseError, match="with the labels"):
            prune(films, 1)
        assert layout.versions(films) == [1, 2, 3, 10]

    def test_at_least_one_version_stays(self, films):
        with pytest.raises(ReleaseError, match="keep=0"):
            prune(films, 0, unlabelled=True)
