"""model_server_process: the command, its environment, and how it ends."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from recdistill.serving.deploy.batching_config import Batching
from recdistill.serving.deploy.launch import Launch
from recdistill.serving.deploy.model_server import FLAGS
from recdistill.serving.deploy.model_server_process import (
    model_server_command,
    run_model_server,
)
from tests.serving.programs import adder


@pytest.fixture
def exports(tmp_path):
    for name, number in (("films", 1), ("books", 7)):
        (tmp_path / "export" / name / str(number)).mkdir(parents=True)
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


class TestCommand:
    def test_the_server_has_all_its_flags(self, exports, tmp_path):
        Batching(16, 0, 16, 2).write(tmp_path / "b")
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
        # 16 rows in each of 2 running and 16 waiting batches, and a reserve of 64.
        assert given["grpc_max_threads"] == given["rest_api_num_threads"] == "352"

    def test_threads_follow_the_batchers_of_all_models(self, exports):
        Batching(8, 0, 3, 1).write(exports / "films" / "1" / "batching_params.pbtxt")
        Batching(4, 0, 4, 1).write(exports / "books" / "7" / "batching_params.pbtxt")
        launch = Launch(exports, per_model_batching=True, rest_threads=7)
        command = model_server_command(launch, "tf-serving", Path("/c"))
        assert f"--grpc_max_threads={8 * 4 + 4 * 5 + 64}" in command
        assert "--rest_api_num_threads=7" in command

    def test_a_server_without_batching_has_enough_threads_too(self, exports):
        command = model_server_command(Launch(exports), "docker", Path("/c"))
        assert "--grpc_max_threads=256" in command
        assert "--rest_api_num_threads=256" in command

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
        mounts = [word for word in command if word.startswith("--mount")]
        assert set(mounts) == {
            "--mount=type=bind,source=/c,target=/config,readonly",
            f"--mount=type=bind,source={exports}/books,target=/models/books,readonly",
            f"--mount=type=bind,source={exports}/films,target=/models/films,readonly",
        }
        # Arguments after the image are those of the server.
        image = command.index("serving:1")
        assert "--model_config_file=/config/models.config" in command[image:]
        assert "--port=8500" in command[image:]

    def test_docker_mounts_folders_with_any_name(self, tmp_path):
        (tmp_path / "10:30, new" / "1").mkdir(parents=True)
        launch = Launch(tmp_path / "10:30, new", address="::1")
        command = model_server_command(launch, "docker", Path("/c"))
        assert (
            f'--mount=type=bind,"source={tmp_path}/10:30, new",'
            '"target=/models/10:30, new",readonly'
        ) in command
        assert "--publish=[::1]:8500:8500" in command

    @pytest.mark.parametrize(
        ("level", "passed"), [("3", "1"), ("2", "2"), ("0", "0"), (None, "not set")]
    )
    def test_it_reports_why_a_model_does_not_load(
        self, exports, programs, monkeypatch, level, passed
    ):
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
        if level is not None:
            monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
        seen = exports / "level"
        body = f'echo "${{TF_CPP_MIN_LOG_LEVEL:-not set}}" > {seen}'
        programs("tensorflow_model_server", body)
        assert run_model_server(Launch(exports), "tf-serving") == 0
        assert seen.read_text().strip() == passed

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
