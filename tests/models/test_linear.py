"""linear: the closed form against its objective, and scores against float64 loops."""

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from recdistill.features.encoders import FIRST
from recdistill.models import linear
from recdistill.models.linear import Affinity, LinearTeacher

QUERIES, ITEMS, L2 = 25, 8, 3.0


def training_rows(seed):
    """Training rows; every query has an item, every item some query."""
    rng = np.random.default_rng(seed)
    matrix = (rng.random((QUERIES, ITEMS)) < rng.uniform(0.2, 0.7, ITEMS)) * 1.0
    matrix[np.arange(QUERIES), np.arange(QUERIES) % ITEMS] = 1.0
    return matrix


def fitted(matrix, decay=0.8, floor=0.1, l2=L2, form="item_inverse", rank=0):
    rank = len(matrix) if form == "query_inverse" else rank
    layer = Affinity(matrix.shape[1], decay, floor, form, rank)
    layer.build()
    layer.set_weights(layer.fitted(scipy.sparse.csr_array(matrix), l2))
    return layer


EXACT = ["item_inverse", "query_inverse"]


def item_weights(matrix, l2=L2):
    """The matrix B of EASE in float64: column j is the ridge regression of item j
    on the other items, because the diagonal is zero."""
    count = matrix.shape[1]
    weights = np.zeros((count, count))
    for j in range(count):
        rest = np.arange(count) != j
        others = matrix[:, rest]
        gram = others.T @ others + l2 * np.eye(count - 1)
        weights[rest, j] = np.linalg.solve(gram, others.T @ matrix[:, j])
    return weights


def reference_scores(matrix, history, candidates, decay=0.8, floor=0.1):
    """Scores of one query, in loops."""
    row = np.zeros(matrix.shape[1])
    for age, index in enumerate(history):
        if FIRST <= index < FIRST + len(row):
            row[index - FIRST] += floor + (1 - floor) * decay**age
    scores = row @ item_weights(matrix)
    free = scores[row == 0]
    if not row.any():
        return [0.0] * len(candidates)
    return [
        (scores[index - FIRST] - free.mean()) / free.std()
        if FIRST <= index < FIRST + len(row)
        else 0.0
        for index in candidates
    ]


HISTORIES = np.array(
    [
        [4, 2, 9, 0, 0],
        [3, 3, 7, 3, 2],  # the same item again and again
        [1, 5, 1, 99, 0],  # unknown items and one beyond the model
        [6, 0, 0, 0, 0],
    ],
    "int32",
)
CANDIDATES = np.arange(FIRST + ITEMS, dtype="int32")


@pytest.mark.parametrize("form", EXACT)
@pytest.mark.parametrize("seed", range(3))
def test_scores_match_their_definition(seed, form):
    matrix = training_rows(seed)
    got = fitted(matrix, form=form)(HISTORIES, CANDIDATES)
    want = [reference_scores(matrix, history, CANDIDATES) for history in HISTORIES]
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("form", EXACT)
@pytest.mark.parametrize("seed", range(2))
def test_with_its_training_row_a_query_is_scored_as_if_never_trained_on(seed, form):
    matrix = training_rows(seed)
    layer = fitted(matrix, form=form)
    rows = [0, 7, 11, 24]
    own = [np.flatnonzero(matrix[row]) + FIRST for row in rows]
    training_row = np.zeros((4, ITEMS + 1), "int32")
    for k, items in enumerate(own):
        training_row[k, : len(items)] = items
    got = layer(HISTORIES, CANDIDATES, training_row)
    for k, row in enumerate(rows):
        rest = np.delete(matrix, row, axis=0)
        want = reference_scores(rest, HISTORIES[k], CANDIDATES)
        np.testing.assert_allclose(got[k], want, rtol=2e-3, atol=2e-3)
        refitted = fitted(rest)(HISTORIES[k : k + 1], CANDIDATES)
        np.testing.assert_allclose(got[k], refitted[0], rtol=2e-3, atol=2e-3)
    seen = layer(HISTORIES, CANDIDATES)
    assert np.abs(seen - got).max(axis=1).min() > 0.01


def test_a_low_rank_of_all_eigenvectors_gives_the_exact_scores():
    # Then the diagonal beside the eigenvectors is the penalty alone.
    matrix = training_rows(1)
    own = np.array([np.flatnonzero(matrix[row])[[0, -1]] + FIRST for row in range(4)])
    exact, low = fitted(matrix), fitted(matrix, form="low_rank", rank=ITEMS)
    for training_row in (None, own):
        want = exact(HISTORIES, CANDIDATES, training_row)
        got = low(HISTORIES, CANDIDATES, training_row)
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def test_a_low_rank_without_a_long_training_row_has_finite_scores_of_the_same_kind():
    # The row has all items, and the penalty is small: only the part of the row that the
    # factor represents is left out of the approximation.
    rng = np.random.default_rng(0)
    matrix = (rng.random((60, 40)) < 0.15) * 1.0
    matrix[0] = 1.0
    row = np.arange(FIRST, FIRST + 40)[None]
    layer = fitted(matrix, l2=0.1, form="low_rank", rank=3)
    own = layer._rows(tf.constant(row), tf.ones(row.shape))
    left = 1.0 - tf.reduce_sum(own * layer._own_product(own))
    assert 0.0 < left < 1.0
    scores = layer(np.array([[3, 4]]), np.arange(FIRST, FIRST + 40), row)
    assert np.isfinite(scores).all()


def test_scores_in_blocks_of_queries_equal_those_computed_at_once(monkeypatch):
    layer = fitted(training_rows(0))
    own = np.stack([np.roll(CANDIDATES, k) for k in range(4)])
    function = tf.function(
        lambda h, c, p: layer(h, c, p),
        input_signature=[tf.TensorSpec([None, None], tf.int32)] * 3,
    )
    want = layer(HISTORIES, own, HISTORIES)
    shared = layer(HISTORIES, CANDIDATES)
    monkeypatch.setattr(linear, "SCORES_AT_ONCE", 3 * ITEMS)  # 3 queries, then 1
    np.testing.assert_array_equal(layer(HISTORIES, own, HISTORIES), want)
    np.testing.assert_array_equal(layer(HISTORIES, CANDIDATES), shared)
    np.testing.assert_allclose(function(HISTORIES, own, HISTORIES), want, rtol=1e-5)
    assert layer(HISTORIES[:0], CANDIDATES).shape == (0, len(CANDIDATES))
    empty = function(HISTORIES[:0], own[:0], HISTORIES[:0])
    assert empty.shape == (0, len(CANDIDATES))


def test_an_empty_training_row_changes_nothing():
    layer = fitted(training_rows(0))
    got = layer(HISTORIES, CANDIDATES, np.zeros((4, 3), "int32"))
    np.testing.assert_allclose(got, layer(HISTORIES, CANDIDATES), rtol=1e-5)


def test_unknown_items_of_a_training_row_change_nothing():
    layer = fitted(training_rows(0))
    plain = layer(HISTORIES, CANDIDATES, np.full((4, 1), 3, "int32"))
    more = np.tile(np.array([1, 3, 0, FIRST + ITEMS, 99], "int32"), (4, 1))
    np.testing.assert_array_equal(layer(HISTORIES, CANDIDATES, more), plain)


@pytest.mark.parametrize("history", [[0, 0, 0], [1, 1, 0], [FIRST + ITEMS, 0, 0]])
@pytest.mark.parametrize("training_row", [None, [[4, 5, 0]]])
def test_a_history_without_known_items_scores_0(history, training_row):
    training_row = None if training_row is None else np.array(training_row, "int32")
    got = fitted(training_rows(0))(
        np.array([history], "int32"), CANDIDATES, training_row
    )
    np.testing.assert_array_equal(got, np.zeros((1, len(CANDIDATES))))


@pytest.mark.parametrize("l2", [0.3, 1.7, 3.3, 5.0])
def test_scores_that_differ_only_by_rounding_are_0(l2):
    # Items 1 to 3 are alike, so every score of a free item is the same number.
    layer = fitted(np.ones((2, 4)), l2=l2)
    for training_row in (None, np.array([[2, 3, 4, 5]], "int32")):
        got = layer(np.array([[2, 0]], "int32"), np.arange(2, 6), training_row)
        np.testing.assert_array_equal(got, np.zeros((1, 4)))


def test_scores_have_mean_0_and_deviation_1_over_items_not_in_the_history():
    scores = fitted(training_rows(1))(HISTORIES, CANDIDATES[FIRST:]).numpy()
    for history, row in zip(HISTORIES, scores, strict=True):
        free = row[~np.isin(CANDIDATES[FIRST:], history)]
        np.testing.assert_allclose([free.mean(), free.std()], [0.0, 1.0], atol=1e-5)


def test_the_newest_item_has_the_largest_weight_and_all_at_least_the_floor():
    # With decay 1/2 and floor 1/5: 1, 1/5 + 4/5 * 1/2, 1/5 + 4/5 * 1/4; twice the same
    # item adds up.
    layer = Affinity(3, decay=0.5, floor=0.2)
    index = tf.constant([[3, 2, 3, 0], [2, 9, 1, 4]])
    age = tf.range(4.0)
    weight = tf.broadcast_to(0.2 + 0.8 * 0.5**age, [2, 4])
    want = [[3 / 5, 1 + 2 / 5, 0.0], [1.0, 0.0, 1 / 5 + 4 / 5 / 8]]
    np.testing.assert_allclose(layer._rows(index, weight), want, rtol=1e-6)


def test_score_by_hand():
    # X has the rows (1, 1, 0) and (1, 0, 1), the penalty is 1: X'X + I is
    # [[3, 1, 1], [1, 2, 0], [1, 0, 2]] and its inverse [[4, -2, -2], [-2, 5, 1],
    # [-2, 1, 5]] / 8. After item 1 alone, item 0 scores 2/4 and item 2 -1/5.
    layer = fitted(np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]), l2=1.0)
    got = layer(np.array([[3, 0]], "int32"), np.array([2, 4, 3]))
    centre, spread = (1 / 2 - 1 / 5) / 2, (1 / 2 + 1 / 5) / 2
    np.testing.assert_allclose(got, [[1.0, -1.0, -centre / spread]], rtol=1e-5)


def test_shared_candidates_have_the_same_scores_as_separate_lists():
    layer = fitted(training_rows(2))
    own = np.stack([np.roll(CANDIDATES, k) for k in range(4)])
    shared = layer(HISTORIES, CANDIDATES).numpy()
    want = np.stack([np.roll(row, k) for k, row in enumerate(shared)])
    np.testing.assert_array_equal(layer(HISTORIES, own), want)


def test_a_candidate_that_is_not_in_the_model_scores_0():
    candidates = np.array([0, 1, FIRST + ITEMS, 10_000], "int32")
    got = fitted(training_rows(0))(HISTORIES, candidates)
    np.testing.assert_array_equal(got, np.zeros((4, 4)))


@pytest.mark.parametrize("training_row", [None, HISTORIES])
def test_sparse_and_dense_products_agree(monkeypatch, training_row):
    layer = fitted(training_rows(0))
    scores = []
    for cost in (0, 10**6):
        monkeypatch.setattr(linear, "SPARSE_COST", cost)
        scores.append(layer(HISTORIES, CANDIDATES, training_row))
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4, atol=1e-5)


def test_the_product_is_dense_for_rows_with_many_non_zeros(monkeypatch):
    layer = fitted(training_rows(0))
    taken = []
    for name in ("matmul", "sparse"):
        monkeypatch.setattr(
            tf if name == "matmul" else tf.sparse,
            "matmul" if name == "matmul" else "sparse_dense_matmul",
            lambda *_, way=name: taken.append(way),
        )
    monkeypatch.setattr(linear, "SPARSE_COST", 2)
    layer._product(tf.constant([[1.0] * 5 + [0.0] * 3]))
    layer._product(tf.constant([[1.0] * 4 + [0.0] * 4]))
    assert taken == ["matmul", "sparse"]


def test_indices_may_be_int32_or_int64():
    layer = fitted(training_rows(0))
    want = layer(HISTORIES, CANDIDATES, HISTORIES)
    wide = [a.astype("int64") for a in (HISTORIES, CANDIDATES, HISTORIES)]
    np.testing.assert_array_equal(layer(*wide), want)


def test_scores_are_the_same_inside_a_tf_function():
    layer = fitted(training_rows(0))
    function = tf.function(lambda h, c, p: layer(h, c, p))
    arguments = [tf.constant(a) for a in (HISTORIES, CANDIDATES, HISTORIES)]
    np.testing.assert_allclose(function(*arguments), layer(*arguments), rtol=1e-5)


@pytest.mark.parametrize("form", [*EXACT, "low_rank"])
def test_the_layer_is_restored_from_its_config_and_is_not_trained(form):
    layer = fitted(training_rows(0), form=form, rank=2)
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    copy.set_weights(layer.get_weights())
    want = layer(HISTORIES, CANDIDATES)
    np.testing.assert_array_equal(copy(HISTORIES, CANDIDATES), want)
    assert layer.trainable_weights == []


class TestLinearTeacher:
    items = np.array([5, 1, 2, 9, 3], "int32")

    def batch(self, index, **more):
        return {"query": {"past": HISTORIES}, "candidate_index": index, **more}

    def teacher(self):
        return LinearTeacher(fitted(training_rows(0)), self.items, history="past")

    def test_scores_the_catalogue_by_its_vocabulary_index(self):
        index = tf.constant([0, 1, 2, 4])
        got = self.teacher()(self.batch(index))
        want = fitted(training_rows(0))(HISTORIES, self.items[[0, 1, 2, 4]])
        np.testing.assert_array_equal(got, want)

    def test_scores_lists_with_different_candidates(self):
        own = tf.constant([[0, 3], [3, 0], [2, 2], [4, 1]])
        shared = self.teacher()(self.batch(tf.range(5))).numpy()
        got = self.teacher()(self.batch(own))
        np.testing.assert_array_equal(got, np.take_along_axis(shared, own.numpy(), 1))

    def test_leaves_the_training_row_of_the_batch_out(self):
        got = self.teacher()(self.batch(tf.range(5), training_row=HISTORIES))
        want = fitted(training_rows(0))(HISTORIES, self.items, HISTORIES)
        np.testing.assert_array_equal(got, want)
