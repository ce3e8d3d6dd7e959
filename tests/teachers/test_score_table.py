"""score_table: scores by id, and lists reduced to scored candidates."""

import numpy as np
import pyarrow as pa
import pytest

from recdistill.data.batches import Lists
from recdistill.data.collation import scored_batch
from recdistill.data.ragged import Ragged
from recdistill.errors import TeacherError
from recdistill.teachers import ScoreTable
from recdistill.teachers.score_table import keep_scored_by_all

ITEMS = ["a", "b", "c", "d"]
ROWS = [
    ("bob", "d", 0.5),
    ("ann", "a", 1.5),
    ("bob", "a", -2.0),
    ("bob", "gone", 9.0),
    ("ann", "b", 0.25),
    ("eve", "c", 7.0),
]


def table(rows=ROWS, batch_rows=2):
    key, item, score = zip(*rows, strict=True)
    columns = {"key": key, "item": item, "score": pa.array(score, pa.float32())}
    batches = pa.table(columns).to_batches(max_chunksize=batch_rows)
    return ScoreTable(batches, ITEMS, "table t")


def ragged(*rows):
    return Ragged(
        np.array([v for row in rows for v in row], "int32"),
        np.cumsum([0, *map(len, rows)]),
    )


def lists(queries, positives, seen=None, **more):
    count = len(queries)
    return Lists(
        list_id=np.arange(count),
        query_id=np.array(queries, object),
        query={},
        positives=ragged(*positives),
        relevance=Ragged(
            np.ones(sum(map(len, positives)), "float32"),
            np.cumsum([0, *map(len, positives)]),
        ),
        seen=ragged(*(seen or [[]] * count)),
        weight=np.ones(count, "float32"),
        query_row=np.zeros(count, int),
        **more,
    )


def batch(given):
    return scored_batch(given, len(ITEMS))


def test_lists_are_reduced_to_scored_candidates():
    given = lists(["ann", "bob", "dan", "bob"], [[0], [1], [0], [3]])
    left = table().keep_scored(given)
    assert left.query_id.tolist() == ["ann", "bob", "bob"]
    assert left.list_id.tolist() == [0, 1, 3]
    x = batch(left)
    np.testing.assert_array_equal(
        x["mask"], np.array([[1, 1, 0, 0], [1, 0, 0, 1], [1, 0, 0, 1]], bool)
    )
    want = [[1.5, 0.25, 0.0, 0.0], [-2.0, 0.0, 0.0, 0.5], [-2.0, 0.0, 0.0, 0.5]]
    np.testing.assert_array_equal(table()(x, training=False), want)


def test_a_list_whose_positive_is_not_scored_has_no_positive():
    left = table().keep_scored(lists(["ann", "bob"], [[0], [1]]))
    assert left.with_scored_positives().list_id.tolist() == [0]


def test_seen_items_are_excluded():
    given = lists(["bob", "bob"], [[3], [0]], seen=[[0, 3], [3]])
    mask = batch(table().keep_scored(given))["mask"]
    np.testing.assert_array_equal(mask, [[0, 0, 0, 0], [1, 0, 0, 0]])


def test_lists_of_a_listwise_table_are_looked_up_by_list_id():
    source = np.array(["eve", "ann"], object)
    left = table().keep_scored(lists(["x", "y"], [[2], [0]], source_list=source))
    assert [row.tolist() for row in np.split(left.scored_candidates.values, [1])] == [
        [2],
        [0, 1],
    ]
    np.testing.assert_array_equal(table()(batch(left))[0], [0, 0, 7.0, 0])


def test_two_tables_keep_the_candidates_scored_by_both():
    other = table([("ann", "b", 1.0), ("bob", "a", 1.0), ("ann", "d", 2.0)])
    left = keep_scored_by_all(lists(["ann", "bob", "eve"], [[0]] * 3), [table(), other])
    assert left.query_id.tolist() == ["ann", "bob"]
    assert left.scored_candidates.padded(-1).tolist() == [[1], [0]]


def test_without_tables_lists_are_unchanged():
    given = lists(["ann"], [[0]])
    assert keep_scored_by_all(given, []) is given
    assert given.with_scored_positives() is given


def test_a_pair_with_the_same_score_twice_counts_once():
    found = table([*ROWS, ROWS[1], ROWS[1]])
    kept = found.keep_scored(lists(["ann", "eve"], [[0], [2]]))
    assert kept.scored_candidates.values.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(
        found(
            batch(lists(["eve"], [[2]]))
            | {
                "candidate_index": np.array([2], "int32"),
                "mask": np.array([[True]]),
            }
        ),
        [[7.0]],
    )


def test_a_candidate_without_a_score_is_an_error():
    x = {
        "list_key": np.array(["bob", "dan"], object),
        "candidate_index": np.array([0, 1], "int32"),
        "mask": np.array([[True, True], [True, False]]),
    }
    with pytest.raises(TeacherError, match="Received: 2 candidates without one"):
        table()(x)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("bob", "gone", 1.0)],
            "must score items of the catalogue. Received: no such row",
        ),
        (
            [*ROWS, ("bob", "d", 2.0)],
            r"Received: 1 pair\(s\) with two scores, such as 'bob' wi",
        ),
    ],
)
def test_a_table_without_scores_or_with_repeated_pairs_is_an_error(rows, message):
    with pytest.raises(TeacherError, match=message):
        table(rows)


def test_places_beyond_32_bits_belong_to_their_own_key():
    # Key 429,497 starts just beyond 2**32 places, key 214,749 just beyond 2**31.
    keys, items = 430_000, 10_000
    numbers = np.arange(keys)
    batch = pa.RecordBatch.from_pydict(
        {
            "key": pa.array(numbers.astype(str)),
            "item": pa.array((numbers % items).astype(str)),
            "score": pa.array(numbers, pa.float32()),
        }
    )
    table = ScoreTable([batch], [str(k) for k in range(items)])
    asked = np.array([0, 7, 214_748, 214_749, 300_000, 429_496, 429_497, 429_999])
    x = {
        "list_key": asked.astype(str),
        "candidate_index": (asked % items)[:, None],
        "mask": np.ones((len(asked), 1), bool),
    }
    np.testing.assert_array_equal(table(x)[:, 0], asked)
    with pytest.raises(TeacherError, match="8 candidates without one"):
        table({**x, "candidate_index": (asked % items)[:, None] ^ 1})
