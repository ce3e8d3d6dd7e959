"""transitions: the closed form against its objective, and scores against loops."""

import keras
import numpy as np
import pytest

from recdistill.data.ragged import Ragged
from recdistill.features.encoders import FIRST
from recdistill.models.cross_fitting import folds_of
from recdistill.models.linear import LinearTeacher
from recdistill.models.transitions import FOLDS, Examples, Transitions

ITEMS, L2, DECAY, FLOOR = 6, 2.0, 0.7, 0.1


def examples(seed=0, count=40):
    """Random histories of 0 to 5 items with one or two chosen items."""
    rng = np.random.default_rng(seed)
    history = rng.integers(FIRST, FIRST + ITEMS, (count, 5))
    history[np.arange(5) >= rng.integers(0, 6, count)[:, None]] = 0
    chosen = rng.integers(FIRST, FIRST + ITEMS, (count, 2))
    chosen[chosen[:, 0] == chosen[:, 1], 1] = 0
    return Examples(history, chosen, rng.integers(0, FOLDS, count))


def fitted(*pieces):
    layer = Transitions(ITEMS, DECAY, FLOOR)
    layer.build()
    layer.set_weights([layer.fitted(pieces, L2)])
    return layer


def weighted_row(history):
    row = np.zeros(ITEMS)
    for age, index in enumerate(history):
        if FIRST <= index < FIRST + ITEMS:
            row[index - FIRST] += FLOOR + (1 - FLOOR) * DECAY**age
    return row


def reference(given, left_out=None):
    """The matrix B in float64: one ridge regression for each next item."""
    kept = [k for k in range(len(given.fold)) if given.fold[k] != left_out]
    source = np.array([weighted_row(given.history[k]) for k in kept])
    target = np.zeros((len(kept), ITEMS))
    for row, k in enumerate(kept):
        for index in given.chosen[k]:
            if index:
                target[row, index - FIRST] = 1.0
    gram = source.T @ source + L2 * np.eye(ITEMS)
    columns = [np.linalg.solve(gram, source.T @ target[:, j]) for j in range(ITEMS)]
    return np.stack(columns, axis=1)


def reference_scores(matrix, history):
    row = weighted_row(history)
    scores = row @ matrix
    free = scores[row == 0.0]
    return (scores - free.mean()) / free.std()


@pytest.mark.parametrize("seed", range(3))
def test_the_matrices_minimise_the_penalised_squared_error(seed):
    given = examples(seed)
    matrices = fitted(given).matrices.numpy()
    for number, left_out in enumerate([None, *range(FOLDS)]):
        want = reference(given, left_out)
        np.testing.assert_allclose(matrices[number], want, rtol=1e-3, atol=1e-5)


def test_the_pieces_of_the_examples_do_not_matter():
    given = examples()
    parts = [Examples(*(column[k::2] for column in given)) for k in range(2)]
    whole, divided = (fitted(*each).matrices.numpy() for each in ([given], parts))
    np.testing.assert_allclose(divided, whole, rtol=1e-4, atol=1e-6)


def test_scores_are_those_of_the_weighted_history():
    given = examples()
    layer = fitted(given)
    history = np.array([[4, 2, 0], [3, 3, 1], [7, 99, 5]])
    items = np.arange(FIRST, FIRST + ITEMS)
    got = layer(history, items)
    matrix = reference(given)
    want = [reference_scores(matrix, each) for each in history]
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
    # Items outside the model have the score of an average item.
    np.testing.assert_array_equal(layer(history, np.array([0, 1, 99])), 0.0)


def test_a_training_list_is_scored_without_the_fold_of_its_query():
    given = examples()
    layer = fitted(given)
    history = np.array([[4, 2, 0], [3, 5, 6], [7, 0, 0], [2, 3, 0]])
    training_row = np.array([[2, 4, 0], [3, 5, 6], [7, 6, 0], [0, 0, 0]])
    folds = folds_of(
        Ragged(np.array([2, 4, 3, 5, 6, 7, 6]), np.array([0, 2, 5, 7, 7])), FOLDS
    )
    np.testing.assert_array_equal(folds, [6 % FOLDS, 14 % FOLDS, 13 % FOLDS, 0])
    items = np.arange(FIRST, FIRST + ITEMS)
    got = layer(history, items, training_row)
    for row, fold in enumerate(folds):
        want = reference_scores(reference(given, fold), history[row])
        np.testing.assert_allclose(got[row], want, rtol=1e-3, atol=1e-3)


def test_a_query_without_history_has_equal_scores():
    scores = fitted(examples())(np.zeros((1, 3), int), np.arange(FIRST, FIRST + ITEMS))
    np.testing.assert_array_equal(scores, 0.0)


def test_without_examples_all_scores_are_equal():
    nothing = Examples(np.zeros((0, 3), int), np.zeros((0, 1), int), np.zeros(0, int))
    scores = fitted(nothing)(np.array([[3, 0, 0]]), np.arange(FIRST, FIRST + ITEMS))
    np.testing.assert_array_equal(scores, 0.0)


def test_a_penalty_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"positive\. Received: l2=0"):
        Transitions(ITEMS, DECAY, FLOOR).fitted([examples()], 0)


def test_the_teacher_is_restored_from_its_file(tmp_path):
    catalogue = np.arange(FIRST, FIRST + ITEMS, dtype="int32")
    teacher = LinearTeacher(fitted(examples()), catalogue)
    batch = {
        "query": {"history": np.array([[3, 2], [5, 0]])},
        "candidate_index": np.array([[0, 1, 2], [5, 4, 3]]),
    }
    want = teacher(batch)
    teacher.save(tmp_path / "teacher.keras")
    loaded = keras.models.load_model(tmp_path / "teacher.keras")
    np.testing.assert_array_equal(loaded(batch), want)
