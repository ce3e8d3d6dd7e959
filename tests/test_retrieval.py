"""retrieval: the exact top K against a plain loop, and what every answer must be."""

import numpy as np
import pytest
import tensorflow as tf

from recdistill.retrieval import LARGEST, LOWEST, ExactIndex, bounded


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
