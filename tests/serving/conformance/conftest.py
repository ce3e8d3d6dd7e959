"""The server that the conformance suite tests.

`RECDISTILL_SERVING_ENDPOINT=host:8500` names a running server of an export of
recdistill. `RECDISTILL_SERVING_REST_ENDPOINT` is its REST address, by default port 8501
of the same host, and `RECDISTILL_SERVING_MODEL` the model, by default "films". Without
it, the suite starts the embedded server, and TensorFlow Serving if it is installed,
with an export and the toy model. Tests of the toy model are skipped if a given server
does not have it.

The tests of requests that share a batch use a second embedded server, which batches, or
the given server. A TensorFlow Serving that batches cannot survive requests of a wrong
shape, so set `RECDISTILL_SERVING_CLIENTS=trusted` to leave them out.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from tensorflow_serving.apis import get_model_metadata_pb2

from recdistill.retrieval.indexing import IndexSettings
from recdistill.serving.deploy.batching_config import Batching
from recdistill.serving.deploy.models_config import Models
from recdistill.serving.server.local_server import LocalServer
from recdistill.serving.server.options import ServerOptions
from tests.serving.calls import Client
from tests.serving.waiting import wait_until
from tests.small_models import (
    export_films,
    films_schema,
    films_student,
    publish_toy,
)

ENGINES = [
    "embedded",
    pytest.param("tf-serving", marks=pytest.mark.tf_serving),
]
if "RECDISTILL_SERVING_ENDPOINT" in os.environ:
    ENGINES = ["given"]

INDEXES = ["exact", "ivf"]


@dataclass
class Endpoint:
    """A server of one export.

    Attributes:
        engine: "embedded", "tf-serving" or "given".
        client: Client for both protocols.
        model: Name of the export.
        signatures: Signatures by name, from the server.
        toy_folder: Folder of the toy model; None if the server was given.
    """

    engine: str
    client: Client
    model: str
    signatures: dict
    toy_folder: Path | None


@pytest.fixture(scope="session", params=ENGINES)
def endpoint(request, tmp_path_factory):
    with contextlib.ExitStack() as stack:
        toy_folder = None
        if request.param == "given":
            client, model = given()
        else:
            if request.param == "tf-serving" and not shutil.which(
                "tensorflow_model_server"
            ):
                pytest.skip("tensorflow_model_server is not on the PATH")
            exported = request.getfixturevalue("exported")
            model = exported.name
            folder = tmp_path_factory.mktemp("served")
            (folder / model).symlink_to(exported)
            toy_folder = folder / "toy"
            toy_folder.mkdir()
            publish_toy(toy_folder, 1)
            client = stack.enter_context(started(request.param, folder, model))
        stack.callback(client.close)
        described = signatures_of(client, model)
        yield Endpoint(request.param, client, model, described, toy_folder)


@pytest.fixture(scope="session", params=["given"] if ENGINES == ["given"] else INDEXES)
def company(request, tmp_path_factory):
    """A server that batches requests, if it is the embedded one."""
    if request.param == "given":
        yield request.getfixturevalue("endpoint")
        return
    exported = request.getfixturevalue("exported")
    if request.param == "ivf":
        folder = tmp_path_factory.mktemp("exported_ivf")
        index = IndexSettings("ivf", target_recall=0.6)
        done = export_films(folder, films_student(films_schema()), index=index)
        facts = done.manifest["index"]
        assert 1 < facts["probes"] <= facts["lists"] // 2
        exported = done.path.parent
    file = tmp_path_factory.mktemp("batched") / "models.config"
    Models().with_model(exported.name, str(exported.resolve())).write(file)
    batching = Batching(16, 20_000, 100, 2, (4, 16), pad_variable_length_inputs=True)
    options = ServerOptions(
        file, port=0, rest_port=0, batching=batching, grpc_threads=32, rest_threads=16
    )
    with LocalServer(options) as server:
        client = Client(server.port, server.rest_port)
        described = signatures_of(client, exported.name)
        yield Endpoint("embedded", client, exported.name, described, None)
        client.close()


@pytest.fixture(scope="session")
def toy(endpoint):
    """Client of a server that also has the toy model."""
    try:
        endpoint.client.status("toy")
    except grpc.RpcError:
        pytest.skip("The given server does not have the toy model")
    return endpoint.client


def signatures_of(client, model):
    packed = client.metadata(model).metadata["signature_def"]
    signatures = get_model_metadata_pb2.SignatureDefMap()
    packed.Unpack(signatures)
    return dict(signatures.signature_def)


def given():
    address = os.environ["RECDISTILL_SERVING_ENDPOINT"]
    host, _, port = address.rpartition(":")
    rest = os.environ.get("RECDISTILL_SERVING_REST_ENDPOINT", f"{host}:8501")
    rest_host, _, rest_port = rest.rpartition(":")
    assert rest_host == host, "Both protocols must be at one host"
    model = os.environ.get("RECDISTILL_SERVING_MODEL", "films")
    return Client(int(port), int(rest_port), host), model


@contextlib.contextmanager
def started(engine, folder, model):
    """Starts a server of the models in a folder with `recdistill serve`."""
    ports = [0, 0] if engine == "embedded" else [free_port(), free_port()]
    options = [f"--engine={engine}", f"--port={ports[0]}", f"--rest-port={ports[1]}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "recdistill", "serve", str(folder), *options],
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
            ports = [int(each) for each in found[:2]]
        client = Client(*ports)
        wait_until(lambda: is_available(client, model, process))
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
