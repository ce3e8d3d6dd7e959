"""The server that the conformance suite tests.

`RECDISTILL_SERVING_ENDPOINT=host:8500` names a running server of an export of
recdistill. `RECDISTILL_SERVING_REST_ENDPOINT` is its REST address, by default port 8501
of the same host, and `RECDISTILL_SERVING_MODEL` the model, by default "films". Without
it, the suite starts the embedded server, and TensorFlow Serving if it is installed.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass

import grpc
import pytest
from tensorflow_serving.apis import get_model_metadata_pb2

from tests.serving.calls import Client
from tests.serving.waiting import wait_until

ENGINES = [
    "embedded",
    pytest.param("tf-serving", marks=pytest.mark.tf_serving),
]
if "RECDISTILL_SERVING_ENDPOINT" in os.environ:
    ENGINES = ["given"]


@dataclass
class Endpoint:
    """A server of one export.

    Attributes:
        engine: "embedded", "tf-serving" or "given".
        client: Client for both protocols.
        model: Name of the export.
        signatures: Signatures by name, from the server.
    """

    engine: str
    client: Client
    model: str
    signatures: dict


@pytest.fixture(scope="session", params=ENGINES)
def endpoint(request, tmp_path_factory):
    with contextlib.ExitStack() as stack:
        if request.param == "given":
            client, model = given()
        else:
            if request.param == "tf-serving" and not shutil.which(
                "tensorflow_model_server"
            ):
                pytest.skip("tensorflow_model_server is not on the PATH")
            exported = request.getfixturevalue("exported")
            client = stack.enter_context(started(request.param, exported))
            model = exported.name
        stack.callback(client.close)
        packed = client.metadata(model).metadata["signature_def"]
        signatures = get_model_metadata_pb2.SignatureDefMap()
        packed.Unpack(signatures)
        yield Endpoint(request.param, client, model, dict(signatures.signature_def))


def given():
    address = os.environ["RECDISTILL_SERVING_ENDPOINT"]
    host, _, port = address.rpartition(":")
    rest = os.environ.get("RECDISTILL_SERVING_REST_ENDPOINT", f"{host}:8501")
    rest_host, _, rest_port = rest.rpartition(":")
    assert rest_host == host, "Both protocols must be at one host"
    model = os.environ.get("RECDISTILL_SERVING_MODEL", "films")
    return Client(int(port), int(rest_port), host), model


@contextlib.contextmanager
def started(engine, exported):
    """Starts a server with `recdistill serve`."""
    ports = [0, 0] if engine == "embedded" else [free_port(), free_port()]
    options = [f"--engine={engine}", f"--port={ports[0]}", f"--rest-port={ports[1]}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "recdistill", "serve", str(exported), *options],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        if engine == "embedded":
            said = ""
            while len(found := re.findall(r":(\d+)(?=\n|/v1/)", said)) < 2:
                line = process.stdout.readline()
                assert line, f"The server ended with {process.wait()}: {said}"
                said += line
            ports = [int(each) for each in found]
        client = Client(*ports)
        wait_until(lambda: is_available(client, exported.name, process))
        yield client
        process.terminate()
        assert process.wait() == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def is_available(client, model, process):
    assert process.poll() is None, "The server has ended"
    with contextlib.suppress(grpc.RpcError):
        return "AVAILABLE" in client.status(model).values()
    return False


def free_port():
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
