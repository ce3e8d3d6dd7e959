"""content_hashes: a hash depends on the content that counts, and on all of it."""

from dataclasses import replace

import numpy as np
import pytest

from recdistill.data.batches import Lists
from recdistill.data.ragged import Ragged
from recdistill.models.ensemble import EnsembleTeacher
from recdistill.pipeline.candidates.candidate_selection import mixed
from recdistill.pipeline.scores.content_hashes import ContentHashes, scores_apart
from recdistill.teachers import ExternalTeacher


def ragged(*rows):
    offsets = np.cumsum([0, *map(len, rows)])
    return Ragged(np.array([v for row in rows for v in row]), offsets)


def lists():
    return Lists(
        list_id=np.array([7, 8, 9]),
        query_id=np.array(["ann", "bob", "ann"], object),
        query={"history": np.array([[3, 4], [4, 3], [3, 4]])},
        positives=ragged([1], [1], [1]),
        relevance=ragged([1.0], [1.0], [1.0]),
        seen=ragged([5, 6], [5], [5, 6]),
        weight=np.ones(3, "float32"),
        query_row=np.array([0, 1, 0]),
        raw={"words": ragged(["a", "b"], ["ab"], ["a", "b"])},
    )


IDS = mixed(np.arange(10, dtype="uint64"))
OWN = ContentHashes(IDS, IDS)
EXTERNAL = ContentHashes(IDS, IDS, frozenset({"words"}), looked_up=False)


def draw_keys(some, seed):
    return OWN.draw_keys(some.list_key, some.observed()[0], seed)


def test_equal_queries_have_equal_hashes_and_others_do_not():
    for hashes in (OWN, EXTERNAL):
        got = hashes.of_queries(lists())
        assert got[0] == got[2] != got[1]


def test_a_hash_does_not_depend_on_the_other_lists_or_the_place_in_the_data():
    some = lists().take(np.array([2, 1]))
    moved = replace(some, list_id=some.list_id + 10, query_row=some.query_row + 10)
    for hashes in (OWN, EXTERNAL):
        whole = hashes.of_queries(lists())
        np.testing.assert_array_equal(hashes.of_queries(moved), whole[[2, 1]])
    keys = draw_keys(lists(), 1)
    np.testing.assert_array_equal(draw_keys(moved, 1), keys[[2, 1]])


LOOKED_UP = [
    {"query_id": np.array(["eve", "bob", "ann"], object)},
    {"query": {"history": np.array([[4, 3], [4, 3], [3, 4]])}},
    {"query": {"history": np.array([[5, 2], [4, 3], [3, 4]])}},
    {"query": {"other": np.array([[3, 4], [4, 3], [3, 4]])}},
]
RAW = [
    {"raw": {"words": ragged(["b", "a"], ["ab"], ["a", "b"])}},
    {"raw": {"words": ragged(["ab"], ["ab"], ["a", "b"])}},
    {"raw": {"words": ragged(["a", "b", ""], ["ab"], ["a", "b"])}},
]
NOT_READ = [
    {"positives": ragged([2], [1], [1])},
    {"seen": ragged([5], [6, 5], [5, 6])},
    {"raw": {**lists().raw, "other": np.array(["x", "y", "z"], object)}},
]


@pytest.mark.parametrize("change", [*LOOKED_UP, *RAW, *NOT_READ])
def test_the_hash_of_a_query_depends_on_what_the_teacher_reads_only(change):
    for hashes, counts in ((OWN, LOOKED_UP), (EXTERNAL, RAW)):
        whole = hashes.of_queries(lists())
        other = hashes.of_queries(replace(lists(), **change))
        assert (other[0] != whole[0]) == any(change is each for each in counts)


def test_the_length_of_a_history_counts_as_the_history():
    by_length = replace(EXTERNAL, raw=frozenset({"words_length"}))
    other = replace(lists(), **RAW[1])
    assert by_length.of_queries(lists())[0] != by_length.of_queries(other)[0]


def test_the_padding_of_looked_up_values_does_not_count():
    wide = {"history": np.array([[3, 4, 0, 0], [4, 3, 0, 0], [3, 4, 0, 0]])}
    np.testing.assert_array_equal(
        OWN.of_queries(replace(lists(), query=wide)), OWN.of_queries(lists())
    )


def test_a_random_key_depends_on_the_list_its_items_and_the_seed():
    whole = draw_keys(lists(), 1)
    assert whole[0] == whole[2] != whole[1]
    assert not set(whole) & set(draw_keys(lists(), 2))
    for change in (
        {"query_id": np.array(["eve", "bob", "ann"], object)},
        {"positives": ragged([2], [1], [1])},
        {"not_chosen": ragged([2], [], [])},
    ):
        assert draw_keys(replace(lists(), **change), 1)[0] != whole[0]
    # Seen items may leave the item table, and indices may change.
    other = replace(lists(), seen=ragged([5], [5], []), **LOOKED_UP[1])
    np.testing.assert_array_equal(draw_keys(other, 1), whole)


def test_the_hash_of_a_list_depends_on_its_candidates_in_order_and_their_weights():
    """The last two columns were drawn."""
    queries = np.array([7, 7, 7, 7, 7, 7, 7, 7, 8], "uint64")
    items = np.array(
        [
            [1, -1, 2, -1],
            [1, -1, -1, 2],
            [1, 2, -1, -1],
            [2, -1, 1, -1],
            [1, -1, 2, 3],
            [1, -1, 2, 1],
            [1, -1, 3, -1],
            [1, -1, 2, -1],
            [1, -1, 2, -1],
        ]
    )
    weight = np.array([2, 2, 2, 2, 2, 2, 2, 3, 2], "float32")
    got = OWN.of_lists(queries, items, 2, weight)
    assert got[0] == got[1]
    assert len(set(got)) == 8
    certain = OWN.of_lists(queries[[0, 7]], items[[0, 7]], 0, weight[[0, 7]])
    assert certain[0] == certain[1] != got[0]


def test_the_hashes_of_many_lists_are_those_of_each():
    rng = np.random.default_rng(4)
    items = rng.integers(-1, len(IDS), (70, 5))
    queries = rng.integers(0, 2**63, 70).astype("uint64")
    weight = rng.uniform(1, 3, 70).astype("float32")
    whole = OWN.of_lists(queries, items, 2, weight)
    for row in range(70):
        part = slice(row, row + 1)
        one = OWN.of_lists(queries[part], items[part], 2, weight[part])
        assert one[0] == whole[row]


def test_the_hash_of_a_whole_list_depends_on_all_items_and_the_excluded_ones():
    queries = np.array([7, 7, 7], "uint64")
    got = OWN.of_whole_lists(queries, ragged([1], [1], [2]))
    assert got[0] == got[1] != got[2]
    items = IDS.copy()
    items[5] += np.uint64(1)
    other = replace(OWN, items=items).of_whole_lists(queries, ragged([1], [1], [2]))
    assert not set(got) & set(other)
    order = replace(OWN, items=IDS[::-1])
    assert order.of_whole_lists(queries, ragged([8], [8], [7]))[0] != got[0]


class Ones:
    label, inputs, parameters, size_bytes = "ones", None, None, None

    def predict(self, inputs):
        return np.ones(inputs["name"].shape)


@pytest.mark.parametrize(
    ("layout", "normalize", "apart"),
    [
        ("pairs", None, True),
        ("lists", None, False),
        ("pairs", "z_score", False),
        ("pairs", "none", True),
        ("lists", "none", False),
    ],
)
def test_scores_do_not_depend_on_the_list_for_models_of_pairs(layout, normalize, apart):
    names = {"name": np.array(["a", "b"], object)}
    teacher = ExternalTeacher(Ones(), [], names, inputs={"x": "name"}, layout=layout)
    if normalize is not None:
        teacher = EnsembleTeacher([teacher, teacher], normalize=normalize)
    assert scores_apart(teacher) == apart
