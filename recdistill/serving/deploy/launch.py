"""Which server a folder of exports is served by, and with what configuration.

The real model server where there is one: `tensorflow_model_server` on the PATH, or its
image in Docker where that is asked for. Else the embedded one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from recdistill.errors import LaunchError
from recdistill.export.layout import versions
from recdistill.serving.deploy.model_server import server_flags
from recdistill.serving.deploy.models_config import Models, write_monitoring

__all__ = [
    "IMAGE",
    "Launch",
    "configured",
    "found_models",
    "model_server_command",
    "run_model_server",
]

Engine = Literal["tf-serving", "docker", "embedded"]

BINARY = "tensorflow_model_server"

IMAGE = "tensorflow/serving:2.19.1"
"""The model server for Docker, unless another is asked for."""

MODELS_POLL_S = 5
"""How often a given `models.config` is read again, in seconds."""

_MODELS_FILE, _MONITORING_FILE = "models.config", "monitoring.config"
_BATCHING_FILE = "batching.config"
_FOLDERS, _CONFIG, _OWN_CONFIG = Path("/models"), Path("/config"), Path("/own-config")
"""Where a container sees models, what is written here, and a given `models.config`."""

_INSIDE = {"port": 8500, "rest_api_port": 8501}
"""The ports inside a container."""


@dataclass(frozen=True)
class Launch:
    """What is to be served, and where.

    Attributes:
        exports: The folder of a model's versions, or one of several such folders.
        port: For gRPC.
        rest_port: For REST.
        address: Where the embedded server and Docker listen.
        models: A `models.config` to use instead of one for all of `exports`.
        batching: A `batching.config`; without it requests are not batched.
        per_model_batching: Whether a version's `batching_params.pbtxt` counts.
        poll_s: How often folders are looked at for versions, in seconds.
    """

    exports: Path
    port: int = 8500
    rest_port: int = 8501
    address: str = "127.0.0.1"
    models: Path | None = None
    batching: Path | None = None
    per_model_batching: bool = False
    poll_s: float = 1.0

    def engine(self, wanted: str) -> Engine:
        """The server to start.

        Args:
            wanted: "auto", or the name of one.

        Raises:
            LaunchError: If it is not there, or there is none of that name.
        """
        programs: dict[Engine, str] = {"tf-serving": BINARY, "docker": "docker"}
        if wanted == "embedded":
            return "embedded"
        if wanted == "auto":
            return "tf-serving" if shutil.which(BINARY) else "embedded"
        for engine, program in programs.items():
            if engine == wanted and shutil.which(program):
                return engine
            if engine == wanted:
                raise LaunchError(
                    f"`--engine {wanted}` needs {program} on the PATH. "
                    "Received: none there"
                )
        raise LaunchError(
            "`--engine` must be auto, tf-serving, docker or embedded. "
            f"Received: {wanted!r}"
        )


def found_models(exports: Path) -> dict[str, Path]:
    """The models in a folder: folders with versions, by their names.

    Args:
        exports: The folder of one model, whose name it has, or of several.

    Raises:
        LaunchError: If there is no version in it.
    """
    folder = exports.resolve()
    if versions(folder):
        return {folder.name: folder}
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    models = {path.name: path for path in inside if versions(path)}
    if not models:
        raise LaunchError(
            "EXPORT_DIR must be a model's folder, which has a folder for each version "
            "with a number as its name, or a folder of such folders. "
            f"Received: {exports}"
        )
    return models


@contextlib.contextmanager
def configured(launch: Launch, seen_at: Path | None = None) -> Iterator[Path]:
    """Writes the configuration of a server into a folder that is removed afterwards.

    Args:
        launch: What is to be served.
        seen_at: The folder in which the server sees the models, each under its name,
            where that is not their own.

    Yields:
        The folder, with `models.config`, `monitoring.config` and, where requests are
        batched, `batching.config`.

    Raises:
        LaunchError: If there is no model to serve.
        ConfigError: If a given configuration is none.
        OSError: If a file cannot be read.
    """
    if launch.models is not None:
        models = Models(launch.models.read_text(encoding="utf-8"))
    else:
        models = Models()
        for name, path in found_models(launch.exports).items():
            models = models.with_model(name, str(seen_at / name if seen_at else path))
    with tempfile.TemporaryDirectory(prefix="recdistill-serve-") as name:
        folder = Path(name)
        models.write(folder / _MODELS_FILE)
        write_monitoring(folder / _MONITORING_FILE)
        if launch.batching is not None:
            shutil.copyfile(launch.batching, folder / _BATCHING_FILE)
        # A container's user is another one.
        folder.chmod(0o755)
        yield folder


def model_server_command(
    launch: Launch, engine: Engine, config: Path, image: str = IMAGE
) -> list[str]:
    """The command that starts the real model server.

    Args:
        launch: What is to be served.
        engine: "tf-serving" or "docker".
        config: The folder with its configuration.
        image: The image, for Docker.

    Raises:
        LaunchError: If there is no model to serve.
    """
    in_container = engine == "docker"
    there = _CONFIG if in_container else config
    flags: dict[str, str | int | bool] = {
        "model_config_file": str(there / _MODELS_FILE),
        "monitoring_config_file": str(there / _MONITORING_FILE),
        # Labels would fail at every start without it.
        "allow_version_labels_for_unavailable_models": True,
        "file_system_poll_wait_seconds": max(1, round(launch.poll_s)),
    }
    if launch.models is not None:
        # The file itself and no copy: it is read again when it changes.
        folder = _OWN_CONFIG if in_container else launch.models.resolve().parent
        flags["model_config_file"] = str(folder / launch.models.name)
        flags["model_config_file_poll_wait_seconds"] = MODELS_POLL_S
    if launch.per_model_batching:
        flags["enable_batching"] = True
        flags["enable_per_model_batching_parameters"] = True
    if launch.batching is not None:
        flags["enable_batching"] = True
        flags["batching_parameters_file"] = str(there / _BATCHING_FILE)
    if in_container:
        return [*_docker(launch, config), image, *server_flags({**_INSIDE, **flags})]
    ports = {"port": launch.port, "rest_api_port": launch.rest_port}
    return [BINARY, *server_flags({**ports, **flags})]


def run_model_server(launch: Launch, engine: Engine, image: str = IMAGE) -> int:
    """Runs the real model server until it ends or a signal comes.

    Args:
        launch: What is to be served.
        engine: "tf-serving" or "docker".
        image: The image, for Docker.

    Returns:
        Its exit code; 0 after a signal.

    Raises:
        LaunchError: If there is no model to serve.
        ConfigError: If a given configuration is none.
        OSError: If a file cannot be read.
    """
    told = False
    with configured(launch, _FOLDERS if engine == "docker" else None) as config:
        command = model_server_command(launch, engine, config, image)
        # In a group of its own, so that Ctrl-C reaches it once: through us.
        process = subprocess.Popen(command, start_new_session=True)

        def forward(number: int, frame: FrameType | None) -> None:
            nonlocal told
            told = True
            process.send_signal(signal.SIGTERM)

        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, forward)
        code = process.wait()
    return 0 if told else code


def _docker(launch: Launch, config: Path) -> list[str]:
    mounts = {config: _CONFIG}
    if launch.models is None:
        for name, path in found_models(launch.exports).items():
            mounts[path] = _FOLDERS / name
    else:
        # The folders that it names are those of this machine.
        mounts[launch.models.resolve().parent] = _OWN_CONFIG
        mounts[launch.exports.resolve()] = launch.exports.resolve()
    ports = {launch.port: _INSIDE["port"], launch.rest_port: _INSIDE["rest_api_port"]}
    return [
        "docker",
        "run",
        "--rm",
        "--init",
        *(f"--publish={launch.address}:{a}:{b}" for a, b in ports.items()),
        *(f"--volume={a}:{b}:ro" for a, b in mounts.items()),
        f"--user={os.getuid()}:{os.getgid()}",
        f"--entrypoint={BINARY}",
    ]
