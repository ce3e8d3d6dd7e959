"""Launch of a server for a folder of exports: engine, ports and configuration files.

The server is the embedded one or, on request, `tensorflow_model_server` or its Docker
image. `tensorflow_model_server` listens on all addresses of the machine and has no flag
to choose one, so it is not started only because it is on the PATH.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recdistill.atomic import READABLE
from recdistill.errors import LaunchError
from recdistill.export.layout import (
    MANIFEST,
    check_loadable,
    verified_manifest,
    versions,
)
from recdistill.serving.deploy.model_server import (
    BATCHING_FILE,
    MODELS_FILE,
    MONITORING_FILE,
)
from recdistill.serving.deploy.models_config import (
    Models,
    read_models,
    write_monitoring,
)

__all__ = [
    "Launch",
    "configured",
    "found_models",
    "on_free_ports",
]

Engine = Literal["tf-serving", "docker", "embedded"]

BINARY = "tensorflow_model_server"

MODELS_POLL_S = 5
"""Interval in seconds at which a given `models.config` is reloaded."""

_ALL_ADDRESSES = ("0.0.0.0", "::")


@dataclass(frozen=True)
class Launch:
    """Models to serve, and settings of the server.

    Attributes:
        exports: Folder of one model's versions, or a folder of such folders.
        port: gRPC port; 0 for any free port.
        rest_port: REST port; 0 for any free port.
        address: Address to listen on; None for 127.0.0.1, or for all addresses where
            the server has no other choice.
        models: A `models.config` to use; None for one with every model in `exports`.
        batching: A `batching.config`; None for no batching.
        per_model_batching: Whether to use `batching_params.pbtxt` of each version.
        poll_s: Interval in seconds between checks for new versions.
        grpc_threads: Maximum number of concurrent gRPC requests; 0 for automatic.
        rest_threads: Maximum number of concurrent REST requests; 0 for automatic.

    Raises:
        LaunchError: If both ports are the same.
    """

    exports: Path
    port: int = 8500
    rest_port: int = 8501
    address: str | None = None
    models: Path | None = None
    batching: Path | None = None
    per_model_batching: bool = False
    poll_s: float = 1.0
    grpc_threads: int = 0
    rest_threads: int = 0

    def __post_init__(self) -> None:
        if self.port == self.rest_port != 0:
            raise LaunchError(
                "`--port` and `--rest-port` must differ. "
                f"Received: {self.port} for both"
            )

    @property
    def host(self) -> str:
        """Address on which the embedded server and Docker listen."""
        return self.address or "127.0.0.1"

    def engine(self, wanted: str) -> Engine:
        """Server to start.

        Args:
            wanted: "auto", "tf-serving", "docker" or "embedded". "auto" is
                `tensorflow_model_server` if it is installed and the address means all
                addresses, otherwise the embedded server.

        Raises:
            LaunchError: If the server is not installed or cannot listen on `address`,
                or `wanted` is invalid.
        """
        programs: dict[Engine, str] = {"tf-serving": BINARY, "docker": "docker"}
        if wanted == "auto":
            everywhere = self.address in _ALL_ADDRESSES and shutil.which(BINARY)
            wanted = "tf-serving" if everywhere else "embedded"
        if wanted == "embedded":
            return "embedded"
        if wanted == "tf-serving" and self.address not in (None, *_ALL_ADDRESSES):
            raise LaunchError(
                "`--address` must be 0.0.0.0 for `--engine tf-serving`, because "
                f"{BINARY} listens on all addresses and has no flag to choose one. "
                f"Received: {self.address}. To listen on that address only, use "
                "`--engine docker` or `--engine embedded`."
            )
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


def on_free_ports(launch: Launch, engine: Engine) -> Launch:
    """The same launch with ports on which the server can listen.

    `tensorflow_model_server` ends if a port is 0, and goes on without REST if the REST
    port is taken.

    Args:
        launch: Models to serve, and settings. A port of 0 is replaced by a free one.
        engine: The server.

    Raises:
        LaunchError: If a port is taken, or the address does not exist.
    """
    host = "0.0.0.0" if engine == "tf-serving" else launch.host
    ports = {}
    with contextlib.ExitStack() as held:
        for name in ("port", "rest_port"):
            wanted = getattr(launch, name)
            try:
                info = socket.getaddrinfo(host, wanted, type=socket.SOCK_STREAM)[0]
                listener = socket.create_server(info[4][:2], family=info[0])
            except OSError as error:
                raise LaunchError(
                    f"`{_option(name)}` must be a free port of {host}; 0 chooses one. "
                    f"Received: {wanted} ({error.strerror or error})"
                ) from error
            held.enter_context(listener)
            ports[name] = listener.getsockname()[1]
    return dataclasses.replace(launch, **ports)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def found_models(exports: Path) -> dict[str, Path]:
    """Folders with versions, by the name of the model.

    Args:
        exports: Folder of one model, named as the model, or a folder of such folders.

    Raises:
        LaunchError: If no folder has versions.
    """
    check_loadable(exports)
    folder = Path(os.path.abspath(exports))  # With its own name, even if it is a link.
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
        models = read_models(launch.models)
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
            (folder / BATCHING_FILE).chmod(READABLE)
        # A container runs as a different user.
        folder.chmod(0o755)
        yield folder
