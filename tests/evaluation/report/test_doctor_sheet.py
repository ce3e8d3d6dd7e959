"""The score doctor's page in the terminal."""

import io

import numpy as np
import pytest
from rich.console import Console

from recdistill.distillation.score_doctor import examine
from recdistill.evaluation.report.doctor_sheet import render_examination
from tests.evaluation.report.example_reports import SOFT_TARGETS


@pytest.mark.parametrize("width", [80, 120])
def test_the_page_has_all_findings_and_fits(width):
    scores = np.exp(3 * np.random.default_rng(1).normal(size=(30, 200)))
    found = examine(scores, np.ones(scores.shape, bool))
    console = Console(file=io.StringIO(), width=width)
    console.print(render_examination(found, SOFT_TARGETS.model_dump()))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    said = " ".join(text.split())
    for finding in found.findings:
        assert f"Finding {finding}" in said
    proposal = "Proposal distill.scores=log distill.teacher_temperature=auto."
    assert f"{proposal} {found.proposal.reason}" in said
    assert f"Kurtosis {found.kurtosis:.3g} (normal 0, exponential 6)" in said
    (row,) = (line.split() for line in text.splitlines() if line.startswith("log "))
    want = [found.effective["log"][t] for t in ("0.125", "0.25", "0.5", "1", "2", "4")]
    assert row[1:] == [f"{number:,.3g}" for number in want]
    assert "This run log, teacher temperature 0.39" in said


def test_scores_that_are_all_nan_give_no_proposal():
    found = examine(np.full((2, 3), np.nan), np.ones((2, 3), bool))
    console = Console(file=io.StringIO(), width=80)
    console.print(render_examination(found))
    said = " ".join(console.file.getvalue().split())
    assert "NaN, infinite 6" in said
    assert "Proposal" not in said
