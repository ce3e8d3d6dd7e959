"""The step evaluate: what the report page shows of the training."""

from recdistill.evaluation.report.page import PageDetails, render_page
from recdistill.pipeline.steps.evaluate import _curves
from tests.evaluation.report.example_reports import report

RECORD = {
    "trials": [
        {"learning_rate": 0.3, "diverged": True},
        {"best": 0.2, "history": [0.1, 0.2, None], "diverged": False},
        {"best": 0.4, "history": [0.3, 0.4], "diverged": False},
    ]
}


def test_the_chosen_curve_is_first_and_the_epoch_that_diverged_is_left_out():
    assert _curves(RECORD) == [[0.3, 0.4], [0.1, 0.2]]


def test_the_page_of_a_run_in_which_training_diverged_late_is_written():
    """A learning rate may diverge after its best checkpoint has been kept."""
    late = {"trials": [{"best": 0.2, "history": [0.1, 0.2, None], "diverged": False}]}
    page = render_page(report(), PageDetails(curves={"distilled": _curves(late)}))
    assert "0.1000 0.2000" in page
