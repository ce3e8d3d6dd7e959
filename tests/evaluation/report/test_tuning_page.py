"""The page and the table of a search, from documents written by hand."""

import copy

import pytest
from rich.console import Console

from recdistill.evaluation.report.tuning_page import (
    OPTIMISM,
    render_tuning,
    render_tuning_page,
    tuning_verdict,
)


def trial(number, value, dim, weight, state="complete", **more):
    settings = {"student.dim": dim, "distill.weight": weight}
    return {
        "number": number,
        "state": state,
        "value": value,
        "settings": settings,
        "seconds": 12.3,
        "epochs": [0.1, 0.2],
        "reason": "",
        **more,
    }


SEARCH = {
    "name": "films",
    "metric": "ndcg@10",
    "lists": 1_234,
    "best": 2,
    "configured": 1,
    "gain": {"value": 0.0123, "ci": [-0.001, 0.02]},
    "importances": {"distill.weight": 0.75, "student.dim": 0.25},
    "space": {
        "student.dim": {"choices": [8, 16]},
        "distill.weight": {"low": 0.3, "high": 1.0, "scale": "linear"},
    },
    "trials": [
        trial(1, 0.08, 8, 0.8),
        trial(2, 0.0923, 16, 0.51234),
        trial(3, 0.05, 8, 0.31, "pruned"),
        trial(4, None, 8, 0.9, "failed", epochs=[], reason="It <diverged> & stopped."),
    ],
    "wanted": 4,
    "files": {"best": "runs/films/tune/best.toml", "page": "p", "document": "d"},
}


def changed(**changes):
    return copy.deepcopy(SEARCH) | changes


@pytest.mark.parametrize(
    ("search", "said"),
    [
        (
            SEARCH,
            "Trial 2 of 4 is the best: NDCG@10 0.0923 on 1,234 validation lists; the "
            "configured settings have 0.0800 (+0.0123 "
            "[\N{MINUS SIGN}0.0010, +0.0200]).",
        ),
        (
            changed(best=1, gain=None),
            "Trial 1 of 4 is the best: NDCG@10 0.0800 on 1,234 validation lists. These "
            "are the configured settings.",
        ),
        (
            changed(configured=None, gain=None),
            "Trial 2 of 4 is the best: NDCG@10 0.0923 on 1,234 validation lists.",
        ),
        (
            changed(gain=None),
            "Trial 2 of 4 is the best: NDCG@10 0.0923 on 1,234 validation lists; the "
            "configured settings have 0.0800 (+0.0123).",
        ),
    ],
)
def test_one_sentence_says_what_was_found(search, said):
    assert tuning_verdict(search) == said


def test_the_page_has_every_trial_and_says_that_validation_is_optimistic():
    page = render_tuning_page(SEARCH)
    assert OPTIMISM in page
    assert "It &lt;diverged&gt; &amp; stopped." in page
    assert page.count("<svg") == 4
    assert "0.512" in page
    assert "recdistill run runs/films/tune/best.toml" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_the_page_of_one_trial_has_no_importances():
    one = changed(best=1, gain=None, importances={}, trials=[trial(1, 0.08, 8, 0.8)])
    page = render_tuning_page(one)
    assert "Importance of the settings" not in page
    assert page.count("<svg") == 3


def test_the_table_begins_with_the_best_trial_and_fits_80_columns():
    console = Console(width=80, record=True)
    with console.capture() as shown:
        console.print(render_tuning(SEARCH))
    lines = shown.get().splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines if line[:1].isdigit()]
    assert rows == [
        ["2", "0.0923", "16", "0.512", "best"],
        ["1", "0.0800", "8", "0.8", "configured"],
        ["3", "0.0500", "8", "0.31", "stopped"],
        ["4", "-", "8", "0.9", "failed"],
    ]
    assert any(line.split() == ["distill.weight", "75%"] for line in lines)
