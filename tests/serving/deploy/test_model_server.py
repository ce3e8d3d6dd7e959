"""The model server's flags: only such as it knows, wherever we write one."""

import re
from pathlib import Path

import pytest

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
"""A flag with an underscore: our own commands' options have dashes."""

WRITTEN = sorted(
    path
    for pattern in ("serving/**/*", "recdistill/**/*.py", "README.md", "docs/**/*.md")
    for path in ROOT.glob(pattern)
    if path.is_file() and path.suffix in (".py", ".md", ".yml", ".yaml", ".sh")
)


def test_command_has_its_files_and_keeps_labels_over_a_restart():
    got = server_arguments("/config", port=1, rest_port=2)
    assert got == [
        "--port=1",
        "--rest_api_port=2",
        "--model_config_file=/config/models.config",
        "--model_config_file_poll_wait_seconds=10",
        "--allow_version_labels_for_unavailable_models=true",
        "--monitoring_config_file=/config/monitoring.config",
        "--num_load_threads=1",
    ]


def test_batching_comes_with_its_file_and_one_thread_a_batch():
    got = server_arguments("/c", batch_threads=4)
    assert got[-4:] == [
        "--enable_batching=true",
        "--batching_parameters_file=/c/batching.config",
        "--tensorflow_intra_op_parallelism=1",
        "--tensorflow_inter_op_parallelism=4",
    ]


def test_misspelt_flag_is_refused_because_the_server_would_not_say():
    with pytest.raises(ValueError, match=r"silently ignores others.*'enable_batchin'"):
        server_flags({"enable_batchin": True})


def test_one_port_cannot_serve_both_protocols():
    with pytest.raises(ValueError, match="rest_port=8500"):
        server_arguments("/c", rest_port=8500)


def test_command_is_one_that_a_shell_takes():
    got = as_shell(["--model_config_file=/my files/models.config"])
    assert got == (
        "tensorflow_model_server \\\n  '--model_config_file=/my files/models.config'"
    )


@pytest.mark.parametrize("path", WRITTEN, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_flag_that_we_write_is_one_of_the_server(path):
    named = set(NAMED.findall(path.read_text(encoding="utf-8")))
    assert named <= FLAGS, named - FLAGS


def test_flags_are_looked_for_where_they_are():
    files = {path.name for path in WRITTEN}
    assert {"configmap.yaml", "model_server.py", "README.md"} <= files


def test_metric_names_are_those_of_the_server_in_prometheus_form():
    names = metric_names()
    assert len(names) == len(COUNTERS) + 3 * len(HISTOGRAMS)
    assert all(re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", name) for name in names)
    assert ":tensorflow:serving:request_latency_bucket" in names
