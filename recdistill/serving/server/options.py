"""Settings of the embedded server."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from recdistill.errors import ServeError
from recdistill.serving.deploy.batching_config import Batching

__all__ = ["ServerOptions"]


@dataclass(frozen=True)
class ServerOptions:
    """Settings of an embedded server, named as in TensorFlow Serving where possible.

    Attributes:
        models: A `models.config` file with models, version policies and labels.
        address: IP address to listen on. Clients are not authenticated.
        port: gRPC port; 0 for any free port.
        rest_port: Port of REST and metrics; 0 for any free port, None to disable both.
        models_poll_s: Interval for reading `models` again, in seconds; 0 for never.
        poll_s: Interval for scanning the model folders for versions, in seconds.
        load_retries: Maximum number of retries of a version that does not load.
        load_retry_s: Interval between these retries, in seconds.
        batching: Parameters of server-side batching; None to disable it.
        per_model_batching: Whether to use the `batching_params.pbtxt` of a version.
        labels_for_unavailable: Whether a new label may name a version that is not
            loaded. Without it, labels in `models` fail at the start.
        grpc_threads: Maximum number of concurrent gRPC requests; 0 for automatic. A
            batch cannot have more requests than this.
        rest_threads: Maximum number of concurrent REST requests; 0 for automatic.
        rest_connections: Maximum number of REST connections; further ones are closed.
        rest_timeout_s: Timeout of a REST request, in seconds.
        waiting: Maximum number of requests of a protocol that wait for a thread;
            further ones are refused.
        max_message_bytes: Maximum size of a request, for both protocols. Together,
            requests may use 32 times as much memory, or 256 MiB if that is more.
        drain_s: Time for running requests to finish on shutdown, in seconds.

    Raises:
        ServeError: If a number is out of range.
    """

    models: Path
    address: str = "127.0.0.1"
    port: int = 8500
    rest_port: int | None = 8501
    models_poll_s: float = 0.0
    poll_s: float = 1.0
    load_retries: int = 5
    load_retry_s: float = 60.0
    batching: Batching | None = None
    per_model_batching: bool = False
    labels_for_unavailable: bool = False
    grpc_threads: int = 0
    rest_threads: int = 0
    rest_connections: int = 1_000
    rest_timeout_s: float = 30.0
    waiting: int = 64
    max_message_bytes: int = 2**24
    drain_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("port", "rest_port"):
            port = getattr(self, name)
            if port is not None and not 0 <= port < 2**16:
                raise ServeError(f"`{name}` must be from 0 to 65535. Received: {port}")
        positive = ("poll_s", "rest_timeout_s", "max_message_bytes", "rest_connections")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ServeError(
                    f"`{name}` must be above 0. Received: {getattr(self, name)}"
                )
        not_negative = (
            "models_poll_s load_retries load_retry_s grpc_threads rest_threads drain_s"
        )
        for name in not_negative.split():
            if getattr(self, name) < 0:
                raise ServeError(
                    f"`{name}` must be at least 0. Received: {getattr(self, name)}"
                )

    @property
    def request_memory_bytes(self) -> int:
        """Maximum memory of all requests that are read and processed."""
        return max(2**28, 32 * self.max_message_bytes)

    def threads(self, wanted: int) -> int:
        """Number of threads of a protocol; `wanted`, or an automatic choice if it is 0.

        More threads than cores only help if they wait for a batch.
        """
        batches = self.batching is not None or self.per_model_batching
        return wanted or (64 if batches else 2 * (os.cpu_count() or 1))
