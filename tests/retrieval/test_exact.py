"""exact: top K against a plain loop, and properties of every kind of index."""

import numpy as np
import pytest
import tensorflow as tf

from recdistill.retrieval import exact, item_storage
from recdistill.retrieval.clustering import build_lists
from recdistill.retrieval.exact import (
    LARGEST,
    LOWEST,
    ExactIndex,
    best,
    bounded,
    is_listed,
)
from recdistill.retrieval.item_storage import as_stored
from recdistill.retrieval.ivf import IVFIndex


def reference_top_k(queries, items, k, exclude):
    """Top K by loops: ties are broken by row, and empty places are at the end."""
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
def test_top_k_matches_a_plain_loop(items, batch, k):
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


def test_empty_places_have_row_minus_1_and_the_lowest_score():
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


def test_exclusions_of_a_query_do_not_affect_another_query(items):
    index, queries = ExactIndex(items), items[[4, 4]]
    free = index.top_k(queries[:1], 5)[0].numpy()[0]
    rows, _ = index.top_k(queries, 5, np.array([[free[0]], [-1]], "int32"))
    assert free[0] not in rows.numpy()[0]
    assert rows.numpy()[1].tolist() == free.tolist()


def test_a_score_is_the_dot_product_or_the_lowest_for_row_minus_1():
    index = ExactIndex(np.array([[1.0, 2.0], [3.0, 4.0]]))
    scores = index.score(tf.constant([[5.0, 6.0]]), tf.constant([[1, -1, 0]]))
    assert scores.numpy().tolist() == [[5.0 * 3 + 6.0 * 4, LOWEST, 5.0 * 1 + 6.0 * 2]]


def test_an_empty_batch_has_an_empty_answer(items):
    index, none = ExactIndex(items), tf.zeros([0, 5])
    assert index.top_k(none, 3)[0].shape == (0, 3)
    assert index.score(none, tf.zeros([0, 2], tf.int32)).shape == (0, 2)


def test_the_largest_allowed_embeddings_have_finite_scores():
    extreme = np.array([[LARGEST] * 512, [-LARGEST] * 512])
    queries = bounded(tf.constant([[np.inf] * 256 + [1e38] * 256], tf.float32))
    _, scores = ExactIndex(extreme).top_k(queries, 2)
    assert np.isfinite(scores.numpy()).all()
    assert scores.numpy()[0, 0] == pytest.approx(256 * LARGEST**2, rel=1e-6)


def test_bounded_keeps_usual_vectors_and_casts_to_float32():
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
    def test_equals_a_stable_sort(self, monkeypatch, width, levels):
        monkeypatch.setattr(exact, "BLOCK", 8)
        rng = np.random.default_rng(width)
        # Few different scores: blocks tie with blocks, and items with items.
        scores = rng.integers(0, levels, (3, width)).astype("float32")
        for k in {1, min(3, width), width}:
            got, places = best(tf.constant(scores), k)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            np.testing.assert_array_equal(places, order)
            want = np.take_along_axis(scores, order, axis=1)
            np.testing.assert_array_equal(got, want)

    def test_k_may_be_a_tensor_and_the_batch_empty(self):
        scores, places = best(tf.zeros([0, 300]), tf.constant(4))
        assert scores.shape == places.shape == (0, 4)


def test_is_listed_by_hand_and_with_an_empty_list():
    rows = tf.constant([[3, -1, 5], [5, 5, 0]])
    others = tf.constant([[5, 4, 3, 3], [0, -1, -1, 9]])
    assert is_listed(rows, others).numpy().tolist() == [
        [True, False, True],
        [False, False, True],
    ]
    assert not is_listed(rows, tf.zeros([2, 0], tf.int32)).numpy().any()


def every_index(items):
    """One index of each kind; the IVF indexes read all or half of their lists."""
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

    def test_returns_k_items_if_that_many_are_available(self, many, kind):
        exclude = np.full((2, 80), -1, "int32")
        exclude[0] = np.arange(80)
        rows, _ = every_index(many)[kind].top_k(many[:2], 90, exclude)
        assert sorted(rows.numpy()[0][:10]) == [*range(80, 90)]
        assert (rows.numpy()[0][10:] == -1).all()
        assert sorted(rows.numpy()[1]) == [*range(90)]

    def test_a_limited_query_matches_a_loop_over_its_allowed_rows(self, many, kind):
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

    def test_each_query_may_have_its_own_k(self, many, kind):
        index = every_index(many)[kind]
        rows, scores = index.top_k(many[:3], tf.constant([2, 0, 90]))
        assert rows.shape == scores.shape == (3, 90)
        assert (rows.numpy()[0, 2:] == -1).all() and (rows.numpy()[1] == -1).all()
        assert (scores.numpy()[1] == np.float32(LOWEST)).all()
        for row, k in ((0, 2), (2, 90)):
            alone = index.top_k(many[row : row + 1], k)[0]
            np.testing.assert_array_equal(rows[row, :k], alone[0])

    def test_an_empty_batch_has_an_empty_answer(self, many, kind):
        none = np.zeros((0, 1), "int32")
        index = every_index(many)[kind]
        rows, _ = index.top_k(tf.zeros([0, 4]), 3, none, none, tf.zeros([0], tf.bool))
        assert rows.shape == (0, 3)


class TestRoundedStorage:
    @pytest.mark.parametrize("storage", ["bfloat16", "int8"])
    def test_scores_are_float32_products_of_rounded_items(
        self, monkeypatch, many, storage
    ):
        monkeypatch.setattr(item_storage, "PIECE", 32)  # Three pieces of 90 rows.
        rounded = as_stored(many, storage)
        if storage == "bfloat16":
            assert 0 < np.abs(rounded / many - 1).max() <= 2.0**-8
        else:
            # Half a step, of which the largest entry of a column has 127.
            assert (np.abs(rounded - many) <= np.abs(many).max(0) / 253).all()
        index = ExactIndex(many, storage)
        rows, scores = index.top_k(many[:3], 90)
        want = reference_top_k(many[:3], rounded, 90, [[]] * 3)
        np.testing.assert_array_equal(rows, want[..., 0])
        np.testing.assert_allclose(scores, want[..., 1], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(("storage", "size"), [("bfloat16", 2), ("int8", 1)])
    def test_takes_fewer_bytes(self, many, storage, size):
        assert ExactIndex(many, storage).embeddings.dtype.size == size
        lists = build_lists(many, seed=1)
        assert IVFIndex(many, lists, 1, 1, storage).lists.dtype.size == size
