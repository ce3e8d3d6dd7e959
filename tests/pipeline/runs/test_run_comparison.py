"""Comparison of finished runs: which runs can be compared, and what is found."""

import numpy as np
import pytest

from recdistill.errors import ReportError
from recdistill.pipeline.evaluation.evaluated_lists import how_lists_differ, slices_of
from recdistill.pipeline.runs.run_comparison import compare_runs
from tests.evaluation.report.example_reports import report
from tests.pipeline.finished_folders import ITEMS, evaluated, lists, write_run

DISTILLED = ("distilled",)


def test_a_better_run_is_found_with_its_queries_and_slices(tmp_path):
    old = write_run(tmp_path / "old", {"distilled": 0.4})
    gained = np.where(np.arange(40) < 20, 0.5, 0.4)  # on the first list of each query
    new = write_run(tmp_path / "new", {"distilled": gained})
    comparison, _ = compare_runs([old, new], DISTILLED)
    (pair,) = comparison.pairs
    assert (pair.reference, pair.other) == ("old", "new")
    assert (comparison.lists, comparison.queries) == (40, 20)
    test = pair.metrics["ndcg@10"]
    assert test.difference.value == pytest.approx(0.05)
    assert (test.wins, test.ties, test.losses) == (20, 0, 0)
    assert test.is_significant
    head, tail = pair.slices
    assert (head.name, head.test.difference.value) == ("head", pytest.approx(0.1))
    assert head.test.is_significant
    assert tail.test.p_value == 1.0
    assert pair.verdict == (
        "By NDCG@10, new is better than old by 0.0500 (+12.5%), adjusted p < 0.001."
    )
    change = pair.changes[-1]
    assert change.lists == 2
    assert (change.reference, change.other) == pytest.approx((0.4, 0.45))


def test_the_models_of_one_run_are_compared_with_the_first(tmp_path):
    values = {"baseline": 0.3, "distilled": 0.4, "teacher": 0.3}
    run = write_run(tmp_path / "films", values)
    comparison, _ = compare_runs([run], ("baseline", "distilled", "teacher"))
    distilled, teacher = comparison.pairs
    assert (distilled.reference, distilled.other) == ("baseline", "distilled")
    assert "better" in distilled.verdict
    # A teacher that is equal to the baseline.
    assert "does not differ from baseline beyond noise" in teacher.verdict
    # Both p-values are corrected for two comparisons.
    p = distilled.metrics["ndcg@10"]
    assert p.adjusted_p == pytest.approx(2 * p.p_value)


def test_several_models_of_several_runs_have_names_of_both(tmp_path):
    runs = [write_run(tmp_path / name, {}) for name in ("a", "b")]
    comparison, _ = compare_runs(runs, ("baseline", "teacher"))
    assert [pair.other for pair in comparison.pairs] == [
        "a teacher",
        "b baseline",
        "b teacher",
    ]


def test_runs_of_the_same_name_have_their_paths_as_names(tmp_path):
    runs = [write_run(tmp_path / place / "films", {}) for place in ("x", "y")]
    (pair,) = compare_runs(runs, DISTILLED)[0].pairs
    assert pair.other == str(tmp_path / "y" / "films")


def test_rows_in_another_order_give_the_same_comparison(tmp_path):
    values = np.linspace(0, 1, 40)
    runs = [
        write_run(tmp_path / "a", {"distilled": 0.4}),
        write_run(tmp_path / "b", {"distilled": values}),
    ]
    order = np.random.default_rng(0).permutation(40)
    runs.append(
        write_run(tmp_path / "c", {"distilled": values[order]}, lists().take(order))
    )
    straight, shuffled = (
        compare_runs([runs[0], other], DISTILLED)[0].pairs[0] for other in runs[1:]
    )
    assert straight.metrics == shuffled.metrics
    assert [each.test for each in straight.slices] == [
        each.test for each in shuffled.slices
    ]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lists(30), "40 and 30 test lists, 10 of which are only in the first"),
        (lists(positive=1), "40 of 40 test lists have other relevant items"),
        (lists(relevance=2.0), "40 of 40 test lists have other relevant items or"),
    ],
)
def test_runs_of_other_lists_are_refused_with_what_differs(tmp_path, other, said):
    runs = [write_run(tmp_path / "a", {}), write_run(tmp_path / "b", {}, other)]
    with pytest.raises(ReportError, match=said):
        compare_runs(runs, DISTILLED)


def test_other_candidates_are_refused_and_the_protocol_is_named(tmp_path):
    changed = report().protocol.model_copy(update={"seen": "include"})
    first = write_run(tmp_path / "a", {})
    second = write_run(tmp_path / "b", {}, lists(30), protocol=changed)
    with pytest.raises(ReportError, match=r"seen items are candidates \(exclude and"):
        compare_runs([first, second], DISTILLED)


def test_runs_of_the_same_lists_by_other_protocols_are_refused(tmp_path):
    changed = report().protocol.model_copy(update={"candidates": "retrieved:200"})
    first = write_run(tmp_path / "a", {})
    second = write_run(tmp_path / "b", {}, protocol=changed)
    with pytest.raises(ReportError, match=r"ranked \(catalogue and retrieved:200\)"):
        compare_runs([first, second], DISTILLED)


def retrieved_run(folder, name, metric):
    changed = report().protocol.model_copy(update={"candidates": "retrieved:20"})
    return write_run(folder / name, {}, protocol=changed, metric=metric)


def test_runs_with_retrieved_candidates_share_what_is_the_same_over_the_catalogue(
    tmp_path,
):
    near, far, whole = (
        [retrieved_run(tmp_path / metric, name, metric) for name in "ab"]
        for metric in ("ndcg@20", "ndcg@21", "mrr")
    )
    (pair,) = compare_runs(near, ("popularity",))[0].pairs
    assert list(pair.metrics) == ["ndcg@20"]
    for runs in (far, whole):
        with pytest.raises(ReportError, match="a cut-off if candidates are retrieved"):
            compare_runs(runs, ("popularity",))
        # The models of one run ranked the same candidates.
        assert compare_runs(runs[:1], ("baseline", "teacher"))[0].pairs
    with pytest.raises(ReportError, match=r"`teacher` cannot be .* of its run"):
        compare_runs(near, ("distilled", "teacher"))


def test_how_lists_differ():
    table = evaluated(lists())
    assert how_lists_differ(table, table) is None
    # The order of the catalogue does not matter, its items do.
    assert how_lists_differ(table, evaluated(lists(positive=3), ITEMS[::-1])) is None
    more = evaluated(lists(), np.array([*ITEMS, "e"]))
    assert how_lists_differ(table, more) == "40 of 40 test lists have other candidates"
    renamed = lists()
    renamed.query_id[3] = "somebody"
    assert (
        how_lists_differ(table, evaluated(renamed))
        == "1 of 40 test lists belong to other queries"
    )
    unreachable = evaluated(lists(positive=-1))
    assert "other relevant items" in how_lists_differ(table, unreachable)


def test_slices_are_stored_in_order():
    members = slices_of(evaluated(lists()))
    assert list(members) == ["item"]
    assert list(members["item"]) == ["head", "tail"]
    assert members["item"]["head"].tolist() == [True] * 20 + [False] * 20


@pytest.mark.parametrize("folders", [["a"], ["a", "a"], ["a", "b/../a"]])
def test_one_run_alone_is_nothing_to_compare(tmp_path, folders):
    write_run(tmp_path / "a", {})
    (tmp_path / "b").mkdir()
    with pytest.raises(ReportError, match="must name two runs or more, each once"):
        compare_runs([tmp_path / each for each in folders], DISTILLED)


def test_runs_need_a_metric_in_common(tmp_path):
    runs = [
        write_run(tmp_path / "a", {}, metric="mrr"),
        write_run(tmp_path / "b", {}, metric="hit@5"),
    ]
    with pytest.raises(ReportError, match="a metric in common with the first run"):
        compare_runs(runs, DISTILLED)
