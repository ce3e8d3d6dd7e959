"""`recdistill serve`: which server it starts, and how it stops."""

import signal
import socket
import subprocess
import sys

import pytest

from tests.cli.command_line import assert_is_one_paragraph, call
from tests.serving.programs import adder
from tests.small_models import publish_toy

pytestmark = pytest.mark.slow

SERVE = """
import sys
from recdistill.cli.main import app

options = ["--engine=embedded", "--port=0", "--rest-port=0"]
app(["serve", sys.argv[1], *options], standalone_mode=False)
unwanted = ("keras", "tf_keras", "keras_rs", "recdistill.models.two_tower")
print([name for name in unwanted if sys.modules.get(name) is not None])
"""
"""A server that prints the unwanted modules that it imported."""


@pytest.fixture
def exports(tmp_path):
    for name, number in (("films", 1), ("books", 7)):
        (tmp_path / "export" / name / str(number)).mkdir(parents=True)
    return tmp_path / "export"


@pytest.fixture
def programs(tmp_path, monkeypatch):
    return adder(tmp_path / "bin", monkeypatch)


def test_the_command_prints_which_server_it_starts(exports, programs):
    arguments = programs("tensorflow_model_server")
    done = call("serve", exports, "--engine=tf-serving", "--port=0", "--rest-port=0")
    assert done.exit_code == 0
    given = dict(
        line.removeprefix("--").split("=", 1)
        for line in arguments.read_text().splitlines()
    )
    assert done.output.startswith(
        f"tensorflow_model_server: gRPC at {given['port']}, REST at "
        f"{given['rest_api_port']}, on all addresses"
    )
    assert "0" not in (given["port"], given["rest_api_port"])


def test_a_taken_port_is_an_error_before_the_server_starts(exports, programs):
    arguments = programs("tensorflow_model_server")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = call(
            "serve", exports, "--engine=tf-serving", "--port=0", f"--rest-port={port}"
        )
    assert done.exit_code == 2
    assert_is_one_paragraph(done, "`--rest-port` must be a free port of 0.0.0.0")
    assert not arguments.exists()


def test_a_folder_without_versions_is_an_error(tmp_path):
    done = call("serve", tmp_path, "--engine=embedded")
    assert done.exit_code == 2
    assert_is_one_paragraph(done, "EXPORT_DIR must be")


def test_options_of_another_server_are_errors(exports, programs):
    arguments = programs("tensorflow_model_server")
    for option in ("--image=a", "--max-message-mib=16"):
        done = call("serve", exports, "--engine=tf-serving", option)
        assert done.exit_code == 2
        assert_is_one_paragraph(done, "must be left out with `--engine tf-serving`")
    assert not arguments.exists()


def test_a_missing_folder_is_an_error_also_with_a_file_of_models(tmp_path):
    models = tmp_path / "models.config"
    models.write_text("model_config_list {}")
    done = call("serve", tmp_path / "none", "--models", models)
    assert done.exit_code == 2
    assert_is_one_paragraph(done, "EXPORT_DIR must be an existing folder")


def test_a_signal_is_forwarded_to_the_model_server(exports, programs):
    ready = exports / "ready"
    body = f"trap 'exit 0' TERM\ntouch {ready}\nwhile :; do sleep 0.05; done"
    programs("tensorflow_model_server", body)
    options = ["--engine=tf-serving", "--port=0", "--rest-port=0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "recdistill", "serve", str(exports), *options],
        stdout=subprocess.PIPE,
        text=True,
    )
    while not ready.exists():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said.startswith("tensorflow_model_server")


def test_the_embedded_server_drains_on_a_signal_and_does_not_import_keras(tmp_path):
    base = tmp_path / "toy"
    base.mkdir()
    publish_toy(base, 1)
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(base)],
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
