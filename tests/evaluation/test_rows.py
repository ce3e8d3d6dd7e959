"""Per-list metrics, rank agreement and the table of rows."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.evaluation.intervals import bootstrap
from recdistill.evaluation.rows import ListRows, agreement, measure, metric_names
from recdistill.metrics import ranking
from recdistill.metrics.agreement import survival

SCORES = np.array([[0.1, 0.9, 0.5], [0.3, 0.2, 0.1], [0.3, 0.2, 0.1]])
RELEVANCE = np.array([[1.0, 0.0, 2.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
MASK = np.ones((3, 3), bool)


MORE = ["dcg@2", "precision@2", "rbp@2", "err@2"]


def test_each_name_is_the_metric_of_that_name():
    got = measure(
        SCORES,
        RELEVANCE,
        MASK,
        ["ndcg@2", "recall@2", "hit@1", "map@3", "mrr", "mrr@1", *MORE],
    )
    lists = (SCORES, RELEVANCE, MASK)
    want = {
        "ndcg@2": ranking.ndcg(*lists, 2),
        "recall@2": ranking.recall(*lists, 2),
        "hit@1": ranking.hit_rate(*lists, 1),
        "map@3": ranking.average_precision(*lists, 3),
        "mrr": ranking.reciprocal_rank(*lists),
        "mrr@1": ranking.reciprocal_rank(*lists, 1),
        "dcg@2": ranking.dcg(*lists, 2),
        "precision@2": ranking.precision(*lists, 2),
        "rbp@2": ranking.rank_biased_precision(*lists, 2, p=0.8),
        "err@2": ranking.expected_reciprocal_rank(*lists, 2, max_grade=4),
    }
    assert list(got) == list(want)
    for name, values in want.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)


def test_an_unreachable_positive_counts_0_and_a_list_without_positive_is_nan():
    names = ["ndcg@2", "recall@2", "hit@1", "map@3", "mrr"]
    lost = np.array([False, False, True])
    for values in measure(SCORES, RELEVANCE, MASK, names, unreachable=lost).values():
        assert values[2] == 0.0
    for values in measure(SCORES, RELEVANCE, MASK, names).values():
        assert np.isnan(values[2])


def test_an_unreachable_list_must_not_have_a_relevant_candidate():
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
def test_an_unknown_metric_error_suggests_the_closest_name(name, nearest):
    with pytest.raises(
        ValueError, match=f"`metrics` must be .*did you mean '{nearest}'"
    ):
        measure(SCORES, RELEVANCE, MASK, [name])


def test_an_unknown_metric_without_a_close_name_has_no_suggestion():
    with pytest.raises(ValueError, match=r"Received: 'xyz'$"):
        measure(SCORES, RELEVANCE, MASK, ["xyz"])


def test_agreement_has_one_value_for_each_cutoff():
    rng = np.random.default_rng(0)
    pair = (*rng.normal(size=(2, 4, 30)), np.ones((4, 30), bool))
    got = agreement(*pair, k=5, survival_at=(7, 30))
    assert list(got) == [
        "overlap@5",
        "kendall_tau@5",
        "spearman_rho@5",
        "rbo",
        "survival@7",
        "survival@30",
    ]
    np.testing.assert_array_equal(got["survival@7"], survival(*pair, 5, 7))
    np.testing.assert_array_equal(got["survival@30"], 1.0)


def test_rows_are_the_same_after_parquet(tmp_path):
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


def test_rows_become_a_data_frame():
    rows = ListRows()
    rows.add([3, 1], ["ann", "bob"], {"mrr": [0.5, np.nan]}, top=[[4, 2], [0, -1]])
    frame = rows.to_frame()
    assert frame.columns.to_list() == ["list_id", "query_id", "mrr", "top"]
    assert frame["query_id"].to_list() == ["ann", "bob"]
    assert frame["mrr"].mean() == 0.5
    assert frame["top"].map(list).to_list() == [[4, 2], [0]]


def test_a_list_must_not_be_added_twice():
    rows = ListRows()
    rows.add([3, 1], ["ann", "bob"], {"mrr": [0.5, 0.1]})
    rows.add([3], ["cid"], {"mrr": [0.5]})
    with pytest.raises(ValueError, match=r"`list_ids` must be unique. Received: 3"):
        rows.table()


def test_columns_of_other_names_or_lengths_are_refused():
    rows = ListRows()
    with pytest.raises(ValueError, match="`table` must follow at least one `add`"):
        rows.table()
    with pytest.raises(ValueError, match=r"one entry for each list.*'mrr': 1"):
        rows.add([1, 2], ["ann", "bob"], {"mrr": [0.5]})
    rows.add([1], ["ann"], {"mrr": [0.5]})
    with pytest.raises(ValueError, match="columns of the first batch"):
        rows.add([2], ["bob"], {"ndcg@10": [0.5]})
