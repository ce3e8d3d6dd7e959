"""embedding: indices are embedded, padding is left out, numbers are passed on."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill.features.embedding import FeatureEmbedding
from recdistill.features.encoders import UNKNOWN


class TestFeatureEmbedding:
    def build(self, sizes, dim=2):
        layer = FeatureEmbedding(sizes, dim)
        layer.build()
        for number, table in enumerate(layer.tables.values()):
            size = table.input_dim
            # Row k of table t is (100 t + k, -k); row 0 holds what must not be seen.
            rows = np.stack([100 * number + np.arange(size), -np.arange(size)], 1)
            rows[0] = 1e6
            table.set_weights([rows.astype("float32")])
        return layer

    def test_concatenates_features_in_the_order_of_its_sizes(self):
        layer = self.build({"number": None, "a": 5, "b": 4})
        got = layer(
            {
                "b": np.array([[3, 1, 0], [2, 0, 0]]),
                "a": np.array([2, 4]),
                "number": np.array([[0.5, 0.0], [0.0, 1.0]], "float32"),
            }
        )
        first = [0.5, 0.0, 2.0, -2.0, 100 + (3 + 1) / 2, -(3 + 1) / 2]
        second = [0.0, 1.0, 4.0, -4.0, 100 + 2, -2]
        np.testing.assert_allclose(got, [first, second])

    def test_padding_changes_nothing(self):
        layer = self.build({"a": 5})
        want = layer({"a": np.array([[2, 3]])})
        for padded in ([[2, 3, 0, 0]], [[0, 2, 0, 3]]):
            np.testing.assert_array_equal(layer({"a": np.array(padded)}), want)

    def test_a_missing_value_is_the_zero_vector(self):
        layer = self.build({"a": 5, "b": 4})
        got = layer({"a": np.array([0]), "b": np.array([[0, 0, 0]])})
        np.testing.assert_array_equal(got, np.zeros((1, 4)))

    def test_an_unknown_value_starts_as_the_zero_vector(self):
        layer = FeatureEmbedding({"a": 5}, 3)
        layer.build()
        (table,) = layer.get_weights()
        assert table[UNKNOWN].tolist() == [0, 0, 0]
        assert (table[UNKNOWN + 1 :] != 0).all()

    def test_a_missing_value_is_not_trained(self):
        layer = self.build({"a": 5})
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer({"a": np.array([[2, 0], [0, 0]])}))
        (gradient,) = tape.gradient(total, layer.trainable_weights)
        gradient = tf.convert_to_tensor(gradient).numpy()
        assert gradient.tolist() == [[0, 0], [0, 0], [1, 1], [0, 0], [0, 0]]

    def test_is_restored_from_its_config(self):
        layer = self.build({"number": None, "a": 5})
        config = keras.saving.serialize_keras_object(layer)
        copy = keras.saving.deserialize_keras_object(config)
        copy.build()
        copy.set_weights(layer.get_weights())
        features = {"a": np.array([1, 3]), "number": np.ones((2, 2), "float32")}
        np.testing.assert_array_equal(copy(features), layer(features))

    def test_a_dim_that_is_not_positive_is_refused(self):
        with pytest.raises(
            ValueError, match=r"`dim` must be positive. Received: dim=0"
        ):
            FeatureEmbedding({"a": 3}, 0)
