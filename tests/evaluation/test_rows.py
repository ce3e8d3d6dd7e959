"""evaluation: what a list earns, and the table that keeps it."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.evaluation.intervals import bootstrap
from recdistill.evaluation.rows import ListRows, agreement, measure, metric_names
from recdistill.metrics import ranking

SCORES = np.array([[0.1, 0.9, 0.5], [0.3, 0.2, 0.1], [0.3, 0.2, 0.1]])
RELEVANCE = np.array([[1.0, 0.0, 2.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
MASK = np.ones((3, 3), bool)


def test_each_name_is_the_metric_that_people_mean():
    got = measure(
        SCORES,
        RELEVANCE,
        MASK,
        ["ndcg@2", "recall@2", "hit@1", "map@3", "mrr", "mrr@1"],
    )
    lists = (SCORES, RELEVANCE, MASK)
    want = {
        "ndcg@2": ranking.ndcg(*lists, 2),
        "recall@2": ranking.recall(*lists, 2),
        "hit@1": ranking.hit_rate(*lists, 1),
        "map@3": ranking.average_precision(*lists, 3),
        "mrr": ranking.reciprocal_rank(*lists),
        "mrr@1": ranking.reciprocal_rank(*lists, 1),
    }
    assert list(got) == list(want)
    for name, values in want.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)


def test_unreachable_positive_counts_zero_and_no_positive_counts_not_at_all():
    names = ["ndcg@2", "recall@2", "hit@1", "map@3", "mrr"]
    lost = np.array([False, False, True])
    for values in measure(SCORES, RELEVANCE, MASK, names, unreachable=lost).values():
        assert values[2] == 0.0
    for values in measure(SCORES, RELEVANCE, MASK, names).values():
        assert np.isnan(values[2])


def test_unreachable_list_with_a_relevant_candidate_is_a_contradiction():
    with pytest.raises(ValueError, match=r"`unreachable` must be False.*True in row 1"):
        measure(SCORES, RELEVANCE, MASK, ["mrr"], unreachable=[False, True, True])
    with pytest.raises(ValueError, match="`unreachable` must be a boolean array"):
        measure(SCORES, RELEVANCE, MASK, ["mrr"], unreachable=[0, 0, 1])
    with pytest.raises(ValueError, match=r"`unreachable`.*shape \(3,\)"):
        measure(SCORES, RELEVANCE, MASK, ["mrr"], unreachable=[True])


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("NDCG@20", "ndcg@20"),
        ("ndgc@5", "ndcg@5"),
        ("recall", "recall@10"),
        ("hit_10", "hit@10"),
        ("MRR", "mrr"),
        ("map@0", "map@10"),
    ],
)
def test_unknown_metric_is_answered_with_the_nearest_name(name, nearest):
    with pytest.raises(
        ValueError, match=f"`metrics` must be .*did you mean '{nearest}'"
    ):
        measure(SCORES, RELEVANCE, MASK, [name])


def test_metric_like_no_other_is_answered_without_a_guess():
    with pytest.raises(ValueError, match=r"Received: 'xyz'$"):
        measure(SCORES, RELEVANCE, MASK, ["xyz"])


def test_agreement_names_what_it_measured():
    rng = np.random.default_rng(0)
    pair = (*rng.normal(size=(2, 4, 30)), np.ones((4, 30), bool))
    got = agreement(*pair, k=5, survival_at=(7, 30))
    assert list(got) == [
        "overlap@5", "kendall_tau@5", "rbo", "survival@7", "survival@30"
    ]  # fmt: skip
    np.testing.assert_array_equal(got["survival@7"], ranking.survival(*pair, 5, 7))
    np.testing.assert_array_equal(got["survival@30"], 1.0)


def test_rows_keep_each_list_and_survive_parquet(tmp_path):
    rows = ListRows()
    rows.add([3, 1], ["ann", "bob"], {"mrr": [0.5, np.nan]}, top=[[4, 2], [0, -1]])
    rows.add([2], ["ann"], {"mrr": [1.0]}, top=[[9, 8]])
    pq.write_table(rows.table(), tmp_path / "rows.parquet")
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table.schema.types == [
        pa.int64(), pa.string(), pa.float64(), pa.list_(pa.int32())
    ]  # fmt: skip
    assert table["top"].to_pylist() == [[4, 2], [0], [9, 8]]
    assert metric_names(table) == ["mrr"]
    mean = bootstrap(table)["mrr"]
    assert mean.value == (0.5 + 1.0) / 2
    assert mean == bootstrap(rows.table())["mrr"]


def test_rows_refuse_a_list_twice():
    rows = ListRows()
    rows.add([3, 1], ["ann", "bob"], {"mrr": [0.5, 0.1]})
    rows.add([3], ["cid"], {"mrr": [0.5]})
    with pytest.raises(ValueError, match=r"`list_ids` must be unique. Received: 3"):
        rows.table()


def test_rows_refuse_what_does_not_fit():
    rows = ListRows()
    with pytest.raises(ValueError, match="`table` must follow at least one `add`"):
        rows.table()
    with pytest.raises(ValueError, match=r"one entry for each list.*'mrr': 1"):
        rows.add([1, 2], ["ann", "bob"], {"mrr": [0.5]})
    rows.add([1], ["ann"], {"mrr": [0.5]})
    with pytest.raises(ValueError, match="columns of the first batch"):
        rows.add([2], ["bob"], {"ndcg@10": [0.5]})
