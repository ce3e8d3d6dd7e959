"""report_building: mean and spread over seeds, by hand."""

from types import SimpleNamespace

import pyarrow as pa
import pytest

from recdistill.pipeline.report_building import seeds_part


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
    # (0.4 - 0.2) / (0.5 - 0.2) and (0.4 - 0.3) / (0.5 - 0.3)
    assert part.gap_closed["ndcg@10"].values == pytest.approx((2 / 3, 1 / 2))
    assert seeds_part(found, []).gap_closed == {}


def test_one_seed_has_no_spread():
    found = SimpleNamespace(models={"teacher": rows(0.4)}, further={})
    assert seeds_part(found, ["ndcg@10"]) is None
