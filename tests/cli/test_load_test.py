"""`recdistill load-test`: options, output and errors, against a fake server."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from recdistill.serving.load_test import load_runs, rate_search
from tests.cli.command_line import assert_is_one_paragraph, call
from tests.serving.fake_server import ITEMS, query, serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server():
    with serving() as fake:
        yield fake


@pytest.fixture
def lines(tmp_path):
    """A file of four queries."""
    file = tmp_path / "queries.jsonl"
    rows = (json.dumps(query(history=ITEMS[:n])) for n in range(4))
    file.write_text("\n".join(rows))
    return file


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_json_on_stdout_and_the_plot_in_a_file(server, lines, tmp_path, protocol):
    plot = tmp_path / "latency.png"
    result = call(
        "load-test",
        server.endpoints[protocol],
        *("--queries", lines, "--model", "films", "--rate", 40),
        *("--seconds", 0.3, "--deadline", "60s", "--plot", plot, "--json"),
    )
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert (content["requests"], content["errors"]) == (12, {})
    assert content["latency_ms"]["p99_9"] >= content["latency_ms"]["p50"] > 0
    assert content["queries"] == 4
    assert plot.exists()


def test_a_report_is_printed_without_json(server, lines):
    result = call(
        "load-test",
        server.endpoints["grpc"],
        *("--queries", lines, "--model", "films", "--clients", 2),
        *("--seconds", 0.2, "--deadline", "60s", "--signature", "encode_query"),
    )
    assert result.exit_code == 0, result.output
    assert "closed loop, 2 clients" in result.stdout
    assert "Throughput" in result.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--rate": None}, "One of `--rate`, `--clients` and `--p99-budget`"),
        ({"--queries": None}, "Received: none"),
        ({"--export": "films"}, "Received: `--export` and `--queries`"),
        ({"--model": None}, "`--model` must be given"),
        ({"--model": "books"}, "Servable not found for request: books"),
        ({"--signature": "guess"}, "`--signature` must be one of ['encode_query'"),
        ({"--plot": "a.txt"}, "`--plot` must end in .png"),
        ({"--plot": "nowhere/a.png"}, "`--plot` must be a file in an existing folder"),
        (
            {"--deadline": "1"},
            "A time must look like 10ms or 1s, and be at most a day.",
        ),
        ({"--p99-budget": "2s"}, "`--p99-budget` must be below the `--deadline`"),
        (
            {"--p99-budget": "9ms", "--rate": None, "--clients": 1},
            "combined with `--clients`",
        ),
        (
            {"--p99-budget": "9ms", "--reload-during": "a"},
            "`--reload-during` cannot be combined",
        ),
        ({"--batch-size": 0}, "`--batch-size` must be from 1 to 100,000. Received: 0"),
        ({"--reload-during": "nowhere"}, "numbered versions"),
        (
            {"--prepared": "nowhere", "--queries": None},
            "`--prepared` must be the folder of a run",
        ),
        ({"--seconds": -1}, "`--seconds` must be from 0.001 to 86,400."),
    ],
)
def test_an_error_is_one_paragraph(server, lines, change, said):
    plain = {"--queries": lines, "--model": "films", "--rate": 10, "--seconds": 0.1}
    options = {k: v for k, v in (plain | change).items() if v is not None}
    result = call(
        "load-test", server.endpoints["grpc"], *itertools.chain(*options.items())
    )
    assert result.exit_code == 2
    assert_is_one_paragraph(result, said)


def test_a_server_that_cannot_be_reached_is_an_error(lines):
    result = call(
        "load-test",
        "http://127.0.0.1:1",
        "--queries",
        lines,
        "--model",
        "films",
        "--rate",
        1,
    )
    assert result.exit_code == 2
    assert "UNAVAILABLE: [Errno 111]" in result.stderr


@pytest.mark.parametrize(
    ("fails", "options", "code", "said"),
    [
        (True, ("--rate", 40), 2, "None of 8 requests was answered: {'INTERNAL': 8}"),
        (True, ("--p99-budget", "9ms"), 2, "requests was answered"),
        (False, ("--p99-budget", "0.001ms"), 3, "No rate has a p99 within 0.001 ms"),
    ],
)
def test_a_test_without_success_has_a_report_and_an_exit_code(
    server, lines, monkeypatch, fails, options, code, said
):
    monkeypatch.setattr(rate_search, "_HALVINGS", 1)
    monkeypatch.setattr(rate_search, "_LEAST_REQUESTS", 1)
    if fails:
        monkeypatch.setattr(load_runs, "generate", failing(load_runs.generate))
    result = call(
        "load-test",
        server.endpoints["grpc"],
        *("--queries", lines, "--model", "films", "--seconds", 0.2, *options, "--json"),
    )
    assert result.exit_code == code, result.output
    assert json.loads(result.stdout)["requests"] > 0
    assert said in " ".join(result.stderr.split())


def failing(generate):
    """The same requests, all of them without an answer."""

    def failed(*arguments):
        samples = generate(*arguments)
        code = np.ones(len(samples), "int16")
        return dataclasses.replace(samples, code=code, codes=["OK", "INTERNAL"])

    return failed
