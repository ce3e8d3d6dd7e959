"""tower_layers: towers and history pooling against their definitions."""

from math import exp, sqrt

import keras
import numpy as np
import pytest

from recdistill.models.tower_layers import HistoryPooling, Tower
from tests.small_models import HISTORY, build_batch, shuffled_weights


def test_history_pooling_by_hand():
    # Pools start at 1, 1/2, 1/4, … and 1, 1, 1, …; item 1 is at (1, 0), 2 at (0, 2).
    pooling = HistoryPooling(2, 3, decays=(0.5, 1.0))
    items = np.array([[9, 9], [1, 0], [0, 2]], "float32")
    history = np.array([[2, 1, 2], [1, 0, 0], [0, 0, 0]])
    got = pooling(items[history], history > 0)
    first = [1 / 2, 2 + 1 / 2, 1.0, 4.0]
    roots = np.sqrt([1.75, 1.75, 3.0, 3.0])
    want = [
        [*(first / roots), 0.0, 2.0],
        [1.0, 0.0, 1.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    ]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def reference_pooling(history, vectors, log_weights):
    rows = []
    for row in history:
        pooled = []
        for pool in log_weights:
            weights = [
                exp(w) if item else 0.0 for w, item in zip(pool, row, strict=True)
            ]
            total = sum(weights)
            for d in range(vectors.shape[1]):
                entry = sum(
                    w * vectors[i, d] for w, i in zip(weights, row, strict=True)
                )
                pooled.append(entry / sqrt(total) if total else 0.0)
        last = vectors[row[0]] if row[0] else 0.0 * vectors[0]
        rows.append([*pooled, *last])
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_history_pooling_matches_its_definition(seed):
    pooling = HistoryPooling(3, HISTORY, decays=(0.7, 0.97))
    pooling.build()
    shuffled_weights(pooling, seed)
    history = build_batch(6, seed=seed)["query"]["history"]
    vectors = np.random.default_rng(seed).normal(size=(11, 3))
    want = reference_pooling(history, vectors, pooling.log_weights.numpy())
    got = pooling(vectors[history].astype("float32"), history != 0)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_tower_is_its_linear_path_plus_its_hidden_layers():
    tower = Tower(2, hidden=(3,))
    rows = np.array([[1.0, -2.0], [0.5, 4.0]], "float32")
    tower(rows)
    shuffled_weights(tower)
    linear = rows @ tower.linear.kernel.numpy() + tower.linear.bias.numpy()
    (layer,) = tower.layers
    hidden = np.maximum(rows @ layer.kernel.numpy() + layer.bias.numpy(), 0.0)
    want = linear + hidden @ tower.output_layer.kernel.numpy()
    np.testing.assert_allclose(tower(rows), want, rtol=1e-5)


def test_layers_are_restored_from_their_config():
    vectors = np.ones((2, 5, 3), "float32")
    for layer, inputs in (
        (Tower(3, hidden=(4,), dropout=0.1), [np.ones((2, 5), "float32")]),
        (HistoryPooling(3, 5, (0.5, 0.9)), [vectors, vectors[..., 0] > 0]),
    ):
        layer(*inputs)
        config = keras.saving.serialize_keras_object(layer)
        copy = keras.saving.deserialize_keras_object(config)
        copy(*inputs)
        copy.set_weights(layer.get_weights())
        np.testing.assert_array_equal(copy(*inputs), layer(*inputs))
