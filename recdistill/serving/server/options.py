"""What a server is started with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from recdistill.errors import ServeError
from recdistill.serving.deploy.batching_config import Batching

__all__ = ["ServerOptions"]


@dataclass(frozen=True)
class ServerOptions:
    """The settings of an embedded server; the model server's names where it has one.

    Attributes:
        models: A `models.config`: which models, versions and labels there are.
        address: Where to listen. Whoever reaches it may send any request.
        port: For gRPC; 0 takes a free one.
        rest_port: For REST and metrics; 0 takes a free one, None serves no REST.
        models_poll_s: How often `models` is read again, in seconds; 0 reads it once.
        poll_s: How often folders are looked at for versions, in seconds.
        load_retries: How often a version that does not load is tried again.
        load_retry_s: The time between such tries, in seconds.
        batching: How requests are put together; None answers each on its own.
        per_model_batching: Whether a version's `batching_params.pbtxt` counts.
        labels_for_unavailable: Whether a new label may name a version that is not
            loaded: without it, labels in `models` fail at the start.
        grpc_threads: Requests over gRPC that are worked on at a time; 0 chooses. A
            batch needs as many as it shall have requests.
        rest_threads: The same for REST.
        rest_connections: Most REST connections; further ones are closed.
        intra_op_threads: Threads of one operation; 0 lets TensorFlow choose.
        inter_op_threads: Threads of operations of one request; 0 lets it choose.
        rest_timeout_s: How long a REST request may take, in seconds.
        max_message_bytes: Largest request, over either protocol.
        drain_s: How long requests may go on after the server was told to stop.

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
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    rest_timeout_s: float = 30.0
    max_message_bytes: int = 2**26
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
        least_zero = (
            "models_poll_s load_retries load_retry_s grpc_threads rest_threads "
            "intra_op_threads inter_op_threads drain_s"
        )
        for name in least_zero.split():
            if getattr(self, name) < 0:
                raise ServeError(
                    f"`{name}` must be at least 0. Received: {getattr(self, name)}"
                )

    def threads(self, wanted: int) -> int:
        """The number of threads of a protocol, chosen where `wanted` is 0.

        More threads than cores only wait for each other, unless they wait for a batch.
        """
        batches = self.batching is not None or self.per_model_batching
        return wanted or (64 if batches else 2 * (os.cpu_count() or 1))
