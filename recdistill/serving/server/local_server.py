"""The embedded server as a whole: started, run until a signal, drained."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import threading
from types import FrameType, TracebackType

from recdistill.errors import ServeError
from recdistill.serving.server.grpc_services import GrpcServer
from recdistill.serving.server.options import ServerOptions
from recdistill.serving.server.requests import Requests
from recdistill.serving.server.rest import RestServer
from recdistill.serving.server.served_models import Catalogue
from recdistill.serving.server.server_metrics import Metrics

__all__ = ["LocalServer", "run_until_signal"]

_SWITCH_S = 0.0005
"""How long a thread may hold the interpreter while others wait, in seconds.

A version that is being loaded is Python for long stretches; with Python's own 5 ms
every request beside it waits several times as long.
"""


class LocalServer:
    """A server of SavedModels in this process, with TensorFlow Serving's protocol.

    It is for development and small installations: it answers as the model server does,
    and one Python interpreter sets the pace. Whoever reaches it may send any request,
    so it listens on the loopback address unless told otherwise.

    Args:
        options: What to serve, where and how.

    Raises:
        ServeError: If a version does not load or a port cannot be had.
        OSError: If the configuration cannot be read.
    """

    def __init__(self, options: ServerOptions) -> None:
        self.options, self.metrics = options, Metrics()
        self.catalogue = Catalogue(options, self.metrics)
        requests = Requests(self.catalogue, self.metrics)
        # Ports first: it takes no time to find out that one is taken.
        self._grpc = GrpcServer(requests, options)
        self._rest: RestServer | None = None
        try:
            if options.rest_port is not None:
                self._rest = RestServer(requests, options)
            self.catalogue.start()
        except (ServeError, OSError):
            self.stop()
            raise
        self._grpc.start()
        if self._rest is not None:
            self._rest.start()

    @property
    def port(self) -> int:
        """Where it listens for gRPC."""
        return self._grpc.port

    @property
    def rest_port(self) -> int | None:
        """Where it listens for REST, if it does."""
        return None if self._rest is None else self._rest.port

    def stop(self) -> None:
        """Takes no more requests, finishes those that came, and unloads everything."""
        stops = [threading.Thread(target=self._grpc.stop, args=(self.options.drain_s,))]
        if self._rest is not None:
            stop = self._rest.stop
            stops.append(threading.Thread(target=stop, args=(self.options.drain_s,)))
        for thread in stops:
            thread.start()
        for thread in stops:
            thread.join()
        self.catalogue.stop()

    def __enter__(self) -> LocalServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def run_until_signal(options: ServerOptions) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second signal ends it at once.

    It is made for a process of its own, whose settings it changes.

    Args:
        options: What to serve, where and how.

    Raises:
        ServeError: If a version does not load or a port cannot be had.
        OSError: If the configuration cannot be read.
    """
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    sys.setswitchinterval(_SWITCH_S)
    # What was imported stays: the collector need not look through it at every swap.
    gc.collect()
    gc.freeze()
    told = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        told.set()

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, on_signal)
    with LocalServer(options) as server:
        at = options.address
        print(f"gRPC  {at}:{server.port}", flush=True)
        if server.rest_port is not None:
            url = f"http://{at}:{server.rest_port}"
            for name in server.catalogue.names:
                print(f"REST  {url}/v1/models/{name}:predict", flush=True)
            print(f"      {url}/monitoring/prometheus/metrics", flush=True)
        told.wait()
        print("Draining", flush=True)
