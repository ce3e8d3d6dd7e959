"""load_report: the report on the terminal has every figure."""

import pytest
from rich.console import Console

from recdistill.serving.load_test.load_report import headline, render_load_test
from recdistill.serving.load_test.rate_search import RateSearch, Trial
from recdistill.serving.load_test.version_swap import Swap
from tests.serving.load_test.made_samples import result_of, samples


def shown(result, search=None):
    console = Console(width=80)
    with console.capture() as captured:
        console.print(render_load_test(result, search))
    assert max(map(len, captured.get().splitlines())) <= 80
    return " ".join(captured.get().split())


@pytest.mark.parametrize(
    "part",
    [
        "`recommend` of films at grpc://a:1",
        "open loop, 100 requests a second, 2 s",
        "p99.9",
        "5,000.00",
        "during the swap",
        "1 UNAVAILABLE",
        "5 distinct",
        "7: 98 answers, 8: 1 answers",
        "version 8 was published after 0.5 s and had replaced its predecessor 0.3 s",
    ],
)
def test_the_report_has_all_figures(part):
    seen = samples(
        [*range(1, 100), 5000], code=[0] * 98 + [1, 0], version=[7] * 99 + [8]
    )
    assert part in shown(result_of(seen, swap=Swap(8, 0.5, 0.8), processes=2))


def test_the_headline_of_a_closed_loop_has_the_number_of_clients():
    result = result_of(samples([1.0]), rate=None, clients=3)
    assert headline(result).endswith("closed loop, 3 clients, requests, 2 s")


def test_a_version_that_was_not_loaded_is_reported():
    text = shown(result_of(samples([1.0]), swap=Swap(8, 0.5, None)))
    assert "after 0.5 s and was not loaded by the end of the test" in text


def test_a_late_generator_is_reported():
    assert "The load generator was late" in shown(
        result_of(samples([5.0] * 10, lag_ms=2.0))
    )


TRIALS = [
    Trial(100.0, 5.0, 4.2, 0, 100.0, True, "within the budget"),
    Trial(200.0, 5.0, None, 9, 0.0, False, "9 failed"),
]


def test_a_search_shows_its_tests_and_what_limited_it():
    search = RateSearch(10.0, 100.0, "generator", TRIALS)
    text = shown(result_of(samples([1.0] * 9)), search)
    assert "100.0 requests a second are within the budget of 10 ms at p99." in text
    assert "the load generator was late" in text and "9 failed" in text


def test_a_search_that_found_no_rate_says_so():
    search = RateSearch(10.0, None, "server", TRIALS[1:])
    text = shown(result_of(samples([1.0])), search)
    assert "No tested rate was within the budget of 10 ms at p99." in text
