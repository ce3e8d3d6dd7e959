"""report_building: mean and spread over seeds, by hand."""

from types import SimpleNamespace

import pyarrow as pa
import pytest

from recdistill.pipeline.evaluation.report_building import seeds_part


def rows(*values):
    size = len(values)
    return pa.table(
        {"list_id": range(size), "query_id": ["q"] * size, "ndcg@10": list(values)}
    )


def test_baseline_and_student_of_one_seed_are_compared_with_the_teacher():
    found = SimpleNamespace(
        models={"teacher": rows(0.4, 0.6)},
        further={
            "baseline 4": rows(0.1, 0.3),
            "baseline 5": rows(0.2, 0.4),
            "distilled 4": rows(0.5, 0.3),
            "distilled 5": rows(0.4, 0.4),
        },
    )
    part = seeds_part(found, ["ndcg@10"])
    assert part.seeds == (4, 5)
    assert part.models["baseline"]["ndcg@10"].values == pytest.approx((0.2, 0.3))
    assert part.models["distilled"]["ndcg@10"].mean == pytest.approx(0.4)
    # Gains of .2 and .1, gaps of .3 and .2: a mean gain of .15 and a mean gap of .25.
    closed = part.gap_closed["ndcg@10"]
    assert closed.mean == pytest.approx(0.15 / 0.25)
    want = 0.6 + (0.2 - 0.6 * 0.3) / 0.25, 0.6 + (0.1 - 0.6 * 0.2) / 0.25
    assert closed.values == pytest.approx(want)
    assert seeds_part(found, []).gap_closed == {}


def test_a_seed_whose_gap_is_close_to_0_does_not_decide():
    found = SimpleNamespace(
        models={"teacher": rows(0.5)},
        further={
            "baseline 1": rows(0.3),
            "baseline 2": rows(0.499),
            "distilled 1": rows(0.4),
            "distilled 2": rows(0.45),
        },
    )
    closed = seeds_part(found, ["ndcg@10"]).gap_closed["ndcg@10"]
    assert closed.mean == pytest.approx((0.1 - 0.049) / (0.2 + 0.001))
    found.models["teacher"] = rows(0.39)  # Below the baselines' mean.
    assert seeds_part(found, ["ndcg@10"]).gap_closed == {}


def test_one_seed_has_no_spread():
    found = SimpleNamespace(models={"teacher": rows(0.4)}, further={})
    assert seeds_part(found, ["ndcg@10"]) is None
