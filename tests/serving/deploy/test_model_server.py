"""model_server: every flag and metric that we write exists in the server."""

import re
from pathlib import Path

import pytest

from recdistill.serving.deploy.batching_config import Batching
from recdistill.serving.deploy.model_server import (
    COUNTERS,
    FLAGS,
    HISTOGRAMS,
    as_shell,
    metric_names,
    server_arguments,
    server_flags,
)

ROOT = Path(__file__).parents[3]
NAMED = re.compile(r"(?<![\w-])--([a-z]+(?:_[a-z]+)+)\b")
"""A flag with an underscore; options of our own commands have dashes."""

WRITTEN = sorted(
    path
    for pattern in ("serving/**/*", "recdistill/**/*.py", "README.md", "docs/**/*.md")
    for path in ROOT.glob(pattern)
    if path.is_file() and path.suffix in (".py", ".md", ".yml", ".yaml", ".sh")
)


def test_the_command_reloads_labels_and_accepts_them_after_a_restart():
    got = server_arguments("/config", Batching(16, 0, 16, 2))
    assert [flag for flag in got if "threads=256" not in flag][:7] == [
        "--port=8500",
        "--rest_api_port=8501",
        "--model_config_file=/config/models.config",
        "--model_config_file_poll_wait_seconds=10",
        "--allow_version_labels_for_unavailable_models=true",
        "--monitoring_config_file=/config/monitoring.config",
        "--num_load_threads=1",
    ]


@pytest.mark.parametrize(
    ("batching", "threads"),
    [
        # Every row that runs or waits may be a request, and 64 more are refused.
        (Batching(16, 0, 16, 2), 16 * (16 + 2) + 64),
        (Batching(1, 0, 1, 1), 2 + 64),
        (Batching(64, 0, 1000, 8), 1000),
    ],
)
def test_each_request_that_the_batcher_holds_has_a_thread(batching, threads):
    got = server_arguments("/c", batching, trusted_clients=True)
    assert f"--grpc_max_threads={threads}" in got
    assert f"--rest_api_num_threads={threads}" in got


def test_each_batch_is_computed_on_one_thread():
    got = server_arguments("/c", Batching(16, 0, 16, 4), trusted_clients=True)
    assert got[-4:] == [
        "--enable_batching=true",
        "--batching_parameters_file=/c/batching.config",
        "--tensorflow_intra_op_parallelism=1",
        "--tensorflow_inter_op_parallelism=4",
    ]


def test_a_misspelt_flag_is_refused_because_the_server_would_ignore_it():
    with pytest.raises(ValueError, match=r"silently ignores others.*'enable_batchin'"):
        server_flags({"enable_batchin": True})


def test_the_command_is_quoted_for_a_shell():
    got = as_shell(["--model_config_file=/my files/models.config"])
    assert got == (
        "tensorflow_model_server \\\n  '--model_config_file=/my files/models.config'"
    )


@pytest.mark.parametrize("path", WRITTEN, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_flag_in_our_files_exists_in_the_server(path):
    named = set(NAMED.findall(path.read_text(encoding="utf-8")))
    assert named <= FLAGS, named - FLAGS


def test_the_searched_files_include_those_with_flags():
    files = {path.name for path in WRITTEN}
    assert {"configmap.yaml", "model_server.py", "README.md"} <= files


def test_metric_names_are_valid_in_prometheus():
    names = metric_names()
    assert len(names) == len(COUNTERS) + 3 * len(HISTOGRAMS)
    assert all(re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", name) for name in names)
    assert ":tensorflow:serving:request_latency_bucket" in names
