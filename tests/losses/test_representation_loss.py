"""representation_loss: what must hold for every loss on embeddings."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill import losses
from recdistill.losses import HintMSE, RepresentationLoss
from tests import reference_representation as reference

FUNCTIONS = (
    losses.hint_mse,
    losses.relational_distance,
    losses.relational_angle,
    losses.contrastive_alignment,
)
CLASSES = [
    cls
    for _, cls in inspect.getmembers(losses, inspect.isclass)
    if issubclass(cls, RepresentationLoss) and cls is not RepresentationLoss
]
every_function = pytest.mark.parametrize(
    "function", FUNCTIONS, ids=lambda f: f.__name__
)
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)


def gradient(function, teacher, student, mask, weight=None):
    student = tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = tf.reduce_sum(function(teacher, student, mask, weight))
    return value.numpy(), tape.gradient(value, student).numpy()


@every_function
class TestEveryFunction:
    def test_it_matches_its_definition_in_plain_loops(self, function, rows):
        want = getattr(reference, function.__name__)(*rows)
        np.testing.assert_allclose(function(*rows), want, rtol=1e-4, atol=1e-6)
        assert want[0] > 0.01

    def test_rows_have_equal_weight_by_default(self, function, rows):
        teacher, student, mask, _ = rows
        want = function(teacher, student, mask, np.ones(mask.shape, "float32"))
        np.testing.assert_array_equal(function(teacher, student, mask), want)

    @pytest.mark.parametrize("junk", [np.nan, 1e30])
    def test_padding_changes_neither_value_nor_gradient(self, function, rows, junk):
        teacher, student, mask, weight = rows
        value, slope = gradient(function, teacher, student, mask, weight)
        other = [np.where(mask[..., None], x, junk) for x in (teacher, student)]
        got, got_slope = gradient(function, *other, mask, np.where(mask, weight, junk))
        np.testing.assert_allclose(got, value, rtol=1e-6)
        np.testing.assert_allclose(got_slope, slope, rtol=1e-5, atol=1e-7)
        assert not slope[~mask].any()
        assert slope[0].all()

    def test_row_order_changes_nothing(self, function, rows):
        order = np.random.default_rng(0).permutation(5)
        shuffled = [array[:, order] for array in rows]
        np.testing.assert_allclose(
            function(*shuffled), function(*rows), rtol=1e-5, atol=1e-6
        )

    def test_weight_zero_equals_removal(self, function, rows):
        teacher, student, mask, weight = rows
        weight[:, 1] = 0.0
        without = mask & (np.arange(5) != 1)
        np.testing.assert_allclose(
            function(teacher, student, mask, weight),
            function(teacher, student, without, weight),
            rtol=1e-5,
            atol=1e-7,
        )

    def test_only_ratios_of_weights_matter(self, function, rows):
        *others, weight = rows
        np.testing.assert_allclose(
            function(*others, 7.0 * weight), function(*rows), rtol=1e-5, atol=1e-7
        )

    @pytest.mark.parametrize("size", [0.0, 1e-4, 1e4])
    def test_value_and_gradient_are_finite_at_any_size(self, function, rows, size):
        teacher, student, mask, weight = rows
        value, slope = gradient(function, teacher, size * student, mask, weight)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()

    @pytest.mark.parametrize("together", [2, 5])
    def test_identical_rows_have_a_finite_gradient(self, function, rows, together):
        teacher, student, mask, weight = rows
        student[:, 1:together] = student[:, :1]
        teacher[:, 1] = teacher[:, 0]
        value, slope = gradient(function, teacher, student, mask, weight)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()

    def test_gradient_matches_finite_differences(self, function, rows):
        teacher, student, mask, weight = (
            x.astype("float64") if x.dtype == "float32" else x for x in rows
        )
        value, slope = gradient(function, teacher, student, mask, weight)
        step = np.random.default_rng(2).normal(size=student.shape) * 1e-6
        up = gradient(function, teacher, student + step, mask, weight)[0]
        np.testing.assert_allclose(up - value, np.sum(slope * step), rtol=1e-3)

    def test_shapes_that_do_not_match_raise_an_error(self, function):
        good, mask = np.zeros((2, 3, 4), "float32"), np.ones((2, 3), bool)
        with pytest.raises(ValueError, match=r"`teacher_embeddings` must .*\(2, 3\)"):
            function(good[0], good, mask)
        with pytest.raises(ValueError, match=r"`student_embeddings` must"):
            function(good, good[:, :2], mask)
        with pytest.raises(ValueError, match="`mask` must be boolean"):
            function(good, good, mask.astype("float32"))


def test_a_student_equal_to_its_teacher_has_loss_and_gradient_zero(rows):
    teacher, _, mask, weight = rows
    for function in FUNCTIONS[:3]:
        value, slope = gradient(function, teacher, teacher, mask, weight)
        np.testing.assert_allclose(value, 0.0, atol=1e-6)
        np.testing.assert_allclose(slope, 0.0, atol=1e-4)


@every_class
class TestEveryClass:
    def test_queries_of_a_batch_are_the_rows_of_one_list(self, cls, rows):
        teacher, student, _, weight = rows
        loss, real = cls(), np.ones((1, 5), bool)
        want = loss.compare(teacher[:1], student[:1], real, weight[:1])
        got = loss(teacher[0], student[0], sample_weight=weight[0])
        np.testing.assert_allclose(got, want[0], rtol=1e-6)

    def test_a_query_whose_list_is_padding_does_not_count(self, cls, rows):
        teacher, student, _, _ = rows
        mask = np.ones((5, 3), bool)
        mask[2] = False
        keep = [0, 1, 3, 4]
        got = cls()({"labels": teacher[0], "mask": mask}, student[0])
        want = cls()(teacher[0][keep], student[0][keep])
        np.testing.assert_allclose(got, want, rtol=1e-5)

    def test_the_mean_over_lists_uses_list_weights_and_excludes_padding(
        self, cls, rows
    ):
        teacher, student, mask, _ = rows
        per_list = cls().compare(teacher, student, mask, np.ones(mask.shape, "float32"))
        weight = np.array([1.0, 2.0, 0.0, 3.0, 9.0], "float32")
        got = cls()({"labels": teacher, "mask": mask}, student, weight)
        # The last list has no row, so its weight of 9 does not count.
        want = np.dot(per_list[:4], weight[:4]) / 6.0
        np.testing.assert_allclose(got, want, rtol=1e-5)

    def test_item_weights_apply_to_rows(self, cls, rows):
        teacher, student, mask, weight = rows
        per_list = cls().compare(teacher, student, mask, weight)
        got = cls()({"labels": teacher, "mask": mask}, student, weight)
        np.testing.assert_allclose(got, np.sum(per_list) / 4, rtol=1e-5)

    def test_a_batch_of_padding_has_loss_zero(self, cls, rows):
        teacher, student, mask, _ = rows
        y_true = {"labels": teacher, "mask": np.zeros_like(mask)}
        assert float(cls()(y_true, student)) == 0.0
        y_true = {"labels": teacher[0], "mask": np.zeros_like(mask)}
        assert float(cls()(y_true, student[0])) == 0.0

    @pytest.mark.parametrize("jit_compile", [False, True])
    @pytest.mark.slow
    def test_graph_and_eager_agree_for_lists_and_queries(self, cls, rows, jit_compile):
        teacher, student, mask, weight = rows
        loss = cls()

        @tf.function(jit_compile=jit_compile)
        def of_lists(teacher, student, mask, weight):
            return loss({"labels": teacher, "mask": mask}, student, weight)

        want = loss({"labels": teacher, "mask": mask}, student, weight)
        got = of_lists(teacher, student, mask, weight)
        np.testing.assert_allclose(got, want, rtol=1e-5)
        of_queries = tf.function(loss, jit_compile=jit_compile)
        got = of_queries(tf.constant(teacher[0]), tf.constant(student[0]))
        np.testing.assert_allclose(got, loss(teacher[0], student[0]), rtol=1e-5)

    def test_the_mask_of_a_keras_layer_is_ignored(self, cls, rows):
        teacher, student, _, _ = rows
        masked = tf.constant(student[0])
        masked._keras_mask = tf.zeros((5,), tf.bool)
        np.testing.assert_allclose(
            cls()(teacher[0], masked), cls()(teacher[0], student[0])
        )

    @pytest.mark.slow
    def test_it_can_be_minimised_by_gradient_descent(self, cls, rows):
        teacher, student, _, _ = rows
        loss, student = cls(), tf.Variable(student[0])
        first = float(loss(teacher[0], student))
        for _ in range(20):
            with tf.GradientTape() as tape:
                value = loss(teacher[0], student)
            student.assign_sub(0.1 * tape.gradient(value, student))
        assert float(loss(teacher[0], student)) < 0.95 * first

    def test_config_round_trip(self, cls):
        loss = cls("tower/hidden_0", "stored", reduction="sum", name="mine")
        copy = keras.losses.deserialize(keras.losses.serialize(loss))
        assert type(copy) is cls
        assert copy.get_config() == loss.get_config()
        assert (copy.student_output, copy.teacher_output) == (
            "tower/hidden_0",
            "stored",
        )

    def test_different_tensor_ranks_raise_an_error(self, cls):
        with pytest.raises(ValueError, match=r"Embeddings must be .*\(2, 3\).*\(3,\)"):
            cls()(np.zeros((2, 3), "float32"), np.zeros(3, "float32"))

    def test_it_works_in_keras_feature_distillation(self, cls, rows):
        teacher, student, _, _ = rows
        theirs = keras.distillation.FeatureDistillation(loss=cls())
        np.testing.assert_allclose(
            theirs.compute_loss(tf.constant(teacher[0]), tf.constant(student[0])),
            cls()(teacher[0], student[0]),
            rtol=1e-6,
        )


def test_hint_mse_of_shared_candidates_equals_that_of_separate_lists(rows):
    teacher, student, mask, weight = rows
    loss, list_weight = HintMSE(), weight[:, 0]
    many = [np.tile(x[:1], (5, 1, 1)) for x in (teacher, student)]
    for each in (list_weight, weight, None):
        want = loss({"labels": many[0], "mask": mask}, many[1], each)
        got = loss({"labels": teacher[:1], "mask": mask}, student[:1], each)
        np.testing.assert_allclose(got, want, rtol=1e-5)
    # One side may have candidates for each list, and the other shared ones.
    mixed = loss({"labels": teacher, "mask": mask}, student[:1])
    np.testing.assert_allclose(
        mixed, loss({"labels": teacher, "mask": mask}, many[1]), rtol=1e-6
    )
