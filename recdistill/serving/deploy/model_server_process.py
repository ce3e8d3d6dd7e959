"""`tensorflow_model_server` as a process: its command, directly or in Docker."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
from pathlib import Path
from types import FrameType

from recdistill.export.layout import BATCHING_PARAMS, versions
from recdistill.serving.deploy.batching_config import read_batching
from recdistill.serving.deploy.launch import (
    BINARY,
    MODELS_POLL_S,
    Engine,
    Launch,
    configured,
    found_models,
)
from recdistill.serving.deploy.model_server import (
    BATCHING_FILE,
    MODELS_FILE,
    MONITORING_FILE,
    PORTS,
    UNBATCHED_THREADS,
    request_threads,
    server_flags,
)

__all__ = ["IMAGE", "model_server_command", "run_model_server"]

IMAGE = "tensorflow/serving:2.19.1"
"""Default Docker image of the model server."""

_FOLDERS, _CONFIG, _OWN_CONFIG = Path("/models"), Path("/config"), Path("/own-config")
"""Folders in a container: models, written configuration, a given `models.config`."""


def model_server_command(
    launch: Launch, engine: Engine, config: Path, image: str = IMAGE
) -> list[str]:
    """Command that starts `tensorflow_model_server`.

    Args:
        launch: Models to serve, and settings.
        engine: "tf-serving" or "docker".
        config: Folder of the configuration files.
        image: Docker image.

    Raises:
        LaunchError: If there is no model to serve.
        ConfigError: If `launch.batching` is invalid.
        OSError: If it cannot be read.
    """
    in_container = engine == "docker"
    there = _CONFIG if in_container else config
    threads = _threads(launch)
    flags: dict[str, str | int | bool] = {
        "model_config_file": str(there / MODELS_FILE),
        "monitoring_config_file": str(there / MONITORING_FILE),
        # Without it, labels fail at every start.
        "allow_version_labels_for_unavailable_models": True,
        "file_system_poll_wait_seconds": max(1, round(launch.poll_s)),
        "grpc_max_threads": launch.grpc_threads or threads,
        "rest_api_num_threads": launch.rest_threads or threads,
    }
    if launch.models is not None:
        # The file itself and not a copy, because the server reloads it.
        own = Path(os.path.abspath(launch.models))
        if in_container:
            own = _OWN_CONFIG / own.resolve().name
        flags["model_config_file"] = str(own)
        flags["model_config_file_poll_wait_seconds"] = MODELS_POLL_S
    if launch.per_model_batching:
        flags["enable_batching"] = True
        flags["enable_per_model_batching_parameters"] = True
    if launch.batching is not None:
        flags["enable_batching"] = True
        flags["batching_parameters_file"] = str(there / BATCHING_FILE)
    if in_container:
        return [*_docker(launch, config), image, *server_flags({**PORTS, **flags})]
    ports = {"port": launch.port, "rest_api_port": launch.rest_port}
    return [BINARY, *server_flags({**ports, **flags})]


def run_model_server(launch: Launch, engine: Engine, image: str = IMAGE) -> int:
    """Runs `tensorflow_model_server` until it ends or this process gets a signal.

    Args:
        launch: Models to serve, and settings.
        engine: "tf-serving" or "docker".
        image: Docker image.

    Returns:
        The server's exit code; 0 after a signal.

    Raises:
        LaunchError: If there is no model to serve.
        ConfigError: If a given configuration is invalid.
        OSError: If a file cannot be read.
    """
    process: subprocess.Popen[bytes] | None = None
    signalled = False

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal signalled
        signalled = True
        if process is not None:
            process.send_signal(signal.SIGTERM)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, forward)
    with configured(launch, _FOLDERS if engine == "docker" else None) as config:
        command = model_server_command(launch, engine, config, image)
        # In a new session, so that Ctrl-C reaches it only once, forwarded by us.
        process = subprocess.Popen(command, start_new_session=True, env=_environment())
        if signalled:  # The signal came before the process.
            process.send_signal(signal.SIGTERM)
        code = process.wait()
    return 0 if signalled else code


def _threads(launch: Launch) -> int:
    """Number of request threads, from the capacity of all batchers."""
    files = [] if launch.batching is None else [launch.batching]
    if launch.per_model_batching and launch.models is None:
        latest = (
            p / str(versions(p)[-1]) for p in found_models(launch.exports).values()
        )
        files += [p / BATCHING_PARAMS for p in latest if (p / BATCHING_PARAMS).exists()]
    if not files:
        return UNBATCHED_THREADS
    return request_threads(sum(read_batching(file).capacity for file in files))


def _environment() -> dict[str, str]:
    """Environment of the server.

    Level 3, which the command line sets to silence TensorFlow in this process, would
    also hide the reason why a model does not load.
    """
    level = "TF_CPP_MIN_LOG_LEVEL"
    changed = {level: "1"} if os.environ.get(level) == "3" else {}
    return {**os.environ, **changed}


def _mount(source: Path, target: Path) -> str:
    """Option of a read-only mount. Docker reads its fields as a line of CSV."""
    line = io.StringIO()
    fields = ("type=bind", f"source={source}", f"target={target}", "readonly")
    csv.writer(line, lineterminator="").writerow(fields)
    return f"--mount={line.getvalue()}"


def _docker(launch: Launch, config: Path) -> list[str]:
    mounts = {config: _CONFIG}
    if launch.models is None:
        for name, path in found_models(launch.exports).items():
            mounts[path] = _FOLDERS / name
    else:
        # It names folders of this machine, so they keep their paths.
        mounts[launch.models.resolve().parent] = _OWN_CONFIG
        exports = Path(os.path.abspath(launch.exports))
        mounts[exports] = exports
    ports = {launch.port: PORTS["port"], launch.rest_port: PORTS["rest_api_port"]}
    host = f"[{launch.host}]" if ":" in launch.host else launch.host
    return [
        "docker",
        "run",
        "--rm",
        "--init",
        *(f"--publish={host}:{a}:{b}" for a, b in ports.items()),
        *(_mount(source, target) for source, target in mounts.items()),
        f"--user={os.getuid()}:{os.getgid()}",
        f"--entrypoint={BINARY}",
    ]
