"""load_test: latency counts from the schedule, failures are counted, nothing is left.

The server is `fake_server`; the generators are real processes.
"""

import asyncio
import itertools
import json
import threading
import time

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console
from typer.testing import CliRunner

from recdistill.atomic import locked_folder
from recdistill.cli.main import app
from recdistill.errors import BusyError, LoadTestError
from recdistill.serving.client.channels import Endpoint
from recdistill.serving.client.protocols import Target, VersionStatus
from recdistill.serving.load_test import load_generator, load_runs
from recdistill.serving.load_test.load_generator import (
    Load,
    RequestCounts,
    generate,
)
from recdistill.serving.load_test.load_plot import latency_over_time, plot_load_test
from recdistill.serving.load_test.load_report import render_load_test
from recdistill.serving.load_test.load_result import LoadResult
from recdistill.serving.load_test.load_runs import run_load_test, search_rate
from recdistill.serving.load_test.rate_search import RateSearch, Trial
from recdistill.serving.load_test.request_samples import Percentiles, Samples
from recdistill.serving.load_test.version_swap import Swap, staged_copy
from recdistill.serving.load_test.workload import Workload, rows_of
from tests.serving.fake_server import ITEMS, query, serving


@pytest.fixture(scope="module")
def running():
    with serving() as fake:
        yield fake


@pytest.fixture
def server(running):
    running.failures.clear()
    running.seen.clear()
    running.delay_s, running.attempts = 0.0, 0
    running.versions.clear()
    running.versions[7] = "AVAILABLE"
    return running


def workload(server, protocol="grpc", batch_size=1, model="films"):
    from recdistill.serving import Client

    endpoint = Endpoint.parse(server.endpoints[protocol])
    with Client(endpoint.url, "films", deadline_s=20) as client:
        contract = client.signatures()["recommend"]
    queries = [query(user_id=f"user {n}", history=ITEMS[:n]) for n in range(5)]
    rows = rows_of(queries, contract, k=3)
    work = Workload.of_rows(
        rows, endpoint.protocol, Target(model), "recommend", batch_size
    )
    return endpoint, work


def samples(latency_ms, due_s=None, code=None, version=None, lag_ms=0.0):
    count = len(latency_ms)
    return Samples(
        due_s=np.arange(count) / 100 if due_s is None else np.array(due_s, "float64"),
        latency_s=np.float32(latency_ms) / 1e3,
        lag_s=np.full(count, lag_ms / 1e3, "float32"),
        code=np.zeros(count, "int16") if code is None else np.array(code, "int16"),
        version=np.full(count, -1) if version is None else np.array(version),
        codes=["OK", "UNAVAILABLE", "INTERNAL"],
    )


def result_of(seen, swap=None, **load):
    work = Workload([], "recommend", 1, 5, Target("films"))
    load = Load(**{"seconds": 2.0, "rate": 100.0, **load})
    return LoadResult("grpc://a:1", work, load, seen, swap)


class TestSamples:
    def test_percentiles_derived_by_hand(self):
        """Of 1 … 1000 ms the 99.9th percentile is 999: so many do not exceed it."""
        got = Percentiles.of_seconds(np.random.default_rng(0).permutation(1000) / 1e3)
        assert (got.p50, got.p90, got.p99, got.p99_9) == (499.0, 899.0, 989.0, 998.0)
        assert (got.max, got.mean, got.n) == (999.0, 499.5, 1000)

    def test_failed_requests_are_counted_apart(self):
        seen = samples([1, 2, 900, 900], code=[0, 0, 1, 2])
        assert seen.errors == {"UNAVAILABLE": 1, "INTERNAL": 1}
        assert seen.percentiles().max == 2.0
        nothing = samples([900], code=[1]).percentiles()
        assert (nothing.p99, nothing.n) == (None, 0)

    def test_joining_keeps_codes_apart(self):
        one = samples([1, 2], code=[0, 2], version=[3, -1])
        two = Samples(
            *[getattr(one, n) for n in ("due_s", "latency_s", "lag_s")],
            np.array([1, 0], "int16"),
            np.array([-1, 4]),
            ["OK", "ABORTED"],
        )
        both = Samples.joined([one, two])
        assert both.errors == {"INTERNAL": 1, "ABORTED": 1}
        assert both.versions == {"3": 1, "4": 1}
        assert len(both) == 4

    def test_latency_over_time(self):
        seen = samples([1, 3, 2, 9, 7], due_s=[0, 0.5, 0.9, 1.1, 2.0])
        middle, median, slow = latency_over_time(seen, bins=2)
        assert middle.tolist() == [0.5, 1.5]
        np.testing.assert_allclose(median, [2, 7], rtol=1e-6)
        np.testing.assert_allclose(slow, [3, 9], rtol=1e-6)


class TestOpenLoop:
    @pytest.mark.parametrize("protocol", ["grpc", "rest"])
    def test_every_request_of_the_schedule_is_sent_and_answered(self, server, protocol):
        endpoint, work = workload(server, protocol, batch_size=2)
        told = []
        load = Load(seconds=0.5, rate=60, processes=2, deadline_s=20)
        result = run_load_test(endpoint, work, load, progress=told.append)
        assert len(result.samples) == 30 and result.samples.errors == {}
        np.testing.assert_allclose(
            np.sort(result.samples.due_s), np.arange(30) / 60, atol=1e-6
        )
        assert result.samples.versions == ({"7": 30} if protocol == "grpc" else {})
        users = {inputs["user_id"][0] for _, inputs in server.seen}
        assert len(users) == 5
        assert all(len(inputs["user_id"]) == 2 for _, inputs in server.seen)
        assert told[-1].answered <= 30

    def test_a_stall_is_felt_by_all_requests_that_were_due_in_it(self, server):
        """At 100 a second a stall of half a second meets 50 requests, not one.

        Their latencies fall from 500 ms to nothing, so half of them are above 250 ms.
        A closed loop with one client has a single slow request.
        """
        endpoint, work = workload(server)
        load = {"seconds": 1.0, "deadline_s": 20}
        seen = {}
        for name, how in {"open": {"rate": 100}, "closed": {"clients": 1}}.items():
            start = threading.Event()
            thread = threading.Thread(target=stall, args=[server, start])
            thread.start()
            pushed = Load(**load, **how)
            result = generate(
                endpoint, work, pushed, started=lambda _, start=start: start.set()
            )
            thread.join()
            seen[name] = int((result.latency_s > 0.25).sum())
        assert seen["open"] >= 20
        assert seen["closed"] <= 4

    def test_failures_are_counted_by_kind_and_none_is_sent_again(self, server):
        endpoint, work = workload(server)
        server.failures.extend([("INTERNAL", "warm-up")] * 20)  # Unmeasured.
        server.failures.extend([("UNAVAILABLE", "full")] * 3 + [("INTERNAL", "x")] * 2)
        load = Load(seconds=0.2, rate=50, deadline_s=20)
        result = run_load_test(endpoint, work, load)
        assert result.samples.errors == {"UNAVAILABLE": 3, "INTERNAL": 2}
        assert (result.failed, result.latency.n) == (5, 5)
        assert server.attempts == 20 + 10

    def test_a_slow_server_makes_deadlines(self, server):
        endpoint, work = workload(server)
        server.delay_s = 0.3
        load = Load(seconds=0.2, rate=20, deadline_s=0.1)
        result = run_load_test(endpoint, work, load)
        assert result.samples.errors == {"DEADLINE_EXCEEDED": 4}
        assert result.p99_ms == float("inf")
        assert json.dumps(result.to_json(), allow_nan=False)


def stall(server, start):
    """Holds all answers for half a second, a little after the start."""
    start.wait()
    time.sleep(0.3)
    server.hold(0.5)


class TestClosedLoop:
    def test_so_many_clients_and_no_more_are_under_way(self, server):
        endpoint, work = workload(server)
        server.delay_s = 0.05
        load = Load(seconds=0.5, clients=3, processes=2, deadline_s=20)
        result = run_load_test(endpoint, work, load)
        # Three clients, each done in at least 50 ms.
        assert 3 <= len(result.samples) <= 3 * 0.5 / 0.05 + 3
        assert result.throughput <= 3 / 0.05
        assert result.samples.lag_s.max() < 0.05


class TestGenerator:
    def test_latency_counts_from_when_a_request_was_due_not_from_when_it_was_sent(self):
        """Due 0.2 s ago and answered 0.05 s from now: 0.25 s, 0.2 of them the lag."""

        class Slow:
            async def send(self, message, timeout_s):
                await asyncio.sleep(0.05)
                return b""

        work = Workload(["message"], "recommend", 1, 1, Target("films"))
        load = Load(seconds=1.0, rate=1)
        one = load_generator._Generator(None, Endpoint.parse("http://a"), work, load, 0)
        one.channel, one.start = Slow(), time.monotonic() - 0.2
        asyncio.run(one._measured(0, one.start))
        seen = one.samples()
        assert seen.due_s.tolist() == [0.0]
        assert 0.2 <= seen.lag_s[0] < seen.latency_s[0]
        assert seen.latency_s[0] >= 0.2499

    def test_a_generator_that_dies_is_an_error_and_not_a_hang(self, server):
        endpoint, _ = workload(server)
        broken = Workload([], "recommend", 1, 0, Target("films"))
        with pytest.raises(LoadTestError, match="generator process died"):
            generate(endpoint, broken, Load(seconds=1.0, rate=5))

    @pytest.mark.parametrize(
        "settings",
        [{}, {"rate": 1, "clients": 1}, {"rate": 0}, {"clients": 1, "processes": 0}],
    )
    def test_settings_that_do_not_fit(self, settings):
        with pytest.raises(ValueError, match="Received"):
            Load(seconds=1.0, **settings)

    def test_a_late_generator_is_told(self):
        assert not result_of(samples([5.0] * 10, lag_ms=0.5)).generator_was_late
        assert result_of(samples([5.0] * 10, lag_ms=2.0)).generator_was_late


class TestSwap:
    @pytest.fixture
    def export(self, tmp_path):
        for version in (6, 7):
            folder = tmp_path / "films" / str(version)
            folder.mkdir(parents=True)
            (folder / "saved_model.pb").write_text(f"version {version}")
        return tmp_path / "films"

    def test_a_copy_appears_whole_during_the_test_and_goes_after(self, server, export):
        endpoint, work = workload(server)
        seen = []

        def watch():
            while (export / "8" / "saved_model.pb").exists() is False:
                time.sleep(0.005)
            seen.append((export / "8" / "saved_model.pb").read_text())
            server.versions[8] = "LOADING"
            time.sleep(0.1)
            server.versions.update({8: "AVAILABLE", 7: "END"})

        thread = threading.Thread(target=watch)
        thread.start()
        load = Load(seconds=0.9, rate=40, deadline_s=20)
        result = run_load_test(endpoint, work, load, reload=export)
        thread.join()
        assert seen == ["version 7"]
        assert sorted(p.name for p in export.iterdir()) == ["6", "7"]
        swap = result.swap
        assert swap.version == 8
        assert 0.3 <= swap.published_s < swap.available_s
        assert swap.available_s - swap.published_s > 0.09
        around = result.around_swap
        assert sum(each.n for each in around.values()) == 36
        assert around["before"].n >= 12
        assert set(result.samples.versions) <= {"7", "8"}
        content = json.loads(json.dumps(result.to_json(), allow_nan=False))
        assert content["swap"]["latency_ms"]["during"]["n"] == around["during"].n

    def test_a_version_that_is_not_loaded_in_time_is_said_so(self, server, export):
        endpoint, work = workload(server)
        load = Load(seconds=0.2, rate=20, deadline_s=20)
        result = run_load_test(endpoint, work, load, reload=export)
        assert result.swap.available_s is None
        assert "was not loaded by the end of the test" in shown(result)
        assert sorted(p.name for p in export.iterdir()) == ["6", "7"]

    def test_an_error_in_the_test_leaves_nothing_behind(self, export):
        status = [VersionStatus(7, "AVAILABLE", "")]
        with pytest.raises(KeyError), staged_copy(export, lambda: status) as swap:
            swap.begin(time.monotonic(), 0.0)
            while not (export / "8").exists():
                time.sleep(0.005)
            raise KeyError
        swap.end()
        assert sorted(p.name for p in export.iterdir()) == ["6", "7"]

    def test_an_export_at_work_is_not_disturbed(self, export):
        with locked_folder(export), pytest.raises(BusyError):
            with staged_copy(export, list):
                pass
        assert sorted(p.name for p in export.iterdir()) == ["6", "7"]


class TestSearch:
    def test_the_result_is_the_last_test_of_the_rate_that_was_found(self, monkeypatch):
        """A server of 300 requests a second: above, its answers fall behind."""
        asked = []

        def generate(endpoint, work, load, progress):
            asked.append(load)
            progress(RequestCounts(1.0, 3, 2, 1))
            count = int(load.rate * load.seconds)
            due = np.arange(count) / load.rate
            waits = np.maximum(0.0, np.arange(count) / 300 - due)
            return samples(1.0 + 1e3 * waits, due_s=due)

        monkeypatch.setattr(load_runs, "generate", generate)
        told = []
        found, result = search_rate(
            Endpoint.parse("a"),
            Workload([], "rank", 1, 1, Target("films")),
            Load(seconds=2.0, rate=40.0, processes=2, deadline_s=3),
            budget_ms=10.0,
            progress=lambda rate, at: told.append((rate, at.sent)),
        )
        assert 300 / 1.1 <= found.rate <= 310
        assert result.load == Load(6.0, found.rate, None, 2, 3)
        assert len(result.samples) == int(found.rate * 6)
        assert {(load.processes, load.deadline_s) for load in asked} == {(2, 3)}
        assert told[0] == (40.0, 3)

    def test_a_search_has_a_rate_to_begin_with(self):
        work = Workload([], "rank", 1, 1, Target("films"))
        with pytest.raises(ValueError, match="`load` must have a rate"):
            search_rate(Endpoint.parse("a"), work, Load(1.0, clients=1), 10.0)


def shown(result, search=None):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    console.print(render_load_test(result, search))
    console.file.close()
    return " ".join(console.export_text().split())


class TestReport:
    def test_the_sheet_has_all_figures(self):
        seen = samples(
            [*range(1, 100), 5000], code=[0] * 98 + [1, 0], version=[7] * 99 + [8]
        )
        text = shown(result_of(seen, swap=Swap(8, 0.5, 0.8), processes=2))
        for part in (
            "`recommend` of films at grpc://a:1",
            "open loop, 100 requests a second, 2 s",
            "p99.9",
            "5,000.00",
            "during the swap",
            "1 UNAVAILABLE",
            "7: 98 answers, 8: 1 answers",
            "version 8 was published after 0.5 s and had replaced its predecessor "
            "0.3 s later",
        ):
            assert part in text, part

    def test_a_search_shows_its_tests_and_what_limited_it(self):
        trials = [
            Trial(100.0, 5.0, 4.2, 0, 100.0, True, "within the budget"),
            Trial(200.0, 5.0, None, 9, 0.0, False, "9 failed"),
        ]
        found = RateSearch(10.0, 100.0, "generator", trials)
        text = shown(result_of(samples([1.0] * 9)), found)
        assert "100.0 requests a second are within the budget of 10 ms at p99." in text
        assert "the load generator was late" in text and "9 failed" in text
        none = RateSearch(10.0, None, "server", trials[1:])
        assert "No tested rate was within the budget of 10 ms at p99." in shown(
            result_of(samples([1.0])), none
        )

    @pytest.mark.parametrize("ending", ["png", "svg"])
    def test_the_picture_is_drawn_also_of_failures_and_swaps(self, tmp_path, ending):
        rng = np.random.default_rng(0)
        seen = samples(rng.lognormal(1, 1, 500), code=rng.integers(0, 2, 500))
        file = tmp_path / f"latency.{ending}"
        plot_load_test(result_of(seen, swap=Swap(8, 1.0, None), seconds=5), file)
        if ending == "png":
            picture = imread(file)
            assert picture.shape[1] > 1000
            assert picture.std() > 0.01
        else:
            assert "version 8 loads" in file.read_text()

    def test_a_test_without_answers_has_a_picture_too(self, tmp_path):
        plot_load_test(result_of(samples([1.0] * 3, code=[1] * 3)), tmp_path / "a.png")
        assert (tmp_path / "a.png").stat().st_size > 1000


def call(*arguments):
    return CliRunner().invoke(app, ["load-test", *(str(each) for each in arguments)])


class TestCommand:
    @pytest.fixture
    def lines(self, tmp_path):
        file = tmp_path / "queries.jsonl"
        rows = (json.dumps(query(history=ITEMS[:n])) for n in range(4))
        file.write_text("\n".join(rows))
        return file

    @pytest.mark.parametrize("protocol", ["grpc", "rest"])
    def test_json_on_stdout_and_a_picture_on_disk(
        self, server, lines, tmp_path, protocol
    ):
        plot = tmp_path / "latency.png"
        result = call(
            server.endpoints[protocol],
            *("--queries", lines, "--model", "films", "--rate", 40),
            *("--seconds", 0.3, "--deadline", "20s", "--plot", plot, "--json"),
        )
        assert result.exit_code == 0, result.output
        content = json.loads(result.stdout)
        assert (content["requests"], content["errors"]) == (12, {})
        assert content["latency_ms"]["p99_9"] >= content["latency_ms"]["p50"] > 0
        assert content["queries"] == 4
        assert plot.exists()

    def test_a_table_for_people(self, server, lines):
        result = call(
            server.endpoints["grpc"],
            *("--queries", lines, "--model", "films", "--clients", 2),
            *("--seconds", 0.2, "--deadline", "20s", "--signature", "encode_query"),
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
            ({"--signature": "guess"}, "`--signature` must be one that the model has"),
            ({"--plot": "a.txt"}, "`--plot` must end in .png"),
            ({"--plot": "nowhere/a.png"}, "`--plot` must be in a folder that exists"),
            ({"--deadline": "1"}, "A time must be like 10ms or 1s. Received: '1'"),
            ({"--p99-budget": "2s"}, "`--p99-budget` must be below the `--deadline`"),
            ({"--p99-budget": "9ms", "--rate": None, "--clients": 1}, "open loop"),
            ({"--p99-budget": "9ms", "--reload-during": "a"}, "must go with one rate"),
            ({"--batch-size": 0}, "batch_size=0"),
            ({"--reload-during": "nowhere"}, "numbered versions"),
            ({"--prepared": "nowhere", "--queries": None}, "`--prepared` must be the"),
            ({"--seconds": -1}, "`seconds` must be positive"),
        ],
    )
    def test_what_can_be_mended_is_one_paragraph(self, server, lines, change, said):
        plain = {"--queries": lines, "--model": "films", "--rate": 10, "--seconds": 0.1}
        options = {k: v for k, v in (plain | change).items() if v is not None}
        result = call(server.endpoints["grpc"], *itertools.chain(*options.items()))
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.startswith("Error: ")
        assert said in result.stderr
        assert result.stderr.count("\n") == 1

    def test_a_server_that_is_not_there(self, lines):
        result = call(
            "http://127.0.0.1:1", "--queries", lines, "--model", "films", "--rate", 1
        )
        assert result.exit_code == 2
        assert "UNAVAILABLE: [Errno 111] Connection refused" in result.stderr
