"""The embedded server: start, run until a signal, shutdown."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import sys
import threading
from concurrent import futures
from types import FrameType

from recdistill.serving.server.admission import RequestMemory
from recdistill.serving.server.grpc_services import GrpcServer
from recdistill.serving.server.options import ServerOptions
from recdistill.serving.server.requests import Requests
from recdistill.serving.server.rest import RestServer
from recdistill.serving.server.served_models import ServedModels
from recdistill.serving.server.server_metrics import ServerMetrics

__all__ = ["LocalServer", "run_until_signal"]

_SWITCH_S = 0.0005
"""Interval in seconds after which Python switches threads.

Loading a version runs Python code for a long time. With Python's default of 5 ms, each
concurrent request would wait several times as long.
"""


class LocalServer(contextlib.AbstractContextManager["LocalServer"]):
    """Server of SavedModels in this process, with TensorFlow Serving's protocol.

    It is for development and small installations, because a single Python interpreter
    limits its throughput. It does not authenticate clients, and listens on the loopback
    address by default.

    Args:
        options: Settings of the server.

    Raises:
        ServeError: If a version does not load or a port is not available.
        OSError: If the configuration cannot be read.
    """

    def __init__(self, options: ServerOptions) -> None:
        self.options, self.metrics = options, ServerMetrics()
        self.models = ServedModels(options, self.metrics)
        requests = Requests(self.models, self.metrics)
        memory = RequestMemory(options.request_memory_bytes)
        # The ports are opened first, because loading the models takes longer.
        self._grpc = GrpcServer(requests, options, memory)
        self._rest: RestServer | None = None
        try:
            if options.rest_port is not None:
                self._rest = RestServer(requests, options, memory)
            self.models.start()
        except BaseException:
            self.stop()
            raise
        for server in self._servers:
            server.start()

    @property
    def _servers(self) -> list[GrpcServer | RestServer]:
        return [self._grpc] if self._rest is None else [self._grpc, self._rest]

    @property
    def port(self) -> int:
        """gRPC port."""
        return self._grpc.port

    @property
    def rest_port(self) -> int | None:
        """REST port; None if REST is disabled."""
        return None if self._rest is None else self._rest.port

    def stop(self) -> None:
        """Rejects new requests, finishes running ones and unloads all models."""
        with futures.ThreadPoolExecutor() as pool:
            list(pool.map(lambda each: each.stop(self.options.drain_s), self._servers))
        self.models.stop()

    def __exit__(self, *exception: object) -> None:
        self.stop()


def run_until_signal(options: ServerOptions) -> None:
    """Serves until SIGTERM or SIGINT, then shuts down; a second signal exits at once.

    It changes settings of the process, so it should run in a separate process.

    Args:
        options: Settings of the server.

    Raises:
        ServeError: If a version does not load or a port is not available.
        OSError: If the configuration cannot be read.
    """
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    sys.setswitchinterval(_SWITCH_S)
    # Excludes all imported objects from garbage collection at each version swap.
    gc.collect()
    gc.freeze()
    stopped = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        stopped.set()

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, on_signal)
    with LocalServer(options) as server:
        at = options.address
        print(f"gRPC  {at}:{server.port}", flush=True)
        if server.rest_port is not None:
            url = f"http://{at}:{server.rest_port}"
            for name in server.models.names:
                print(f"REST  {url}/v1/models/{name}:predict", flush=True)
            print(f"      {url}/monitoring/prometheus/metrics", flush=True)
        stopped.wait()
        print("Draining", flush=True)
