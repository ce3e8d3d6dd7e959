"""retrieval: exact and IVF against a plain loop, and what every answer must be."""

import numpy as np
import pytest
import tensorflow as tf

from recdistill.retrieval import exact as retrieval
from recdistill.retrieval.clustering import InvertedLists, build_lists
from recdistill.retrieval.exact import (
    LARGEST,
    LOWEST,
    ExactIndex,
    as_stored,
    best,
    bounded,
    is_listed,
)
from recdistill.retrieval.ivf import IVFIndex


def reference_top_k(queries, items, k, exclude):
    """One query and one item at a time; ties by row; then "no item"."""
    answers = []
    for query, excluded in zip(queries, exclude, strict=True):
        scores = [
            (-sum(float(q) * float(i) for q, i in zip(query, item, strict=True)), row)
            for row, item in enumerate(items)
            if row not in set(excluded)
        ]
        best = [(row, -negative) for negative, row in sorted(scores)[:k]]
        answers.append(best + [(-1, LOWEST)] * (k - len(best)))
    return np.array(answers)


@pytest.fixture(scope="module")
def items():
    return np.random.default_rng(3).normal(size=(40, 5)).astype("float32")


@pytest.mark.parametrize("k", [1, 7, 40])
@pytest.mark.parametrize("batch", [1, 7])
def test_top_k_is_what_scoring_one_by_one_gives(items, batch, k):
    rng = np.random.default_rng(batch)
    queries = rng.normal(size=(batch, 5)).astype("float32")
    exclude = rng.integers(-1, 40, (batch, 6)).astype("int32")
    rows, scores = ExactIndex(items).top_k(queries, k, exclude)
    want = reference_top_k(queries, items, k, exclude)
    np.testing.assert_array_equal(rows, want[..., 0])
    np.testing.assert_allclose(scores, want[..., 1], rtol=1e-5, atol=1e-6)


def test_top_k_of_three_items_by_hand():
    index = ExactIndex(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    rows, scores = index.top_k(tf.constant([[2.0, 1.0]]), k=3)
    assert rows.numpy().tolist() == [[2, 0, 1]]
    assert scores.numpy().tolist() == [[2.0 * 1 + 1.0 * 1, 2.0 * 1, 1.0 * 1]]


def test_equal_scores_come_in_the_order_of_their_rows():
    index = ExactIndex(np.ones((100, 2)))
    rows, _ = index.top_k(tf.ones([2, 2]), k=100)
    np.testing.assert_array_equal(rows, [np.arange(100)] * 2)


def test_places_without_an_item_are_row_minus_one_with_the_lowest_score():
    index = ExactIndex(np.array([[1.0], [2.0], [3.0]]))
    rows, scores = index.top_k(tf.ones([1, 1]), 3, tf.constant([[2, 0, 2, -1]]))
    assert rows.numpy().tolist() == [[1, -1, -1]]
    assert scores.numpy().tolist() == [[2.0, LOWEST, LOWEST]]


@pytest.mark.parametrize("exclude", [np.zeros((2, 0)), np.full((2, 3), -1)])
def test_excluding_nothing_changes_nothing(items, exclude):
    queries, index = items[:2], ExactIndex(items)
    plain = index.top_k(queries, 40)
    same = index.top_k(queries, 40, exclude.astype("int32"))
    np.testing.assert_array_equal(plain[0], same[0])
    np.testing.assert_array_equal(plain[1], same[1])


def test_a_query_is_not_affected_by_what_another_excludes(items):
    index, queries = ExactIndex(items), items[[4, 4]]
    free = index.top_k(queries[:1], 5)[0].numpy()[0]
    rows, _ = index.top_k(queries, 5, np.array([[free[0]], [-1]], "int32"))
    assert free[0] not in rows.numpy()[0]
    assert rows.numpy()[1].tolist() == free.tolist()


def test_score_is_the_dot_product_and_the_lowest_for_no_item():
    index = ExactIndex(np.array([[1.0, 2.0], [3.0, 4.0]]))
    scores = index.score(tf.constant([[5.0, 6.0]]), tf.constant([[1, -1, 0]]))
    assert scores.numpy().tolist() == [[5.0 * 3 + 6.0 * 4, LOWEST, 5.0 * 1 + 6.0 * 2]]


def test_no_request_has_an_empty_answer(items):
    index, none = ExactIndex(items), tf.zeros([0, 5])
    assert index.top_k(none, 3)[0].shape == (0, 3)
    assert index.score(none, tf.zeros([0, 2], tf.int32)).shape == (0, 2)


def test_embeddings_within_bounds_give_finite_scores_at_their_worst():
    extreme = np.array([[LARGEST] * 512, [-LARGEST] * 512])
    queries = bounded(tf.constant([[np.inf] * 256 + [1e38] * 256], tf.float32))
    _, scores = ExactIndex(extreme).top_k(queries, 2)
    assert np.isfinite(scores.numpy()).all()
    assert scores.numpy()[0, 0] == pytest.approx(256 * LARGEST**2, rel=1e-6)


def test_bounded_leaves_ordinary_vectors_alone_and_widens_half_precision():
    vectors = tf.constant([[0.5, -3.0]], tf.float16)
    assert bounded(vectors).dtype == tf.float32
    assert bounded(vectors).numpy().tolist() == [[0.5, -3.0]]


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.ones(3), r"\(items, dim\).*shape \(3,\)"),
        (np.ones((0, 3)), r"\(items, dim\).*shape \(0, 3\)"),
        (np.array([[1.0], [np.nan]]), r"finite.*nan.* in row 1"),
        (np.array([[1e16], [1.0]]), r"within ±1e\+15.* in row 0"),
    ],
)
def test_embeddings_that_cannot_be_scored_are_refused(embeddings, message):
    with pytest.raises(ValueError, match=message):
        ExactIndex(embeddings)


class TestBest:
    @pytest.mark.parametrize("width", [1, 7, 8, 9, 64, 67])
    @pytest.mark.parametrize("levels", [1, 5])
    def test_is_a_stable_sort_cut_off(self, monkeypatch, width, levels):
        monkeypatch.setattr(retrieval, "BLOCK", 8)
        rng = np.random.default_rng(width)
        # Few different scores: blocks tie with blocks, and items with items.
        scores = rng.integers(0, levels, (3, width)).astype("float32")
        for k in {1, min(3, width), width}:
            got, places = best(tf.constant(scores), k)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            np.testing.assert_array_equal(places, order)
            want = np.take_along_axis(scores, order, axis=1)
            np.testing.assert_array_equal(got, want)

    def test_takes_k_from_a_tensor_and_no_rows(self):
        scores, places = best(tf.zeros([0, 300]), tf.constant(4))
        assert scores.shape == places.shape == (0, 4)


def test_is_listed_by_hand_and_among_nothing():
    rows = tf.constant([[3, -1, 5], [5, 5, 0]])
    others = tf.constant([[5, 4, 3, 3], [0, -1, -1, 9]])
    assert is_listed(rows, others).numpy().tolist() == [
        [True, False, True],
        [False, False, True],
    ]
    assert not is_listed(rows, tf.zeros([2, 0], tf.int32)).numpy().any()


def every_index(items):
    """One of each kind that finds everything: IVF reads all its lists."""
    lists = build_lists(items, seed=1)
    count = len(lists.centroids)
    return {
        "exact": ExactIndex(items),
        "all lists": IVFIndex(items, lists, count, len(items)),
        "half of the lists": IVFIndex(items, lists, max(1, count // 2), len(items)),
    }


@pytest.fixture(scope="module")
def many():
    return np.random.default_rng(8).normal(size=(90, 4)).astype("float32")


@pytest.mark.parametrize("kind", ["exact", "all lists", "half of the lists"])
class TestEveryIndex:
    def test_scores_any_row(self, many, kind):
        rows = tf.constant([[5, -1, 89], [0, 44, 44]])
        got = every_index(many)[kind].score(many[:2], rows)
        want = np.einsum("bnd,bd->bn", many[np.maximum(rows, 0)], many[:2])
        np.testing.assert_allclose(got, np.where(rows >= 0, want, LOWEST), rtol=1e-5)

    def test_returns_k_items_while_there_are_some(self, many, kind):
        exclude = np.full((2, 80), -1, "int32")
        exclude[0] = np.arange(80)
        rows, _ = every_index(many)[kind].top_k(many[:2], 90, exclude)
        assert sorted(rows.numpy()[0][:10]) == [*range(80, 90)]
        assert (rows.numpy()[0][10:] == -1).all()
        assert sorted(rows.numpy()[1]) == [*range(90)]

    def test_a_limited_query_gets_what_a_loop_over_its_rows_gives(self, many, kind):
        allow = np.array([[7, 70, 7, 3, -1], [-1] * 5, [1, 2, 3, 4, 5]], "int32")
        exclude = np.array([[3], [-1], [-1]], "int32")
        limited = tf.constant([True, True, False])
        index, queries = every_index(many)[kind], many[:3]
        rows, scores = index.top_k(queries, 4, exclude, allow, limited)
        nothing = [*range(90)]
        others = [[r for r in range(90) if r not in (7, 70)], nothing]
        want = reference_top_k(queries[:2], many, 4, others)
        np.testing.assert_array_equal(rows[:2], want[..., 0])
        np.testing.assert_allclose(scores[:2], want[..., 1], rtol=1e-5)
        free = index.top_k(queries[2:], 4)
        np.testing.assert_array_equal(rows[2:], free[0])

    def test_no_request_has_an_empty_answer(self, many, kind):
        none = np.zeros((0, 1), "int32")
        index = every_index(many)[kind]
        rows, _ = index.top_k(tf.zeros([0, 4]), 3, none, none, tf.zeros([0], tf.bool))
        assert rows.shape == (0, 3)


class TestIVF:
    """Items 0 and 1 to the right, 2 and 3 above; a query sees the nearer pair."""

    items = np.array([[2, 0], [3, 0], [0, 2], [0, 3]], "float32")
    lists = InvertedLists(
        np.array([[2.5, 0], [0, 2.5]]), np.array([[0, 1, -1], [2, 3, -1]])
    )

    def three_lists(self):
        items = np.concatenate([self.items, [[-1, -1], [-2, -2]]]).astype("float32")
        centroids = np.concatenate([self.lists.centroids, [[-1.5, -1.5]]])
        members = np.array([[0, 1, -1], [2, 3, -1], [4, 5, -1]])
        return IVFIndex(items, InvertedLists(centroids, members), probes=1, probes_k=2)

    def test_only_the_nearest_lists_are_read(self):
        # Item 3 would score 1.2, but its list is second.
        rows, scores = self.three_lists().top_k(tf.constant([[0.5, 0.4]]), 2)
        assert rows.numpy().tolist() == [[1, 0]]
        assert scores.numpy()[0] == pytest.approx([1.5, 1.0])

    def test_asking_for_more_reads_more(self):
        # Three of 2 items a list: ⌈3 · 1 / 2⌉ = 2 lists, more than half: everything.
        rows, _ = self.three_lists().top_k(tf.constant([[0.5, 0.4]]), 3)
        assert rows.numpy().tolist() == [[1, 3, 0]]

    def test_exclusions_do_not_leave_places_empty(self):
        exclude = tf.constant([[1, 0]])
        rows, _ = self.three_lists().top_k(tf.constant([[0.5, 0.4]]), 2, exclude)
        assert rows.numpy().tolist() == [[3, 2]]

    def test_equal_scores_come_in_the_order_of_their_rows(self):
        items = np.ones((60, 3), "float32")
        shuffled = np.random.default_rng(0).permutation(60).reshape(6, 10)
        lists = InvertedLists(np.ones((6, 3)), shuffled)
        index = IVFIndex(items, lists, probes=3, probes_k=30)
        rows, _ = index.top_k(tf.ones([1, 3]), 30)
        np.testing.assert_array_equal(rows[0], np.sort(shuffled[:3].ravel()))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"probes": 0}, r"`probes` must be from 1 to .*, 2\. Received: probes=0"),
            ({"probes": 3}, "Received: probes=3"),
            ({"probes_k": 0}, "`probes_k` must be positive. Received: 0"),
            ({"embeddings": np.ones((5, 2))}, "4 members for 5 rows"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, changes, message):
        plain = {"embeddings": self.items, "lists": self.lists}
        with pytest.raises(ValueError, match=message):
            IVFIndex(**{**plain, "probes": 1, "probes_k": 1, **changes})


class TestBfloat16:
    def test_scores_are_float32_products_of_rounded_items(self, monkeypatch, many):
        monkeypatch.setattr(retrieval, "PIECE", 32)  # Three pieces of 90 rows.
        rounded = as_stored(many, "bfloat16")
        assert 0 < np.abs(rounded / many - 1).max() <= 2.0**-8
        index = ExactIndex(many, "bfloat16")
        rows, scores = index.top_k(many[:3], 90)
        want = reference_top_k(many[:3], rounded, 90, [[]] * 3)
        np.testing.assert_array_equal(rows, want[..., 0])
        np.testing.assert_allclose(scores, want[..., 1], rtol=1e-5, atol=1e-6)

    def test_takes_half_the_bytes(self, many):
        assert ExactIndex(many, "bfloat16").embeddings.dtype.size == 2
        lists = build_lists(many, seed=1)
        assert IVFIndex(many, lists, 1, 1, "bfloat16").lists.dtype.size == 2
