"""The step evaluate: what the report page shows of the training."""

from recdistill.evaluation.report.page import render_page
from recdistill.evaluation.report.page_details import PageDetails
from recdistill.pipeline.steps.evaluate import training_runs
from tests.evaluation.report.example_reports import report


def trial(rate, *history):
    steps = [300 * n for n in range(1, len(history) + 1)]
    curve = {"step": steps, "loss": [None if v is None else 2 * v for v in history]}
    return {
        "learning_rate": rate,
        "history": history,
        "epoch_steps": 300,
        "curve": curve,
    }


def test_the_chosen_run_is_first_and_one_that_diverged_is_last():
    record = {"trials": [trial(0.3, None), trial(0.2, 0.1, 0.2), trial(0.1, 0.4, 0.3)]}
    runs = training_runs(record)
    assert [run.name for run in runs] == [
        "learning rate 0.1",
        "learning rate 0.2",
        "learning rate 0.3",
    ]
    assert [run.best for run in runs] == [0.4, 0.2, -float("inf")]


def test_the_page_of_a_run_in_which_training_diverged_late_is_written():
    """A learning rate may diverge after its best checkpoint has been kept."""
    runs = training_runs({"trials": [trial(0.1, 0.15, 0.25, None)]})
    page = render_page(report(), PageDetails(training={"distilled": runs}))
    assert "<td>distilled, learning rate 0.1</td><td>600</td><td>0.5</td>" in page
    assert "best NDCG@10 0.2500 on validation" in page
