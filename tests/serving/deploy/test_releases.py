"""releases: labels move by the server's rules; used versions are never removed."""

import os
import threading
from pathlib import Path

import pytest

from recdistill.atomic import folder_checksums, write_sealed
from recdistill.errors import (
    ArtefactError,
    ConfigError,
    NotAnExportError,
    ReleaseError,
)
from recdistill.export import layout, publishing
from recdistill.serving import ServingError
from recdistill.serving.deploy import releases
from recdistill.serving.deploy.models_config import Models, read_models
from recdistill.serving.deploy.releases import promote, prune, rollback
from tests.serving.fake_server import serving


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


@pytest.fixture(scope="module")
def running():
    with serving() as fake:
        yield fake


@pytest.fixture
def server(running):
    """A server of which the tests set the versions."""
    running.versions, running.load_errors = {}, {}
    return running


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

    def test_a_label_moves_when_the_server_has_loaded_the_version(self, films, server):
        endpoints = [server.endpoints["grpc"], server.endpoints["rest"]]
        promote(films, 3)
        server.versions = {3: "AVAILABLE"}
        waiting = promote(films, 10)
        assert waiting.state == "loading"
        for state in ("START", "LOADING", "UNLOADING", "END"):
            assert promote(films, 10, endpoints=endpoints).state == "loading"
            assert labels(films) == {"stable": 3}
            assert loaded(films) == (3, 10)
            server.versions = {3: "AVAILABLE", 10: state}
        server.versions[10] = "AVAILABLE"
        moved = promote(films, 10, endpoints=endpoints)
        assert (moved.state, moved.before) == ("moved", 3)
        assert labels(films) == {"stable": 10}
        assert promote(films, 10).state == "unchanged"
        assert promote(films, 10, endpoints=endpoints).state == "unchanged"

    def test_two_calls_in_a_hurry_do_not_move_the_label(self, films):
        promote(films, 3)
        for _ in range(3):
            try:
                promote(films, 10)
            except ReleaseError as error:
                assert "--endpoint localhost:8500" in str(error)
                assert "use --now" in str(error)
            assert labels(films) == {"stable": 3}
            assert loaded(films) == (3, 10)

    def test_one_server_of_several_without_the_version_keeps_the_label(
        self, films, server
    ):
        promote(films, 3)
        server.versions = {3: "AVAILABLE", 10: "AVAILABLE"}
        with serving() as other:
            endpoints = [each.endpoints["grpc"] for each in (server, other)]
            for _ in range(2):
                assert promote(films, 10, endpoints=endpoints).state == "loading"
                assert labels(films) == {"stable": 3}
            other.versions = server.versions
            assert promote(films, 10, endpoints=endpoints).state == "moved"

    def test_a_version_that_the_file_does_not_name_yet_is_named_first(
        self, films, server
    ):
        promote(films, 3)
        server.versions = {3: "AVAILABLE", 10: "AVAILABLE"}
        endpoints = [server.endpoints["grpc"]]
        assert promote(films, 10, endpoints=endpoints).state == "loading"
        assert promote(films, 10, endpoints=endpoints).state == "moved"

    def test_a_version_that_did_not_load_is_refused_with_the_server_s_reason(
        self, films, server
    ):
        endpoints = [server.endpoints["rest"]]
        promote(films, 3)
        server.versions = {3: "AVAILABLE", 10: "END"}
        server.load_errors = {10: "warm-up failed: no input 'age'"}
        # An earlier attempt does not count before the server reads the file.
        assert promote(films, 10, endpoints=endpoints).state == "loading"
        with pytest.raises(ReleaseError, match="reports: warm-up failed: no input"):
            promote(films, 10, endpoints=endpoints)
        assert labels(films) == {"stable": 3}

    def test_a_label_at_a_version_that_the_server_has_not_loaded_is_reported(
        self, films, server
    ):
        promote(films, 3)
        promote(films, 10, now=True)
        server.versions = {3: "AVAILABLE"}
        done = promote(films, 10, endpoints=[server.endpoints["grpc"]])
        assert (done.state, done.before) == ("loading", 10)

    def test_a_server_that_does_not_answer_keeps_the_label(self, films, monkeypatch):
        monkeypatch.setattr(releases, "_ANSWER_S", 0.2)
        promote(films, 3)
        with pytest.raises(ServingError):
            promote(films, 10, endpoints=["127.0.0.1:1"])
        with pytest.raises(ConfigError, match="Received: endpoint='ftp://a'"):
            promote(films, 10, endpoints=["ftp://a"])
        with pytest.raises(ReleaseError, match="must not both be given"):
            promote(films, 10, endpoints=["127.0.0.1:1"], now=True)
        assert loaded(films) == (3,)

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


class TestTheModelOfTheFolder:
    """`models.config` may serve the folder under another name or another path."""

    @pytest.fixture
    def config(self, films):
        return films.parent / "models.config"

    def served(self, config, name, base_path):
        """Writes a file with one model, which has a label."""
        models = Models().with_model(name, str(base_path))
        models.with_label(name, "stable", 1).write(config)

    @pytest.mark.parametrize("move", [promote, rollback])
    def test_another_name_is_refused(self, films, config, move):
        self.served(config, "movies", "/models/films")
        before = config.read_text()
        with pytest.raises(ReleaseError, match=r"'films'\. Received: .* as 'movies'"):
            move(films)
        assert config.read_text() == before
        # What the message says.
        link = films.parent / "movies"
        link.symlink_to(films)
        assert promote(link, 1).state == "unchanged"

    def test_a_folder_of_the_same_name_elsewhere_is_another_model(
        self, films, config, tmp_path
    ):
        elsewhere = tmp_path / "elsewhere" / films.name
        elsewhere.mkdir(parents=True)
        self.served(config, "others", elsewhere)
        promote(films, 1)
        assert "films" in read_models(config).names

    def test_a_model_is_not_added_to_those_of_another_machine(self, films, config):
        self.served(config, "books", "/models/books")
        with pytest.raises(ReleaseError, match=r"with /models/books\. Add the model"):
            promote(films)
        assert read_models(config).names == ("books",)

    def test_a_model_is_added_to_those_of_this_machine(self, films, config):
        (films.parent / "books").mkdir()
        self.served(config, "books", films.parent / "books")
        assert promote(films).state == "moved"
        assert read_models(config).names == ("books", "films")


class TestRollback:
    def test_the_label_moves_back_to_the_version_that_it_left(self, films):
        promote(films, 3)
        promote(films, 10, now=True)
        done = rollback(films)
        assert (done.version, done.before) == (3, 10)
        assert labels(films) == {"stable": 3}

    def test_a_second_call_does_not_move_the_label_forward(self, films):
        promote(films, 3)
        promote(films, 10, now=True)
        rollback(films)
        with pytest.raises(ReleaseError, match="an earlier rollback was interrupted"):
            rollback(films)
        assert labels(films) == {"stable": 3}

    def test_a_pending_promotion_is_not_a_rollback(self, films):
        promote(films, 3)
        promote(films, 10)
        with pytest.raises(ReleaseError, match="must have a lower version"):
            rollback(films)
        assert labels(films) == {"stable": 3}

    def test_a_server_can_be_asked_first(self, films, server):
        endpoints = [server.endpoints["grpc"]]
        promote(films, 10)
        promote(films, 3)  # Pending, so the server may not have loaded it.
        server.versions = {10: "AVAILABLE"}
        with pytest.raises(ReleaseError, match="have loaded version 3"):
            rollback(films, endpoints=endpoints)
        assert labels(films) == {"stable": 10}
        server.versions[3] = "AVAILABLE"
        assert rollback(films, endpoints=endpoints).version == 3

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

    def test_another_label_takes_no_version_to_roll_back_to(self, films):
        promote(films, 1)
        promote(films, 2, now=True)
        promote(films, 3, label="canary", now=True)
        assert rollback(films).version == 1

    def test_a_version_that_another_label_left_is_not_chosen(self, films):
        promote(films, 1)
        promote(films, 2, label="canary", now=True)
        promote(films, 3, now=True)
        promote(films, 10, label="canary", now=True)
        with pytest.raises(ReleaseError, match=r"\[1, 2\], some of which"):
            rollback(films)

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

    @pytest.mark.parametrize(
        ("entry", "gone"),
        [
            ('name: "movies" labelled', [1, 3]),
            ('name: "films" model_version_policy { all {} }', []),
            ('name: "films"', [1, 2, 3]),
        ],
    )
    def test_each_model_of_the_folder_keeps_its_versions(self, films, entry, gone):
        labelled = (
            "model_version_policy { specific { versions: 2 } } "
            'version_labels { key: "stable" value: 2 }'
        )
        entry = entry.replace("labelled", labelled)
        (films.parent / "models.config").write_text(
            f'model_config_list {{ config {{ {entry} base_path: "/models/films" }} }}'
        )
        assert prune(films, 1) == gone

    def test_versions_are_ordered_as_numbers(self, films):
        assert prune(films, 2, unlabelled=True) == [1, 2]

    def test_a_link_is_the_folder_that_the_config_names(self, films):
        promote(films, 1)
        (films.parent / "current").symlink_to(films)
        assert prune(films.parent / "current", 1) == [2, 3]

    def test_without_a_model_in_this_folder_nothing_is_removed(self, films):
        promote(films, 1)
        other = films.with_name("movies")
        films.rename(other)
        with pytest.raises(ReleaseError, match=r"a folder called 'movies'.*unlabelled"):
            prune(other, 1)
        assert layout.versions(other) == [1, 2, 3, 10]

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


class TestOddEntries:
    """Files, links and numbers in a model's folder that nobody expects there."""

    @pytest.fixture
    def odd(self, films):
        (films / "20").write_text("a file")
        (films / "12345678901234567890").mkdir()
        (films / "0042").mkdir()
        (films / "30").symlink_to("nowhere")
        (films / "99x").mkdir()
        return films

    def test_they_are_not_versions(self, odd):
        assert layout.versions(odd) == [1, 2, 3, 10]
        assert promote(odd).version == 10
        assert prune(odd, 1) == [1, 2, 3]

    def test_the_next_version_is_above_all_numbers_that_a_server_reads(self, odd):
        assert layout.next_version(odd) == 43
        with publishing.staged(odd) as (_, version):
            assert version == 43
        assert layout.versions(odd) == [1, 2, 3, 10, 43]

    def test_a_linked_version_can_be_promoted(self, films):
        (films / "11").symlink_to("3")
        assert promote(films).version == 11

    def test_pruning_a_link_keeps_its_target(self, films):
        elsewhere = films.parent / "elsewhere"
        (films / "2").rename(elsewhere)
        (films / "2").symlink_to(elsewhere)
        assert prune(films, 2, unlabelled=True) == [1, 2]
        assert (elsewhere / "saved_model.pb").exists()
        assert not (films / "2").is_symlink()

    def test_the_target_of_a_link_that_stays_is_kept(self, films):
        (films / "11").symlink_to("10")
        (films / "12").symlink_to(films / "11")
        (films / "13").symlink_to(films / ".." / "films" / "2")
        assert prune(films, 2, unlabelled=True) == [1, 3]
        assert layout.versions(films) == [2, 10, 11, 12, 13]

    def test_leftovers_of_any_kind_do_not_block_pruning_or_publishing(self, films):
        elsewhere = films.parent / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "file").touch()
        for prefix in (".pruned-", ".staging-"):
            (films / f"{prefix}1").mkdir(exist_ok=True)
            (films / f"{prefix}1" / "file").touch()
            (films / f"{prefix}2").touch()
            (films / f"{prefix}3").symlink_to(elsewhere)
        assert prune(films, 1, unlabelled=True) == [1, 2, 3]
        with publishing.staged(films) as (_, version):
            assert version == 11
        assert sorted(path.name for path in films.iterdir()) == ["10", "11"]
        assert (elsewhere / "file").exists()

    def test_the_largest_number_is_an_error_for_the_next_version(self, films):
        (films / str(2**63 - 1)).mkdir()
        with pytest.raises(NotAnExportError, match="Rename or remove it"):
            layout.next_version(films)


class TestTheSharedFile:
    def test_two_models_can_be_promoted_at_once(self, tmp_path):
        names = ("films", "books")
        for name in names:
            write_version(tmp_path / name, 1)
        for _ in range(20):
            (tmp_path / "models.config").unlink(missing_ok=True)
            threads = [
                threading.Thread(target=promote, args=(tmp_path / n,)) for n in names
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            models = read_models(tmp_path / "models.config")
            assert {n: dict(models[n].labels) for n in models.names} == {
                n: {"stable": 1} for n in names
            }

    def test_it_can_be_in_the_model_s_own_folder(self, films):
        assert promote(films, config=films / "models.config").state == "moved"
        assert read_models(films / "models.config").names == ("films",)

    def test_a_linked_file_is_changed_in_its_place(self, films):
        real = films.parent / "deployed"
        real.mkdir()
        (real / "models.config").touch()
        (films.parent / "models.config").symlink_to(real / "models.config")
        promote(films)
        assert (films.parent / "models.config").is_symlink()
        assert read_models(real / "models.config").names == ("films",)

    def test_it_can_be_read_by_all_users_whatever_the_umask(self, films):
        before = os.umask(0o077)
        try:
            promote(films)
            with publishing.staged(films.parent / "new" / "books") as (staging, _):
                (staging / "variables").mkdir()
                (staging / "variables" / "index").touch()
        finally:
            os.umask(before)
        readable = [films.parent / "models.config"]
        readable += [films.parent / "new", *(films.parent / "new").rglob("*")]
        assert len(readable) == 6
        for path in readable:
            want = 0o755 if path.is_dir() else 0o644
            assert path.stat().st_mode & 0o777 == want, path

    @pytest.mark.parametrize("name", ["fil[m]s", "fi\\lms", "*", "Filme größer"])
    def test_names_with_special_characters_work(self, tmp_path, name):
        for version in (1, 2):
            write_version(tmp_path / name, version)
        (tmp_path / name / ".pruned-9").mkdir()
        assert promote(tmp_path / name, 2).version == 2
        assert prune(tmp_path / name, 1) == [1]
        assert os.listdir(tmp_path / name) == ["2"]
        models = read_models(tmp_path / "models.config")
        assert models[name].base_path == str(tmp_path / name)

    def test_a_folder_that_does_not_exist_is_an_error(self, films):
        with pytest.raises(ReleaseError, match="must be a file in an existing folder"):
            promote(films, config=films.parent / "missing" / "models.config")

    def test_the_model_is_named_by_its_folder_also_from_inside(
        self, films, monkeypatch
    ):
        monkeypatch.chdir(films)
        assert promote(Path(".")).config == films.parent / "models.config"
        assert labels(films) == {"stable": 10}
