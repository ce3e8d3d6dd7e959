"""Load tests of the embedded server with real exports, real queries and a real swap."""

import contextlib
import json
import shutil

import pytest
from typer.testing import CliRunner

from recdistill.cli.main import app
from recdistill.serving.client.channels import open_channel
from recdistill.serving.client.client import Client
from recdistill.serving.client.endpoints import Endpoint
from recdistill.serving.client.protocols import GRPC, Target
from recdistill.serving.deploy.models_config import Models
from recdistill.serving.load_test.version_swap import staged_copy
from recdistill.serving.load_test.workload import recorded_rows
from recdistill.serving.server.local_server import LocalServer
from recdistill.serving.server.options import ServerOptions

pytestmark = pytest.mark.slow


def load_test(*arguments):
    """JSON output of the command."""
    given = [str(each) for each in ("load-test", *arguments, "--json")]
    result = CliRunner().invoke(app, [*given, "--deadline", "60s"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def serving(folder, base):
    """A server of the model whose versions are in `base`."""
    file = folder / "models.config"
    Models().with_model(base.name, str(base.resolve())).write(file)
    return LocalServer(ServerOptions(file, port=0, rest_port=0, poll_s=0.05))


@pytest.fixture(scope="module")
def films(exported, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("films"), exported) as server:
        yield server


@pytest.fixture
def films_copy(exported, tmp_path):
    """A copy of the export with version 1, and a server of it."""
    base = tmp_path / "films"
    shutil.copytree(exported, base)
    with serving(tmp_path, base) as server:
        yield base, server


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@pytest.mark.parametrize("signature", ["recommend", "rank"])
def test_the_warm_up_requests_of_an_export_are_sent(
    films, exported, signature, protocol
):
    endpoints = {
        "grpc": f"grpc://127.0.0.1:{films.port}",
        "rest": f"http://127.0.0.1:{films.rest_port}",
    }
    got = load_test(
        endpoints[protocol],
        *("--export", exported, "--signature", signature),
        *("--rate", 60, "--seconds", 0.3, "--batch-size", 3),
    )
    assert (got["model"], got["answered"], got["errors"]) == ("films", 18, {})
    assert got["queries"] >= 8
    assert got["answers_by_version"] == ({"1": 18} if protocol == "grpc" else {})


def test_requests_succeed_while_a_version_is_swapped(films_copy):
    """Requests are sent until the new version answers and the old one is unloaded."""
    base, server = films_copy
    message = GRPC.predict(
        Target("films"), "recommend", recorded_rows(base, "recommend")[0]
    )
    address, versions = f"grpc://127.0.0.1:{server.port}", []
    with (
        Client(address, "films", deadline_s=60) as client,
        contextlib.closing(open_channel(Endpoint.parse(address))) as channel,
        staged_copy(base, client.versions) as swap,
    ):
        swap.begin(0.0, 0.0)
        while versions[-1:] != [2] or not only_version(client, 2):
            answer = channel.send(message, 60)
            versions.append(GRPC.answering_version(answer, Target("films")))
    assert versions == sorted(versions) and set(versions) <= {1, 2}


def only_version(client, version):
    """Whether this version is available and all others are unloaded."""
    states = {each.version: each.state for each in client.versions()}
    return states.pop(version) == "AVAILABLE" and set(states.values()) <= {"END"}


def test_a_test_with_a_swap_has_no_errors_and_restores_the_folder(films_copy):
    base, server = films_copy
    got = load_test(
        f"127.0.0.1:{server.port}",
        *("--export", base, "--rate", 40, "--seconds", 3, "--reload-during", base),
    )
    assert (got["answered"], got["errors"]) == (120, {})
    assert [path.name for path in base.iterdir()] == ["1"]


@pytest.mark.parametrize("signature", ["recommend", "rank"])
def test_the_test_queries_of_a_run_are_sent(tiny_run, tmp_path, signature):
    base = tiny_run.folder / "export" / "tiny"
    with serving(tmp_path, base) as server:
        got = load_test(
            f"127.0.0.1:{server.port}",
            *("--prepared", tiny_run.root, "--model", "tiny"),
            *("--signature", signature, "--rate", 60, "--seconds", 0.3),
        )
    assert (got["answered"], got["errors"]) == (18, {})
    assert got["queries"] > 20
