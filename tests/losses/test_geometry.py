"""geometry: distances, directions and the Huber loss by hand, and their gradients."""

import numpy as np
import tensorflow as tf

from recdistill.losses import geometry


def test_the_norm_of_a_zero_vector_has_gradient_zero():
    vectors = tf.constant([[3.0, 4.0], [0.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        lengths = geometry.lengths(vectors)
    np.testing.assert_allclose(lengths, [[5.0], [0.0]])
    np.testing.assert_allclose(tape.gradient(lengths, vectors), [[0.6, 0.8], [0, 0]])


def test_directions_are_unit_vectors_at_any_scale():
    vectors = np.array([[3e37, 4e37], [3e-30, 4e-30], [0.0, 0.0]], "float32")
    want = [[0.6, 0.8], [0.6, 0.8], [0.0, 0.0]]
    np.testing.assert_allclose(geometry.directions(vectors), want, rtol=1e-6)


def test_differences_of_all_pairs_of_rows():
    rows = np.array([[[1.0], [4.0]]], "float32")
    got = geometry.differences(rows)[0, :, :, 0]
    np.testing.assert_array_equal(got, [[0.0, -3.0], [3.0, 0.0]])


def test_distinct_pairs_exclude_padding_and_the_diagonal():
    got = geometry.distinct_pairs(np.array([[True, True, False]])).numpy()[0]
    want = [[False, True, False], [True, False, False], [False, False, False]]
    np.testing.assert_array_equal(got, want)


def test_huber_is_quadratic_up_to_one_and_linear_beyond():
    np.testing.assert_allclose(
        geometry.huber(np.array([-0.5, 1.0, -3.0])), [1 / 8, 1 / 2, 5 / 2]
    )


def test_scaled_to_unit_divides_each_list_by_its_largest_entry():
    rows = np.array([[[2.0, -8.0]], [[0.0, 0.0]]], "float32")
    got = geometry.scaled_to_unit(rows, (1, 2))
    np.testing.assert_allclose(got, [[[0.25, -1.0]], [[0.0, 0.0]]])
