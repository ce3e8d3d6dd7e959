"""Modules that a client imports."""

import subprocess
import sys

import pytest

from tests.serving.fake_server import query, serving

pytestmark = pytest.mark.slow

IMPORTS = """
import sys
from recdistill.serving import Client, AsyncClient
client = Client(sys.argv[1], "films", deadline_s=20.0)
query = eval(sys.argv[2])
[got] = client.recommend([query], k=1)
assert got.item_ids == ["item-0"], got
client.rank([query], [["item-1"]]), client.encode_query([query]), client.versions()
print(sorted(sys.modules))
"""
LIGHT = {
    *("recdistill.atomic", "recdistill.errors"),
    *("recdistill.export", "recdistill.export.layout"),
    *("recdistill.evaluation", "recdistill.evaluation.latency"),
    "recdistill.evaluation.latency.percentiles",
}
STUBS = """
import sys
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
print(sorted(sys.modules))
"""


def imported(script, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(eval(done.stdout))


def whole(modules):
    """Top-level packages among modules."""
    return {name for name in modules if "." not in name}


def test_a_client_imports_neither_tensorflow_nor_more_than_the_official_stubs():
    with serving() as server:
        over = {
            protocol: imported(IMPORTS, endpoint, repr(query()))
            for protocol, endpoint in server.endpoints.items()
        }
    heavy = {"tensorflow", "keras", "tensorflow_serving", "pandas", "pyarrow"}
    heavy |= {"matplotlib", "typer", "pydantic"}
    for protocol, modules in over.items():
        assert not modules & heavy, protocol
        ours = {name for name in modules if name.startswith("recdistill.")} - LIGHT
        assert all(f"{name}.".startswith("recdistill.serving.") for name in ours)
        assert not modules & {"httpx", "rich"}, protocol
    assert "grpc" not in over["rest"]
    stubs = imported(STUBS)
    assert {"tensorflow", "keras", "grpc", "numpy"} <= stubs
    ours = {"recdistill", "lazy_loader"}
    added = whole(over["grpc"]) - stubs - sys.stdlib_module_names - ours
    assert {name for name in added if not name.startswith("_")} == set()
