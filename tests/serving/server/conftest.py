import contextlib
import gc

import pytest

from recdistill.serving.server.local_server import LocalServer
from recdistill.serving.server.options import ServerOptions
from tests.serving.calls import Client
from tests.serving.waiting import wait_until
from tests.small_models import publish_toy, toy_config


class Serving:
    """A running server, a client, and the folder of its model."""

    def __init__(self, server, base, file):
        self.server, self.base, self.file = server, base, file
        self.client = Client(server.port, server.rest_port)

    def publish(self, number, **more):
        return publish_toy(self.base, number, **more)

    def wait_for(self, number, state="AVAILABLE"):
        """Waits until a version has a state."""
        wait_until(lambda: self.client.status().get(number) == state)

    def wait_for_error(self, number):
        """Waits until a version has failed to load, and returns its error."""

        def error():
            versions = self.server.models._models["toy"].versions
            return number in versions and versions[number].error

        return wait_until(error)


@pytest.fixture(scope="session", autouse=True)
def _frozen():
    """Excludes imported objects from garbage collection, as `run_until_signal` does."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def serve(tmp_path):
    """Starts servers of the toy model: `serve(**options)`."""
    with contextlib.ExitStack() as stack:

        def start(config=None, versions=(1,), **options):
            base = tmp_path / "models" / "toy"
            base.mkdir(parents=True, exist_ok=True)
            for number in versions:
                if not (base / str(number)).exists():
                    publish_toy(base, number)
            file = tmp_path / "models.config"
            file.write_text(str(config or toy_config(base)), encoding="utf-8")
            defaults = {"port": 0, "rest_port": 0, "poll_s": 0.02, "drain_s": 60}
            server = LocalServer(ServerOptions(file, **{**defaults, **options}))
            stack.callback(server.stop)
            serving = Serving(server, base, file)
            stack.callback(serving.client.close)
            return serving

        yield start


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A server of version 1 for tests that do not change it."""
    folder = tmp_path_factory.mktemp("shared")
    base = folder / "toy"
    base.mkdir()
    publish_toy(base, 1)
    file = folder / "models.config"
    file.write_text(str(toy_config(base)), encoding="utf-8")
    options = ServerOptions(
        file, port=0, rest_port=0, rest_timeout_s=60, max_message_bytes=100_000
    )
    with LocalServer(options) as server:
        serving = Serving(server, base, file)
        yield serving
        serving.client.close()
