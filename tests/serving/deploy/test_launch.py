"""launch: which server is started, with which configuration and command."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2
from typer.testing import CliRunner

from recdistill.cli.main import app
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
from tests.serving import toy


@pytest.fixture
def exports(tmp_path):
    for name, number in (("films", 1), ("books", 7)):
        (tmp_path / "export" / name / str(number)).mkdir(parents=True)
    (tmp_path / "export" / "notes").mkdir()
    return tmp_path / "export"


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Puts programs on the PATH that write down how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def add(name, body="exit 0"):
        program = folder / name
        program.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/{name}.arguments\n{body}\n'
        )
        program.chmod(0o755)
        return folder / f"{name}.arguments"

    return add


class TestFindingModels:
    def test_one_model_or_a_folder_of_them(self, exports):
        assert found_models(exports / "films") == {"films": exports / "films"}
        assert found_models(exports) == {
            "books": exports / "books",
            "films": exports / "films",
        }

    @pytest.mark.parametrize("folder", ["notes", "films/1", "nowhere"])
    def test_a_folder_without_versions(self, exports, folder):
        with pytest.raises(LaunchError, match=r"EXPORT_DIR must be .*Received: .*"):
            found_models(exports / folder)


class TestChoosing:
    def test_the_real_server_is_taken_where_it_is(self, exports, programs):
        launch = Launch(exports)
        assert launch.engine("auto") == "embedded"
        programs("tensorflow_model_server")
        assert launch.engine("auto") == "tf-serving"
        assert launch.engine("embedded") == "embedded"

    def test_docker_is_taken_only_where_it_is_asked_for(self, exports, programs):
        programs("docker")
        assert Launch(exports).engine("auto") == "embedded"
        assert Launch(exports).engine("docker") == "docker"

    def test_one_that_is_not_there(self, exports, programs):
        with pytest.raises(LaunchError, match="requires tensorflow_model_server"):
            Launch(exports).engine("tf-serving")
        with pytest.raises(LaunchError, match=r"must be auto.*Received: 'triton'"):
            Launch(exports).engine("triton")


class TestTheConfiguration:
    def test_every_model_is_in_it_and_it_goes_afterwards(self, exports):
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


class TestTheCommand:
    def test_its_flags_are_all_known_to_the_server(self, exports, tmp_path):
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

    def test_a_given_configuration_is_read_again(self, exports, tmp_path):
        launch = Launch(exports, models=tmp_path / "own.config")
        command = model_server_command(launch, "tf-serving", Path("/c"))
        assert f"--model_config_file={tmp_path}/own.config" in command
        assert "--model_config_file_poll_wait_seconds=5" in command

    def test_docker_publishes_on_the_loopback_address_and_only_reads(self, exports):
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
        # What follows the image is the server's.
        image = command.index("serving:1")
        assert "--model_config_file=/config/models.config" in command[image:]
        assert "--port=8500" in command[image:]

    def test_it_is_run_and_its_exit_code_is_passed_on(self, exports, programs):
        arguments = programs("tensorflow_model_server", "exit 7")
        assert run_model_server(Launch(exports), "tf-serving") == 7
        assert "--port=8500" in arguments.read_text().splitlines()


class TestServe:
    def test_it_says_which_server_it_starts(self, exports, programs):
        programs("tensorflow_model_server")
        done = CliRunner().invoke(app, ["serve", str(exports)])
        assert done.exit_code == 0
        assert done.output.startswith("tensorflow_model_server: gRPC at 8500")
        assert "on all addresses" in done.output

    def test_a_folder_that_cannot_be_served_is_bad_input(self, tmp_path):
        done = CliRunner().invoke(app, ["serve", str(tmp_path), "--engine=embedded"])
        assert done.exit_code == 2
        assert "EXPORT_DIR must be" in " ".join(done.output.split())

    def test_a_signal_reaches_the_real_server(self, exports, programs):
        ready = exports / "ready"
        body = f"trap 'exit 0' TERM\ntouch {ready}\nwhile :; do sleep 0.05; done"
        programs("tensorflow_model_server", body)
        process = subprocess.Popen(
            [sys.executable, "-m", "recdistill", "serve", str(exports)],
            stdout=subprocess.PIPE,
            text=True,
        )
        while not ready.exists():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert said.startswith("tensorflow_model_server")

    def test_the_embedded_server_drains_on_a_signal_and_needs_no_keras(self, tmp_path):
        base = tmp_path / "toy"
        base.mkdir()
        toy.publish(base, 1)
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE_AND_TELL, str(base)],
            stdout=subprocess.PIPE,
            text=True,
        )
        lines = [process.stdout.readline()]
        while lines[-1] and "/monitoring/prometheus/metrics" not in lines[-1]:
            lines.append(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert lines[0].startswith("Embedded server, for development")
        assert lines[1].startswith("gRPC  127.0.0.1:")
        assert rest.splitlines() == ["Draining", "[]"]


SERVE_AND_TELL = """
import sys
from recdistill.cli.main import app

options = ["--engine=embedded", "--port=0", "--rest-port=0"]
app(["serve", sys.argv[1], *options], standalone_mode=False)
unwanted = ("keras", "tf_keras", "keras_rs", "recdistill.models.two_tower")
print([name for name in unwanted if sys.modules.get(name) is not None])
"""
"""A server that tells at its end what it should not have loaded."""
