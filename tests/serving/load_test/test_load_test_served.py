"""load-test against the embedded server: real exports, real queries, a real swap."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from recdistill.cli.main import app
from recdistill.serving.deploy.models_config import Models
from recdistill.serving.server.local_server import LocalServer
from recdistill.serving.server.options import ServerOptions
from tests import tiny


def load_test(*arguments):
    """What the command prints as JSON."""
    given = [str(each) for each in ("load-test", *arguments, "--json")]
    result = CliRunner().invoke(app, [*given, "--deadline", "20s"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def serving(folder, base):
    """A server of the model whose versions lie under `base`."""
    file = folder / "models.config"
    Models().with_model(base.name, str(base.resolve())).write(file)
    return LocalServer(ServerOptions(file, port=0, rest_port=0, poll_s=0.05))


@pytest.fixture(scope="module")
def films(exported, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("films"), exported) as server:
        yield server


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@pytest.mark.parametrize("signature", ["recommend", "rank"])
def test_an_export_brings_its_own_queries(films, exported, signature, protocol):
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


def test_a_version_is_swapped_under_load_and_nothing_fails(exported, tmp_path):
    """The copy's requests are in the result, and the folder is as it was."""
    base = tmp_path / "films"
    shutil.copytree(exported, base)
    with serving(tmp_path, base) as server:
        got = load_test(
            f"127.0.0.1:{server.port}",
            *("--export", base, "--rate", 40, "--seconds", 6, "--reload-during", base),
        )
    assert got["errors"] == {}
    assert got["swap"]["version"] == 2
    assert [path.name for path in base.iterdir()] == ["1"]
    if got["swap"]["available_s"] is None:
        pytest.skip("This machine is too busy to load a version in four seconds.")
    assert got["swap"]["available_s"] > got["swap"]["published_s"] >= 2
    assert got["answers_by_version"].keys() == {"1", "2"}
    assert sum(got["answers_by_version"].values()) == 240
    around = got["swap"]["latency_ms"]
    assert around["before"]["n"] > 0
    assert sum(around[when]["n"] for when in ("before", "during", "after")) == 240


@pytest.mark.filterwarnings(tiny.KERAS_ON_NUMPY_2)
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
