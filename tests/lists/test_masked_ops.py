"""masked_ops: values by hand, padding, extreme scores, and checks of arguments."""

from math import sqrt

import numpy as np
import pytest
import tensorflow as tf

from recdistill.lists import masked_ops, masked_softmax

MASK = np.array([[True, True, True], [True, True, False], [False, False, False]])
SCORES = np.array([[1.0, -2.0, 0.5], [3.0, 3.0, 7.0], [4.0, 5.0, 6.0]], "float32")

FUNCTIONS = [
    masked_softmax.log_softmax,
    masked_softmax.softmax,
    masked_ops.shares,
    masked_ops.standardise,
]


def value_and_gradient(function, values, mask):
    values = tf.constant(values)
    weights = tf.range(1.0, values.shape[-1] + 1.0, dtype=values.dtype)
    with tf.GradientTape() as tape:
        tape.watch(values)
        result = function(values, mask)
        target = tf.reduce_sum(weights * result)
    return result.numpy(), tape.gradient(target, values).numpy()


def test_total_sums_real_candidates_only():
    np.testing.assert_allclose(masked_ops.total(SCORES, MASK), [-0.5, 6.0, 0.0])


def test_shares_ignore_negative_amounts():
    got = masked_ops.shares(SCORES, MASK)
    want = [[1 / 1.5, 0.0, 0.5 / 1.5], [1 / 2, 1 / 2, 0.0], [0.0, 0.0, 0.0]]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_shares_do_not_overflow_for_large_amounts():
    amounts = np.array([[3e38, 3e38, 3e38]], "float32")
    got = masked_ops.shares(amounts, MASK[:1])
    np.testing.assert_allclose(got, [[1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)


def test_standardise_returns_z_scores():
    scores = np.array([[1.0, 2.0, 6.0], [3.0, 3.0, 7.0], [4.0, 5.0, 6.0]], "float32")
    deviation = sqrt(((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 3)
    want = [[-2 / deviation, -1 / deviation, 3 / deviation], [0.0] * 3, [0.0] * 3]
    np.testing.assert_allclose(masked_ops.standardise(scores, MASK), want, rtol=1e-6)


def test_standardise_ignores_origin_and_scale():
    got = masked_ops.standardise(100.0 * SCORES - 1000.0, MASK)
    np.testing.assert_allclose(got, masked_ops.standardise(SCORES, MASK), atol=1e-5)


def test_equal_scores_are_standardised_to_exact_zeros():
    scores = np.full((1, 3), 0.1, "float32")
    value, gradient = value_and_gradient(masked_ops.standardise, scores, MASK[:1])
    np.testing.assert_array_equal(value, 0.0)
    assert np.isfinite(gradient).all()


def test_the_gradient_of_standardise_matches_finite_differences():
    scores = np.array([[1.0, 2.0, 6.0]])
    _, gradient = value_and_gradient(masked_ops.standardise, scores, MASK[:1])
    for i in range(3):
        step = np.zeros((1, 3))
        step[0, i] = 1e-5
        rise = masked_ops.standardise(scores + step, MASK[:1]) - masked_ops.standardise(
            scores - step, MASK[:1]
        )
        slope = np.sum(np.array([1.0, 2.0, 3.0]) * rise) / 2e-5
        np.testing.assert_allclose(gradient[0, i], slope, atol=1e-7)


@pytest.mark.parametrize("function", FUNCTIONS)
class TestEveryFunction:
    @pytest.mark.parametrize("junk", [1e30, -1e30, np.inf, -np.inf, np.nan])
    def test_values_under_padding_change_neither_result_nor_gradient(
        self, function, junk
    ):
        clean = value_and_gradient(function, np.where(MASK, SCORES, 0), MASK)
        dirty = value_and_gradient(
            function, np.where(MASK, SCORES, junk).astype("float32"), MASK
        )
        np.testing.assert_array_equal(clean[0], dirty[0])
        np.testing.assert_array_equal(clean[1], dirty[1])

    def test_padding_has_value_zero_and_gradient_zero(self, function):
        value, gradient = value_and_gradient(function, SCORES, MASK)
        np.testing.assert_array_equal(value[~MASK], 0.0)
        np.testing.assert_array_equal(gradient[~MASK], 0.0)

    @pytest.mark.parametrize("size", [1e-38, 1e4, 3e37, 3e38])
    def test_scores_of_any_size_give_finite_values_and_gradients(self, function, size):
        scores = np.array([[size, -size, 0.0], [size, size, size], [0.0] * 3])
        mask = np.ones((3, 3), bool)
        value, gradient = value_and_gradient(function, scores.astype("float32"), mask)
        assert np.isfinite(value).all()
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_intermediate_values_of_padding_are_finite(function):
    tf.debugging.enable_check_numerics()
    try:
        value_and_gradient(function, SCORES[2:], MASK[2:])
    finally:
        tf.debugging.disable_check_numerics()


def test_has_candidate_is_false_for_padding_only():
    np.testing.assert_array_equal(masked_ops.has_candidate(MASK), [True, True, False])


def test_as_lists_keeps_the_order_and_casts_to_one_float_type():
    mask, first, second = masked_ops.as_lists(
        MASK, first=SCORES.astype("float64"), second=MASK.astype("int64")
    )
    assert mask.dtype == tf.bool
    assert first.dtype == second.dtype == tf.float32
    np.testing.assert_allclose(first, SCORES)
    np.testing.assert_allclose(second, MASK.astype(float))


def test_as_lists_keeps_float64_if_all_values_are_float64():
    _, only = masked_ops.as_lists(MASK, only=SCORES.astype("float64"))
    assert only.dtype == tf.float64


def test_a_candidate_of_weight_zero_is_removed_with_its_values():
    weight = np.array([[1.0, 0.0, 2.0], [-1.0, 3.0, 9.0], [1.0] * 3])
    scores = np.where(weight > 0.0, SCORES, np.nan)
    mask, weight, scores = masked_ops.as_weighted_lists(MASK, weight, scores=scores)
    np.testing.assert_array_equal(
        mask, [[True, False, True], [False, True, False], [False] * 3]
    )
    np.testing.assert_array_equal(weight, [[1, 0, 2], [0, 3, 0], [0, 0, 0]])
    np.testing.assert_array_equal(scores, [[1.0, 0, 0.5], [0, 3.0, 0], [0, 0, 0]])


def test_without_weights_every_real_candidate_has_weight_one():
    mask, weight, scores = masked_ops.as_weighted_lists(MASK, None, scores=SCORES)
    np.testing.assert_array_equal(mask, MASK)
    np.testing.assert_array_equal(weight, MASK.astype("float32"))
    np.testing.assert_array_equal(scores, np.where(MASK, SCORES, 0.0))


def test_mean_depends_only_on_ratios_of_weights_and_is_zero_without_weight():
    values = np.array([[1.0, 4.0, 99.0]], "float32")
    for factor in (1.0, 1e-30, 1e38):
        weights = np.array([[2.0, 1.0, 0.0]], "float32") * np.float32(factor)
        np.testing.assert_allclose(masked_ops.mean(values, weights), [2.0], rtol=1e-6)
    np.testing.assert_array_equal(masked_ops.mean(values, np.zeros_like(values)), [0.0])


@pytest.mark.parametrize(
    ("mask", "scores", "message"),
    [
        (MASK.astype("int32"), SCORES, "`mask` must be boolean. Received: dtype=int32"),
        (MASK[0], SCORES[0], r"`mask` must have shape .*mask.shape=\(3\)"),
        (MASK, SCORES[:2], r"`scores` must have the shape.*\(2, 3\), .*\(3, 3\)"),
        (MASK, SCORES[:, :1], r"scores.shape=\(3, 1\), mask.shape=\(3, 3\)"),
        (MASK, SCORES[..., None], r"scores.shape=\(3, 3, 1\)"),
        (MASK, np.full((3, 3), "a"), "`scores` must hold numbers. .*dtype=string"),
    ],
)
def test_as_lists_raises_an_error_that_names_the_argument(mask, scores, message):
    with pytest.raises(ValueError, match=message):
        masked_ops.as_lists(mask, scores=scores)


def test_as_lists_detects_different_sizes_at_run_time():
    unknown = tf.TensorSpec((None, None))

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.bool), unknown])
    def checked(mask, scores):
        return masked_ops.total(masked_ops.as_lists(mask, scores=scores)[1], mask)

    np.testing.assert_allclose(checked(MASK, SCORES), [-0.5, 6.0, 0.0])
    with pytest.raises(tf.errors.InvalidArgumentError, match="shape of `mask`"):
        checked(MASK, SCORES[:, :1])


def test_labels_without_a_mask_are_all_real():
    labels, mask = masked_ops.labels_and_mask([[1.0, -1.0]])
    np.testing.assert_array_equal(labels, [[1.0, -1.0]])
    np.testing.assert_array_equal(mask, [[True, True]])


def test_a_dict_may_omit_the_mask_but_not_the_labels():
    _, mask = masked_ops.labels_and_mask({"labels": [[1.0, -1.0]]})
    np.testing.assert_array_equal(mask, [[True, True]])
    with pytest.raises(ValueError, match=r'key "labels". Received: keys=\[\'mask\'\]'):
        masked_ops.labels_and_mask({"mask": MASK})


def test_min_max_scales_each_list_to_the_range_from_zero_to_one():
    scores = np.array([[1.0, -3.0, 0.0], [5.0, 5.0, 9.0], [0.0] * 3], "float32")
    got = masked_ops.min_max(scores, MASK)
    np.testing.assert_allclose(got, [[1.0, 0.0, 0.75], [0.0] * 3, [0.0] * 3])


def test_equal_scores_share_the_mean_of_their_ranks():
    got = masked_ops.mean_ranks(SCORES, MASK)
    np.testing.assert_allclose(got, [[1, 3, 2], [1.5, 1.5, 0], [0, 0, 0]])


def test_bounded_scores_have_finite_squares():
    got = masked_ops.bounded(tf.constant([[3e38, -3e38, 7.0]]))
    np.testing.assert_allclose(got, [[1e15, -1e15, 7.0]])
    assert np.isfinite(tf.square(got)).all()


def test_a_list_whose_weighted_scores_are_equal_has_no_z_scores():
    scores = np.array([[2.0, 5.0, 2.0]], "float32")
    weight = np.array([[1.0, 0.0, 3.0]], "float32")
    got = masked_ops.standardise(scores, np.ones((1, 3), bool), weight)
    np.testing.assert_array_equal(got, np.zeros((1, 3)))


def test_weights_have_the_precision_of_the_values():
    values, weight = tf.constant([[1.0, 4.0]], tf.float16), tf.constant([[3.0, 1.0]])
    got = masked_ops.list_mean(values, tf.constant([[True, True]]), weight)
    assert got.dtype == tf.float16
    assert float(got[0, 0]) == (3 * 1 + 1 * 4) / 4


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_only_lists_with_nan_or_infinities_of_both_signs_are_found(dtype, jit_compile):
    largest = tf.as_dtype(dtype).max
    lists = np.zeros((6, 32))
    lists[0] = [largest, largest, -largest, -largest] * 8
    lists[1, 3], lists[2, 31], lists[3, [0, 9]] = np.nan, np.inf, [np.inf, -np.inf]
    lists[4, 31], lists[5] = np.nan, largest
    find = tf.function(masked_ops.nan_lists, jit_compile=jit_compile)
    got = find(tf.cast(lists, dtype), tf.ones(lists.shape, tf.bool))
    np.testing.assert_array_equal(got, [False, True, False, True, True, False])
    mask = np.isfinite(lists)
    assert not find(tf.cast(lists, dtype), mask).numpy().any()
