"""history_state: sequence encoders of a history against their definitions."""

import keras
import numpy as np
import pytest

from recdistill.models.history_state import HistoryState
from tests.small_models import shuffled_weights

DIM = 4


def histories(seed=0):
    """Vectors of three histories of 5, 2 and 0 items, the newest first."""
    rng = np.random.default_rng(seed)
    real = np.arange(6) < np.array([[5], [2], [0]])
    vectors = rng.normal(size=(3, 6, DIM)).astype("float32")
    return vectors, real


def state_layer(encoder, length=6):
    layer = HistoryState(encoder, DIM, length)
    layer.build()
    shuffled_weights(layer)
    return layer


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def test_a_gru_state_matches_a_plain_loop_over_the_real_items():
    vectors, real = histories()
    layer = state_layer("gru")
    kernel, recurrent, bias = (w.astype("float64") for w in layer.layer.get_weights())
    want = np.zeros((3, DIM))
    for row in range(3):
        for item in vectors[row][real[row]][::-1]:
            own, past = item @ kernel + bias[0], want[row] @ recurrent + bias[1]
            update = sigmoid(own[:DIM] + past[:DIM])
            reset = sigmoid(own[DIM : 2 * DIM] + past[DIM : 2 * DIM])
            new = np.tanh(own[2 * DIM :] + reset * past[2 * DIM :])
            want[row] = update * want[row] + (1.0 - update) * new
    np.testing.assert_allclose(layer(vectors, real), want, rtol=1e-5, atol=1e-6)


def test_an_attention_state_is_that_of_the_causal_encoder_at_the_newest_item():
    vectors, real = histories()
    layer = state_layer("attention")
    want = layer.layer(vectors[:, ::-1], real[:, ::-1])[:, -1]
    np.testing.assert_allclose(layer(vectors, real), want, rtol=1e-6)


@pytest.mark.parametrize("encoder", ["attention", "gru"])
def test_only_real_items_and_their_order_change_a_state(encoder):
    vectors, real = histories()
    layer = state_layer(encoder)
    want = layer(vectors, real).numpy()
    np.testing.assert_array_equal(want[2], np.zeros(DIM))
    padded = np.where(real[:, :, None], vectors, 7.0).astype("float32")
    np.testing.assert_allclose(layer(padded, real), want, rtol=1e-5, atol=1e-6)
    alone = layer(vectors[1:2], real[1:2])
    np.testing.assert_allclose(alone[0], want[1], rtol=1e-5, atol=1e-6)
    swapped = layer(vectors[:, [1, 0, 2, 3, 4, 5]], real).numpy()
    assert np.abs(swapped[:2] - want[:2]).min(axis=1).max() > 1e-3


@pytest.mark.parametrize("encoder", ["attention", "gru"])
def test_items_beyond_the_latest_fifty_are_not_read(encoder):
    layer = state_layer(encoder, 80)
    vectors = np.random.default_rng(1).normal(size=(2, 80, DIM)).astype("float32")
    want = layer(vectors, np.ones((2, 80), bool))
    vectors[:, 50:] = 9.0
    np.testing.assert_array_equal(layer(vectors, np.ones((2, 80), bool)), want)


@pytest.mark.parametrize("encoder", ["attention", "gru"])
def test_a_state_layer_is_restored_from_its_config(encoder):
    layer = state_layer(encoder)
    config = keras.saving.serialize_keras_object(layer)
    copy = keras.saving.deserialize_keras_object(config)
    copy.set_weights(layer.get_weights())
    vectors, real = histories()
    np.testing.assert_array_equal(copy(vectors, real), layer(vectors, real))


def test_another_encoder_is_refused():
    with pytest.raises(ValueError, match="Received: encoder='lstm'"):
        HistoryState("lstm", DIM, 6)
