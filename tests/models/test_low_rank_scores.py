"""Scores of listed candidates by a factor, against those of the whole catalogue."""

import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from recdistill.features.encoders import FIRST
from recdistill.models import linear
from recdistill.models.linear import Affinity
from recdistill.models.low_rank_scores import moments

QUERIES, ITEMS, RANK, LISTS = 300, 150, 12, 20


@pytest.fixture(scope="module")
def layer():
    return fitted(training_rows())


def training_rows():
    rng = np.random.default_rng(0)
    chance = 1 / np.arange(1, ITEMS + 1) ** 0.7
    return (rng.random((QUERIES, ITEMS)) < 8 * chance / chance.sum()) * 1.0


def fitted(matrix, form="low_rank", rank=RANK):
    layer = Affinity(matrix.shape[1], 0.9, 0.1, form, rank)
    layer.build()
    layer.set_weights(layer.fitted(scipy.sparse.csr_array(matrix), 5.0))
    return layer


def compare(got, want, leaves_out):
    assert not got[0].any() and np.abs(got[1:]).max() > 3.0
    if not leaves_out:
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
        return
    # Their order and distances are exact, the scale nearly.
    np.testing.assert_allclose(got, want, rtol=0.02, atol=0.02)
    for one, other in zip(got[1:], want[1:], strict=True):
        slope, shift = np.polyfit(other[other != 0], one[other != 0], 1)
        line = np.where(other != 0, slope * other + shift, 0)
        np.testing.assert_allclose(one, line, atol=1e-4)


def lists():
    """Histories with repeated and unknown items, candidates, and training rows."""
    rng, matrix = np.random.default_rng(1), training_rows()
    history = np.zeros((LISTS, 7), "int32")
    own = np.zeros((LISTS, ITEMS), "int32")
    for row in range(LISTS):
        items = rng.permutation(np.flatnonzero(matrix[row])) + FIRST
        own[row, : len(items)] = items
        past = items[: rng.integers(1, 5)]
        history[row, : len(past)] = past
        history[row, 5:] = past[0], 1
    history[0] = 0
    candidates = rng.integers(0, FIRST + ITEMS + 3, (LISTS, 40)).astype("int32")
    candidates[:, 0] = history[:, 0]
    return history, candidates, own


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("leaves_out", [False, True])
def test_candidates_have_the_scores_that_they_have_when_all_items_are_scored(
    monkeypatch, layer, leaves_out, shared
):
    history, candidates, own = lists()
    candidates = np.arange(FIRST + ITEMS + 3) if shared else candidates
    arguments = history, candidates, *([own] if leaves_out else [])
    want = layer(*arguments).numpy()
    monkeypatch.setattr(linear, "ITEMS_SCORED_WHOLE", 1)
    got = layer(*arguments).numpy()
    compare(got, want, leaves_out)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("leaves_out", [False, True])
def test_the_same_is_true_of_the_exact_factor_of_few_queries(
    monkeypatch, leaves_out, shared
):
    matrix = training_rows()[: 4 * LISTS]
    history, candidates, own = lists()
    candidates = np.arange(FIRST + ITEMS + 3) if shared else candidates
    arguments = history, candidates, *([own] if leaves_out else [])
    want = fitted(matrix, "item_inverse", 0)(*arguments).numpy()
    whole = fitted(matrix, "query_inverse", len(matrix))(*arguments).numpy()
    np.testing.assert_allclose(whole, want, rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(linear, "ITEMS_SCORED_WHOLE", 1)
    monkeypatch.setattr(linear, "ITEMS_OF_A_COLUMN", 0)
    layer = fitted(matrix, "query_inverse", len(matrix))
    compare(layer(*arguments).numpy(), want, leaves_out)


def test_lists_in_blocks_and_in_a_function_have_the_same_scores(monkeypatch, layer):
    monkeypatch.setattr(linear, "ITEMS_SCORED_WHOLE", 1)
    arguments = lists()
    want = layer(*arguments)
    monkeypatch.setattr(linear, "GATHERED_AT_ONCE", 3 * RANK * 250)  # a few lists
    np.testing.assert_allclose(layer(*arguments), want, rtol=1e-5, atol=1e-5)
    function = tf.function(
        lambda h, c, p: layer(h, c, p),
        input_signature=[tf.TensorSpec([None, None], tf.int32)] * 3,
    )
    np.testing.assert_allclose(function(*arguments), want, rtol=1e-4, atol=1e-4)
    history, candidates, own = (each[:0] for each in arguments)
    assert layer(history, candidates, own).shape == (0, 40)


def test_moments_are_those_of_a_plain_loop():
    rng = np.random.default_rng(2)
    factor = rng.normal(size=(9, 2)).astype("float32")
    diagonal = np.full(9, 20.0, "float32")
    scaled = [g / (d - g @ g) for g, d in zip(factor, diagonal, strict=True)]
    mean = sum(scaled) / 9
    product = sum(np.outer(h - mean, h - mean) for h in scaled)
    got = moments(factor, diagonal)
    np.testing.assert_allclose(got[0], mean, rtol=1e-4)
    np.testing.assert_allclose(got[1], product, rtol=1e-4)


def test_equal_scores_of_all_items_are_0(monkeypatch):
    monkeypatch.setattr(linear, "ITEMS_SCORED_WHOLE", 1)
    layer = Affinity(50, 0.9, 0.1, "low_rank", 1)
    layer.build()
    factor, diagonal = np.full((50, 1), 0.1, "float32"), np.ones(50, "float32")
    own = np.ones(1, "float32")
    layer.set_weights([factor, diagonal, own, *moments(factor, diagonal)])
    assert not layer(np.array([[3, 4]]), np.arange(2, 52)).numpy().any()
