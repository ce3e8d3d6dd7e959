"""Launch of a server for a folder of exports: engine, configuration and command.

The server is `tensorflow_model_server` if it is on the PATH, or its Docker image if
that is requested; otherwise it is the embedded server.
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
from recdistill.export.layout import MANIFEST, verified_manifest, versions
from recdistill.serving.deploy.model_server import (
    BATCHING_FILE,
    MODELS_FILE,
    MONITORING_FILE,
    PORTS,
    server_flags,
)
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
"""Default Docker image of the model server."""

MODELS_POLL_S = 5
"""Interval in seconds at which a given `models.config` is reloaded."""

_FOLDERS, _CONFIG, _OWN_CONFIG = Path("/models"), Path("/config"), Path("/own-config")
"""Folders in a container: models, written configuration, a given `models.config`."""


@dataclass(frozen=True)
class Launch:
    """Models to serve, and settings of the server.

    Attributes:
        exports: Folder of one model's versions, or a folder of such folders.
        port: gRPC port.
        rest_port: REST port.
        address: Address on which the embedded server and Docker listen.
        models: A `models.config` to use; None for one with every model in `exports`.
        batching: A `batching.config`; None for no batching.
        per_model_batching: Whether to use `batching_params.pbtxt` of each version.
        poll_s: Interval in seconds between checks for new versions.
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
        """Server to start.

        Args:
            wanted: "auto", "tf-serving", "docker" or "embedded".

        Raises:
            LaunchError: If the server is not installed, or `wanted` is invalid.
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
                    f"`--engine {wanted}` requires {program}, which was not found on "
                    "the PATH"
                )
        raise LaunchError(
            "`--engine` must be auto, tf-serving, docker or embedded. "
            f"Received: {wanted!r}"
        )


def found_models(exports: Path) -> dict[str, Path]:
    """Folders with versions, by the name of the model.

    Args:
        exports: Folder of one model, named as the model, or a folder of such folders.

    Raises:
        LaunchError: If no folder has versions.
    """
    folder = exports.resolve()
    if versions(folder):
        return {folder.name: folder}
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    models = {path.name: path for path in inside if versions(path)}
    if not models:
        raise LaunchError(
            "EXPORT_DIR must be a model's folder, with a numbered folder for each "
            "version, or a folder of such folders. "
            f"Received: {exports}"
        )
    return models


@contextlib.contextmanager
def configured(launch: Launch, seen_at: Path | None = None) -> Iterator[Path]:
    """Configuration files of a server, in a temporary folder.

    Args:
        launch: Models to serve, and settings.
        seen_at: Folder of the models inside a container; None outside of one.

    Yields:
        The folder, with `models.config`, `monitoring.config` and, with batching,
        `batching.config`.

    Raises:
        LaunchError: If there is no model to serve.
        ArtefactError: If a file of a version is damaged.
        ConfigError: If a given configuration is invalid.
        OSError: If a file cannot be read.
    """
    if launch.models is not None:
        models = Models(launch.models.read_text(encoding="utf-8"))
    else:
        models = Models()
        for name, path in found_models(launch.exports).items():
            latest = path / str(versions(path)[-1])
            if (latest / MANIFEST).exists():
                verified_manifest(latest)
            models = models.with_model(name, str(seen_at / name if seen_at else path))
    with tempfile.TemporaryDirectory(prefix="recdistill-serve-") as name:
        folder = Path(name)
        models.write(folder / MODELS_FILE)
        write_monitoring(folder / MONITORING_FILE)
        if launch.batching is not None:
            shutil.copyfile(launch.batching, folder / BATCHING_FILE)
        # A container runs as a different user.
        folder.chmod(0o755)
        yield folder


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
    """
    in_container = engine == "docker"
    there = _CONFIG if in_container else config
    flags: dict[str, str | int | bool] = {
        "model_config_file": str(there / MODELS_FILE),
        "monitoring_config_file": str(there / MONITORING_FILE),
        # Without it, labels fail at every start.
        "allow_version_labels_for_unavailable_models": True,
        "file_system_poll_wait_seconds": max(1, round(launch.poll_s)),
    }
    if launch.models is not None:
        # The file itself and not a copy, because the server reloads it.
        folder = _OWN_CONFIG if in_container else launch.models.resolve().parent
        flags["model_config_file"] = str(folder / launch.models.name)
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
        process = subprocess.Popen(command, start_new_session=True)
        if signalled:  # The signal came before the process.
            process.send_signal(signal.SIGTERM)
        code = process.wait()
    return 0 if signalled else code


def _docker(launch: Launch, config: Path) -> list[str]:
    mounts = {config: _CONFIG}
    if launch.models is None:
        for name, path in found_models(launch.exports).items():
            mounts[path] = _FOLDERS / name
    else:
        # It names folders of this machine, so they keep their paths.
        mounts[launch.models.resolve().parent] = _OWN_CONFIG
        mounts[launch.exports.resolve()] = launch.exports.resolve()
    ports = {launch.port: PORTS["port"], launch.rest_port: PORTS["rest_api_port"]}
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
