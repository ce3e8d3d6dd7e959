"""launch: which server is started, at which ports, with which configuration."""

import os
import socket
from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from recdistill.errors import ConfigError, LaunchError, NotAnExportError
from recdistill.serving.deploy.batching_config import Batching
from recdistill.serving.deploy.launch import (
    Launch,
    configured,
    found_models,
    on_free_ports,
)
from recdistill.serving.deploy.models_config import Models
from tests.serving.programs import adder


@pytest.fixture
def exports(tmp_path):
    for name, number in (("films", 1), ("books", 7)):
        (tmp_path / "export" / name / str(number)).mkdir(parents=True)
    (tmp_path / "export" / "notes").mkdir()
    return tmp_path / "export"


@pytest.fixture
def programs(tmp_path, monkeypatch):
    return adder(tmp_path / "bin", monkeypatch)


class TestFindingModels:
    def test_one_model_or_a_folder_of_models_is_found(self, exports):
        assert found_models(exports / "films") == {"films": exports / "films"}
        assert found_models(exports) == {
            "books": exports / "books",
            "films": exports / "films",
        }

    def test_a_linked_folder_keeps_its_own_name(self, exports, monkeypatch):
        (exports / "new").symlink_to("films")
        assert found_models(exports / "new") == {"new": exports / "new"}
        monkeypatch.chdir(exports / "films")
        assert found_models(Path(".")) == {"films": exports / "films"}

    @pytest.mark.parametrize("name", ["a[b]", "a\\b"])
    def test_a_path_from_which_no_server_can_load_is_refused(self, tmp_path, name):
        (tmp_path / name / "1").mkdir(parents=True)
        with pytest.raises(NotAnExportError, match=r"must not contain '\['"):
            found_models(tmp_path / name)

    @pytest.mark.parametrize("folder", ["notes", "films/1", "nowhere"])
    def test_a_folder_without_versions_is_refused(self, exports, folder):
        with pytest.raises(LaunchError, match=r"EXPORT_DIR must be .*Received: .*"):
            found_models(exports / folder)


class TestEngine:
    @pytest.mark.parametrize("address", [None, "127.0.0.1", "192.168.1.7", "::1"])
    def test_an_installed_model_server_is_not_used_for_one_address(
        self, exports, programs, address
    ):
        programs("tensorflow_model_server")
        assert Launch(exports, address=address).engine("auto") == "embedded"

    @pytest.mark.parametrize("address", ["0.0.0.0", "::"])
    def test_the_model_server_is_used_for_all_addresses_if_it_is_installed(
        self, exports, programs, address
    ):
        launch = Launch(exports, address=address)
        assert launch.engine("auto") == "embedded"
        programs("tensorflow_model_server")
        assert launch.engine("auto") == "tf-serving"
        assert launch.engine("embedded") == "embedded"

    def test_the_model_server_is_refused_for_one_address(self, exports, programs):
        programs("tensorflow_model_server")
        assert Launch(exports).engine("tf-serving") == "tf-serving"
        with pytest.raises(LaunchError, match=r"must be 0.0.0.0 .*Received: 10.0.0.1"):
            Launch(exports, address="10.0.0.1").engine("tf-serving")

    def test_docker_is_used_only_on_request(self, exports, programs):
        programs("docker")
        assert Launch(exports).engine("auto") == "embedded"
        assert Launch(exports).engine("docker") == "docker"

    def test_a_server_that_is_not_installed_is_refused(self, exports, programs):
        with pytest.raises(LaunchError, match="requires tensorflow_model_server"):
            Launch(exports).engine("tf-serving")
        with pytest.raises(LaunchError, match=r"must be auto.*Received: 'triton'"):
            Launch(exports).engine("triton")


class TestPorts:
    def test_a_port_of_0_is_replaced_by_a_free_one(self, exports):
        for engine in ("tf-serving", "docker"):
            launch = on_free_ports(Launch(exports, 0, 0), engine)
            assert launch.port != launch.rest_port
            assert min(launch.port, launch.rest_port) > 0
            assert on_free_ports(launch, engine) == launch

    @pytest.mark.parametrize("name", ["port", "rest_port"])
    @pytest.mark.parametrize("engine", ["tf-serving", "docker"])
    def test_a_taken_port_is_refused(self, exports, name, engine):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            launch = Launch(exports, **{"port": 0, "rest_port": 0, name: port})
            option = "--" + name.replace("_", "-")
            with pytest.raises(LaunchError, match=f"`{option}` must be a free port"):
                on_free_ports(launch, engine)

    def test_one_port_for_both_protocols_is_refused(self, exports):
        with pytest.raises(LaunchError, match=r"must differ\. Received: 9000 for both"):
            Launch(exports, 9000, 9000)

    def test_an_address_that_does_not_exist_is_refused(self, exports):
        launch = Launch(exports, 0, 0, address="192.0.2.1")
        with pytest.raises(LaunchError, match=r"free port of 192\.0\.2\.1"):
            on_free_ports(launch, "docker")


class TestConfiguration:
    def test_it_has_every_model_and_is_removed_afterwards(self, exports):
        with configured(Launch(exports)) as folder:
            text = (folder / "models.config").read_text()
            config = text_format.Parse(
                text, model_server_config_pb2.ModelServerConfig()
            )
            paths = {m.name: m.base_path for m in config.model_config_list.config}
            assert paths == {n: str(exports / n) for n in ("books", "films")}
            assert "enable: true" in (folder / "monitoring.config").read_text()
            assert not (folder / "batching.config").exists()
        assert not folder.exists()

    def test_given_files_are_used(self, exports, tmp_path):
        own, batching = tmp_path / "own.config", tmp_path / "batching.config"
        models = Models().with_model("mine", "/elsewhere").with_label("mine", "old", 2)
        models.write(own)
        Batching(8, 100, 4, 2).write(batching)
        launch = Launch(exports, models=own, batching=batching)
        with configured(launch) as folder:
            assert Models((folder / "models.config").read_text()) == models
            assert (folder / "batching.config").read_text() == batching.read_text()

    def test_every_user_can_read_it_whatever_the_umask(self, exports, tmp_path):
        Batching(8, 100, 4, 2).write(tmp_path / "batching.config")
        (tmp_path / "batching.config").chmod(0o600)
        launch = Launch(exports, batching=tmp_path / "batching.config")
        before = os.umask(0o077)
        try:
            with configured(launch) as folder:
                modes = {p.name: p.stat().st_mode & 0o777 for p in folder.iterdir()}
                assert folder.stat().st_mode & 0o777 == 0o755
        finally:
            os.umask(before)
        names = ("models.config", "monitoring.config", "batching.config")
        assert modes == dict.fromkeys(names, 0o644)

    def test_a_file_that_is_not_text_is_refused(self, exports, tmp_path):
        (tmp_path / "own.config").write_bytes(b"\xff\xfe")
        launch = Launch(exports, models=tmp_path / "own.config")
        with (
            pytest.raises(ConfigError, match="must be text in UTF-8"),
            configured(launch),
        ):
            pass
