"""launch: which server is started, with which configuration and command."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from recdistill.errors import LaunchError
from recdistill.serving.deploy.batching_config import Batching
from recdistill.serving.deploy.launch import (
    Launch,
    configured,
    found_models,
    model_server_command,
    run_model_server,
)
from recdistill.serving.deploy.model_server import FLAGS
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


@pytest.fixture(autouse=True)
def handlers():
    """Restores the signal handlers of this process."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


class TestFindingModels:
    def test_one_model_or_a_folder_of_models_is_found(self, exports):
        assert found_models(exports / "films") == {"films": exports / "films"}
        assert found_models(exports) == {
            "books": exports / "books",
            "films": exports / "films",
        }

    @pytest.mark.parametrize("folder", ["notes", "films/1", "nowhere"])
    def test_a_folder_without_versions_is_refused(self, exports, folder):
        with pytest.raises(LaunchError, match=r"EXPORT_DIR must be .*Received: .*"):
            found_models(exports / folder)


class TestEngine:
    def test_the_model_server_is_used_if_it_is_installed(self, exports, programs):
        launch = Launch(exports)
        assert launch.engine("auto") == "embedded"
        programs("tensorflow_model_server")
        assert launch.engine("auto") == "tf-serving"
        assert launch.engine("embedded") == "embedded"

    def test_docker_is_used_only_on_request(self, exports, programs):
        programs("docker")
        assert Launch(exports).engine("auto") == "embedded"
        assert Launch(exports).engine("docker") == "docker"

    def test_a_server_that_is_not_installed_is_refused(self, exports, programs):
        with pytest.raises(LaunchError, match="requires tensorflow_model_server"):
            Launch(exports).engine("tf-serving")
        with pytest.raises(LaunchError, match=r"must be auto.*Received: 'triton'"):
            Launch(exports).engine("triton")


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


class TestCommand:
    def test_the_server_has_all_its_flags(self, exports, tmp_path):
        launch = Launch(
            exports, 9000, 9001, batching=tmp_path / "b", per_model_batching=True
        )
        program, *flags = model_server_command(launch, "tf-serving", Path("/c"))
        given = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
        assert program == "tensorflow_model_server"
        assert given.keys() <= FLAGS
        assert (given["port"], given["rest_api_port"]) == ("9000", "9001")
        assert given["model_config_file"] == "/c/models.config"
        assert given["allow_version_labels_for_unavailable_models"] == "true"
        assert given["enable_batching"] == "true"
        assert given["batching_parameters_file"] == "/c/batching.config"
        assert given["enable_per_model_batching_parameters"] == "true"

    def test_a_given_models_config_is_reloaded(self, exports, tmp_path):
        launch = Launch(exports, models=tmp_path / "own.config")
        command = model_server_command(launch, "tf-serving", Path("/c"))
        assert f"--model_config_file={tmp_path}/own.config" in command
        assert "--model_config_file_poll_wait_seconds=5" in command

    def test_docker_listens_on_loopback_and_mounts_read_only(self, exports):
        launch = Launch(exports, 9000, 9001)
        command = model_server_command(launch, "docker", Path("/c"), "serving:1")
        assert command[:3] == ["docker", "run", "--rm"]
        assert "--publish=127.0.0.1:9000:8500" in command
        assert "--publish=127.0.0.1:9001:8501" in command
        volumes = [word for word in command if word.startswith("--volume")]
        assert set(volumes) == {
            "--volume=/c:/config:ro",
            f"--volume={exports}/books:/models/books:ro",
            f"--volume={exports}/films:/models/films:ro",
        }
        # Arguments after the image are those of the server.
        image = command.index("serving:1")
        assert "--model_config_file=/config/models.config" in command[image:]
        assert "--port=8500" in command[image:]

    def test_its_exit_code_is_returned(self, exports, programs):
        arguments = programs("tensorflow_model_server", "exit 7")
        assert run_model_server(Launch(exports), "tf-serving") == 7
        assert "--port=8500" in arguments.read_text().splitlines()

    @pytest.mark.parametrize("when", ["before it starts", "while it runs"])
    def test_a_signal_is_forwarded_to_it(self, exports, monkeypatch, when):
        """Whether the signal comes before or after the process exists."""
        sent = []

        class Process:
            def __init__(self, command, **settings):
                if when == "before it starts":
                    os.kill(os.getpid(), signal.SIGTERM)

            def send_signal(self, number):
                sent.append(number)

            def wait(self):
                if when == "while it runs":
                    os.kill(os.getpid(), signal.SIGTERM)
                return 1

        monkeypatch.setattr(subprocess, "Popen", Process)
        assert run_model_server(Launch(exports), "tf-serving") == 0
        assert sent == [signal.SIGTERM]
