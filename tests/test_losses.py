"""losses: value against a definition, then what must hold for every listwise loss."""

from math import exp, log

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill import losses
from tests import contracts


def loss_and_gradient(function, labels, student_scores, mask, temperature=1.0):
    student_scores = tf.constant(student_scores)
    with tf.GradientTape() as tape:
        tape.watch(student_scores)
        loss = function(labels, student_scores, mask, temperature)
        target = tf.reduce_sum(loss)
    return loss.numpy(), tape.gradient(target, student_scores).numpy()


def test_kl_by_hand():
    teacher = np.array([[log(3.0), 0.0, -50.0]], "float32")
    student = np.array([[0.0, log(4.0), 50.0]], "float32")
    mask = np.array([[True, True, False]])
    got = losses.listwise_kl_divergence(teacher, student, mask)
    want = 3 / 4 * log((3 / 4) / (1 / 5)) + 1 / 4 * log((1 / 4) / (4 / 5))
    np.testing.assert_allclose(got, [want], rtol=1e-6)


def test_kl_by_hand_at_a_temperature():
    teacher = np.array([[2.0 * log(3.0), 0.0]], "float32")
    student = np.zeros((1, 2), "float32")
    mask = np.ones((1, 2), bool)
    got = losses.listwise_kl_divergence(teacher, student, mask, temperature=2.0)
    want = 2.0**2 * (3 / 4 * log((3 / 4) / (1 / 2)) + 1 / 4 * log((1 / 4) / (1 / 2)))
    np.testing.assert_allclose(got, [want], rtol=1e-6)


def test_cross_entropy_by_hand():
    relevance = np.array([[2.0, 0.0, 1.0, 9.0]], "float32")
    student = np.array([[0.0, 1.0, 0.5, 30.0]], "float32")
    mask = np.array([[True, True, True, False]])
    got = losses.listwise_cross_entropy(relevance, student, mask, temperature=0.5)
    evidence = exp(0.0) + exp(2.0) + exp(1.0)
    want = -(2 / 3 * log(exp(0.0) / evidence) + 1 / 3 * log(exp(1.0) / evidence))
    np.testing.assert_allclose(got, [want], rtol=1e-6)


def test_cross_entropy_takes_relevance_below_zero_for_zero():
    student = np.array([[0.3, -0.2, 1.0]], "float32")
    mask = np.ones((1, 3), bool)
    np.testing.assert_allclose(
        losses.listwise_cross_entropy([[1.0, -5.0, 2.0]], student, mask),
        losses.listwise_cross_entropy([[1.0, 0.0, 2.0]], student, mask),
    )


def test_kl_when_hot_is_half_the_mean_squared_gap_of_centred_scores():
    teacher = np.array([[1.0, -2.0, 0.5, 3.0]])
    student = np.array([[0.0, 1.0, -1.0, 2.0]])
    mask = np.ones((1, 4), bool)
    got = losses.listwise_kl_divergence(teacher, student, mask, temperature=1e3)
    gap = (teacher - teacher.mean()) - (student - student.mean())
    np.testing.assert_allclose(got, [np.mean(gap**2) / 2], rtol=1e-2)


def test_kl_gradient_is_the_gap_of_probabilities_times_the_temperature():
    teacher = np.array([[2.0 * log(3.0), 0.0]], "float32")
    student = np.zeros((1, 2), "float32")
    mask = np.ones((1, 2), bool)
    _, gradient = loss_and_gradient(
        losses.listwise_kl_divergence, teacher, student, mask, temperature=2.0
    )
    np.testing.assert_allclose(
        gradient, [[2.0 * (1 / 2 - 3 / 4), 2.0 * (1 / 2 - 1 / 4)]], rtol=1e-5
    )


def test_kl_and_cross_entropy_with_the_soft_targets_have_one_gradient():
    teacher, student, mask = contracts.ragged_lists(losses.ListwiseKLDivergence)
    soft_targets = np.where(mask, np.exp(teacher), 0.0)
    _, by_kl = loss_and_gradient(losses.listwise_kl_divergence, teacher, student, mask)
    _, by_cross_entropy = loss_and_gradient(
        losses.listwise_cross_entropy, soft_targets, student, mask
    )
    np.testing.assert_allclose(by_kl, by_cross_entropy, atol=1e-6)


def test_cross_entropy_leaves_lists_without_relevance_out_of_the_mean():
    relevance = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 7.0]], "float32")
    mask = np.array([[True, True], [True, True], [True, False]])
    scores = np.zeros((3, 2), "float32")
    loss = losses.ListwiseCrossEntropy()({"labels": relevance, "mask": mask}, scores)
    np.testing.assert_allclose(loss, log(2.0), rtol=1e-6)


def test_there_is_a_loss_of_each_kind_to_test():
    kinds = {contracts.learns_from_teacher(cls) for cls in contracts.listwise_losses()}
    assert kinds == {True, False}


@pytest.fixture
def ragged_lists(loss_cls):
    return contracts.ragged_lists(loss_cls)


@pytest.mark.parametrize("loss_cls", contracts.listwise_losses())
class TestEveryListwiseLoss:
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    def test_function_matches_its_definition(self, loss_cls, ragged_lists, temperature):
        got = contracts.function_of(loss_cls)(*ragged_lists, temperature)
        want = contracts.reference_of(loss_cls)(*ragged_lists, temperature)
        assert got.shape == (6,)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)

    def test_class_is_the_mean_of_its_function(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        y_true = {"labels": labels, "mask": mask}
        got = loss_cls(temperature=3.0)(y_true, student)
        each = contracts.function_of(loss_cls)(*ragged_lists, temperature=3.0)
        np.testing.assert_allclose(got, np.sum(each) / 5, rtol=1e-5)  # one is padding

    def test_call_gives_one_loss_a_list(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        got = loss_cls(temperature=3.0).call({"labels": labels, "mask": mask}, student)
        want = contracts.function_of(loss_cls)(*ragged_lists, temperature=3.0)
        np.testing.assert_allclose(got, want, rtol=1e-6)

    def test_bare_labels_are_all_real(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        everything = {"labels": labels, "mask": np.ones_like(mask)}
        np.testing.assert_allclose(
            loss_cls()(labels, student), loss_cls()(everything, student)
        )

    @pytest.mark.parametrize("junk", [1e30, np.inf, np.nan])
    def test_padding_changes_nothing(self, loss_cls, ragged_lists, junk):
        labels, student, mask = ragged_lists
        function = contracts.function_of(loss_cls)
        want = loss_and_gradient(function, labels, student, mask)
        wider = [(0, 0), (0, 2)]
        labels, student = (
            np.pad(np.where(mask, values, junk), wider, constant_values=junk)
            for values in (labels, student)
        )
        mask = np.pad(mask, wider)
        got = loss_and_gradient(function, labels, student, mask)
        np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
        np.testing.assert_allclose(got[1][:, :-2], want[1], rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(got[1][~mask], 0.0)

    def test_candidate_order_changes_nothing(self, loss_cls, ragged_lists):
        function = contracts.function_of(loss_cls)
        shuffled = (values[:, [3, 1, 4, 0, 2]] for values in ragged_lists)
        np.testing.assert_allclose(
            function(*shuffled), function(*ragged_lists), rtol=1e-5, atol=1e-7
        )

    def test_shift_of_student_scores_changes_nothing(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        function = contracts.function_of(loss_cls)
        np.testing.assert_allclose(
            function(labels, student - 10.0, mask),
            function(*ragged_lists),
            rtol=1e-4,
            atol=1e-5,
        )

    def test_zero_weight_equals_removal(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        keep = np.array([True, False, True, True, True, False])
        weight = np.where(keep, 2.0, 0.0)
        got = loss_cls()({"labels": labels, "mask": mask}, student, weight)
        kept = {"labels": labels[keep], "mask": mask[keep]}
        np.testing.assert_allclose(got, loss_cls()(kept, student[keep]), rtol=1e-6)

    def test_weight_two_equals_repetition(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        got = loss_cls()(
            {"labels": labels, "mask": mask}, student, np.array([2, 1, 1, 1, 1, 1])
        )
        twice = [0, 0, 1, 2, 3, 4, 5]
        repeated = {"labels": labels[twice], "mask": mask[twice]}
        np.testing.assert_allclose(got, loss_cls()(repeated, student[twice]), rtol=1e-6)

    def test_all_weights_zero_give_zero(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        y_true = {"labels": labels, "mask": mask}
        assert float(loss_cls()(y_true, student, np.zeros(6))) == 0.0

    def test_weights_that_are_not_one_a_list_are_an_error(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        y_true = {"labels": labels, "mask": mask}
        for shape in [(6, 5), (6, 1), (5,)]:
            with pytest.raises(ValueError, match="`sample_weight` must have shape"):
                loss_cls()(y_true, student, np.ones(shape))

    def test_padded_lists_do_not_dilute_the_mean(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        want = loss_cls()({"labels": labels, "mask": mask}, student)
        more = [(0, 4), (0, 0)]
        y_true = {"labels": np.pad(labels, more), "mask": np.pad(mask, more)}
        got = loss_cls()(y_true, np.pad(student, more))
        np.testing.assert_allclose(got, want, rtol=1e-6)

    def test_list_of_padding_has_loss_zero_and_gradient_zero(self, loss_cls):
        junk, nothing = np.full((1, 3), 9.0, "float32"), np.zeros((1, 3), bool)
        loss, gradient = loss_and_gradient(
            contracts.function_of(loss_cls), junk, junk, nothing
        )
        np.testing.assert_array_equal(loss, 0.0)
        np.testing.assert_array_equal(gradient, 0.0)
        assert float(loss_cls()({"labels": junk, "mask": nothing}, junk)) == 0.0

    @pytest.mark.parametrize("size", [1e4, 3e37])
    @pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
    def test_huge_scores_are_finite(self, loss_cls, size, temperature):
        labels = np.array([[size, 0.0, -size], [-size, 0.0, size]], "float32")
        student = np.array([[size, 0.0, -size], [size, 0.0, -size]], "float32")
        loss, gradient = loss_and_gradient(
            contracts.function_of(loss_cls),
            labels,
            student,
            np.ones((2, 3), bool),
            temperature,
        )
        assert np.isfinite(loss).all()
        assert np.isfinite(gradient).all()
        np.testing.assert_allclose(loss[0], 0.0, atol=1e-6)
        assert loss[1] > 1e3

    def test_graph_and_eager_agree_for_sizes_unknown_in_advance(
        self, loss_cls, ragged_lists
    ):
        function = contracts.function_of(loss_cls)
        matrix = tf.TensorSpec((None, None))
        in_graph = tf.function(
            function,
            input_signature=[matrix, matrix, tf.TensorSpec((None, None), tf.bool)],
        )
        np.testing.assert_allclose(
            in_graph(*ragged_lists), function(*ragged_lists), rtol=1e-5, atol=1e-6
        )

    def test_the_mask_of_a_keras_layer_is_not_ours(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        y_true = {"labels": labels, "mask": mask}
        scores = tf.constant(student)
        scores._keras_mask = tf.zeros_like(mask)
        np.testing.assert_allclose(
            loss_cls()(y_true, scores), loss_cls()(y_true, student)
        )

    def test_other_reductions_are_those_of_keras(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        y_true = {"labels": labels, "mask": mask}
        each = contracts.function_of(loss_cls)(*ragged_lists)
        for reduction, want in [
            ("sum", np.sum(each)),
            ("sum_over_batch_size", np.sum(each) / 6),
            (None, each),
        ]:
            got = loss_cls(reduction=reduction)(y_true, student)
            np.testing.assert_allclose(got, want, rtol=1e-5)

    def test_config_round_trip(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        loss = loss_cls(temperature=2.5, reduction="sum", name="mine")
        config = keras.saving.serialize_keras_object(loss)
        assert config["registered_name"] == f"recdistill>{loss_cls.__name__}"
        copy = keras.saving.deserialize_keras_object(config)
        assert type(copy) is loss_cls
        assert copy.get_config() == loss.get_config()
        assert (copy.temperature, copy.reduction, copy.name) == (2.5, "sum", "mine")
        y_true = {"labels": labels, "mask": mask}
        np.testing.assert_allclose(copy(y_true, student), loss(y_true, student))

    @pytest.mark.parametrize("temperature", [0, -1.5, float("inf"), float("nan")])
    def test_bad_temperature_names_the_value(self, loss_cls, ragged_lists, temperature):
        message = f"`temperature` must be positive. Received: temperature={temperature}"
        with pytest.raises(ValueError, match=message):
            loss_cls(temperature=temperature)
        with pytest.raises(ValueError, match=message):
            contracts.function_of(loss_cls)(*ragged_lists, temperature)

    def test_shapes_that_differ_are_an_error(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        with pytest.raises(ValueError, match="`student_scores` must have the shape"):
            contracts.function_of(loss_cls)(labels, student[:, :1], mask)
        with pytest.raises(ValueError, match="`student_scores` must have the shape"):
            loss_cls()({"labels": labels, "mask": mask}, student[:, :1])


@pytest.mark.parametrize(
    "loss_cls", [*filter(contracts.learns_from_teacher, contracts.listwise_losses())]
)
class TestEveryLossThatLearnsFromTheTeacher:
    def test_negative_teacher_scores_are_ordinary(self, loss_cls, ragged_lists):
        teacher, student, mask = ragged_lists
        function = contracts.function_of(loss_cls)
        want = function(teacher, student, mask)
        got = function(teacher - 30.0, student, mask)
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)

    def test_teacher_equal_to_student_is_the_minimum(self, loss_cls, ragged_lists):
        teacher, _, mask = ragged_lists
        function = contracts.function_of(loss_cls)
        least, gradient = loss_and_gradient(function, teacher, teacher, mask)
        np.testing.assert_allclose(gradient, 0.0, atol=1e-6)
        rng = np.random.default_rng(1)
        for size in (0.1, 1.0, 10.0):
            step = rng.normal(0.0, size, teacher.shape).astype("float32")
            several = mask.sum(axis=1) > 1
            worse = function(teacher, teacher + step, mask).numpy()
            assert (worse[several] > least[several]).all()
