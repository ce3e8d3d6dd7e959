"""drift_metrics: what people see, and what Prometheus reads."""

import dataclasses
import io

from rich.console import Console

from recdistill.evaluation.intervals import Interval
from recdistill.evaluation.moved_means import Change
from recdistill.pipeline.runs.drift_check import Drift
from recdistill.pipeline.runs.drift_metrics import METRICS, as_table, as_textfile

FALLEN = Change(
    "agreement",
    "rbo",
    ("genre", 'a "b"'),
    Interval(0.8, 0.7, 0.9),
    Interval(0.5, 0.4, 0.6),
    Interval(-0.3, -0.4, -0.2),
    (60, 70),
)
SAME = Change(
    "unknown values",
    "history",
    None,
    Interval(0.25, 0.2, 0.3),
    Interval(0.25, 0.2, 0.3),
    Interval(0.0, -0.1, 0.1),
    (60, 70),
)


def shown(drift):
    console = Console(file=io.StringIO(), width=120)
    console.print(as_table(drift))
    return console.file.getvalue()


def test_the_table_has_the_slices_that_became_worse_and_the_verdict():
    said = shown(Drift("films", 3, 900, 70, [FALLEN, SAME]))
    assert "900 new lists of 70 queries" in said
    assert 'rbo, genre a "b"' in said
    assert "0.800 (0.700 to 0.900)  0.500 (0.400 to 0.600)  -0.300  worse" in said
    assert "It is time to distil again: 1 number became worse beyond noise." in said


def test_without_a_change_the_verdict_says_so():
    assert "Nothing became worse" in shown(Drift("films", 3, 900, 70, [SAME]))


def test_a_sample_that_is_too_small_has_no_verdict():
    for queries in ((60, 29), (29, 70)):
        change = dataclasses.replace(SAME, queries=queries)
        said = shown(Drift("films", 3, 40, queries[1], [change]))
        assert "Nothing became worse" not in said
        assert "At least 30 queries are needed" in said
        assert f"Received: {queries[0]} of the run, {queries[1]} new ones" in said


def test_a_metric_with_few_values_does_not_hide_the_verdict():
    rare = dataclasses.replace(SAME, name="coupon", queries=(900, 2))
    assert "Nothing became worse" in shown(Drift("films", 3, 900, 70, [SAME, rare]))


def test_the_textfile_has_every_metric_with_escaped_labels():
    text = as_textfile(Drift("films", 3, 900, 70, [FALLEN, SAME]), now=12.5)
    lines = text.splitlines()
    assert 'recdistill_drift_distil_again{model="films",version="3"} 1.0' in lines
    assert 'recdistill_drift_checked_seconds{model="films",version="3"} 12.5' in lines
    assert (
        'recdistill_drift_mean{model="films",version="3",kind="agreement",'
        'metric="rbo",slice="genre a \\"b\\"",data="new"} 0.5'
    ) in lines
    assert (
        'recdistill_drift_worse{model="films",version="3",kind="unknown values",'
        'metric="history",slice="all"} 0.0'
    ) in lines
    for name in METRICS:
        assert f"# TYPE {name} gauge" in lines
