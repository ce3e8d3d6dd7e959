"""losses: the contract of every loss over lists, independent of its formula."""

import inspect
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill import losses
from tests import contracts
from tests.contracts import function_of, loss_and_gradient

EVERY_LOSS = pytest.mark.parametrize("loss_cls", contracts.list_losses())
BASES = {
    losses.LossWithSettings,
    losses.ListLoss,
    losses.TemperedListLoss,
    losses.RelevanceListLoss,
    losses.RepresentationLoss,
}
REMOVED = contracts.item_weights() == 0.0


@pytest.fixture
def ragged_lists(loss_cls):
    return contracts.ragged_lists(loss_cls)


def test_every_loss_is_exported_with_its_function():
    for cls in contracts.all_losses():
        assert cls.__name__ in losses.__all__
        if cls not in BASES:
            assert contracts.parameters_of(cls), f"{cls.__name__} has no function"


def test_every_loss_is_covered_by_this_contract_or_by_another_one():
    others = {
        cls
        for cls in contracts.all_losses()
        if cls is losses.InBatchSoftmax or issubclass(cls, losses.RepresentationLoss)
    }
    assert set(contracts.all_losses()) - BASES - others == set(contracts.list_losses())


def test_losses_of_each_kind_are_found():
    found = contracts.list_losses()
    assert {contracts.learns_from_teacher(cls) for cls in found} == {True, False}
    names = {cls.__name__ for cls in found}
    for table in (
        contracts.CHANGED_BY_SHIFT,
        contracts.MINIMUM_AT_TEACHER,
        contracts.WEIGHT_IS_COUNT,
    ):
        assert table < names


@EVERY_LOSS
class TestEveryValue:
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
    def test_matches_its_definition(self, loss_cls, ragged_lists, temperature):
        settings = contracts.at_temperature(loss_cls, temperature)
        got = function_of(loss_cls)(*ragged_lists, **settings)
        want = contracts.reference_of(loss_cls)(*ragged_lists, **settings)
        assert got.shape == (6,)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)

    def test_matches_its_definition_under_other_settings(self, loss_cls, ragged_lists):
        settings = contracts.unusual(loss_cls)
        got = function_of(loss_cls)(*ragged_lists, **settings)
        want = contracts.reference_of(loss_cls)(*ragged_lists, **settings)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("default", [True, False])
    def test_matches_its_definition_with_item_weights(
        self, loss_cls, ragged_lists, default
    ):
        settings = {} if default else contracts.unusual(loss_cls)
        settings["item_weight"] = contracts.item_weights()
        got = function_of(loss_cls)(*ragged_lists, **settings)
        want = contracts.reference_of(loss_cls)(*ragged_lists, **settings)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)

    def test_float64_inputs_give_float64_results_of_full_precision(
        self, loss_cls, ragged_lists
    ):
        labels, student, mask = ragged_lists
        wide = labels.astype("float64"), student.astype("float64"), mask
        settings = contracts.unusual(loss_cls)
        got = function_of(loss_cls)(*wide, **settings)
        want = contracts.reference_of(loss_cls)(*wide, **settings)
        assert got.dtype == tf.float64
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)

    def test_gradient_matches_finite_differences(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        labels, student = labels.astype("float64"), student.astype("float64")
        settings = contracts.unusual(loss_cls)
        function = function_of(loss_cls)
        _, gradient = loss_and_gradient(function, labels, student, mask, **settings)
        for i in range(5):
            step = np.zeros_like(student)
            step[:, i] = 1e-5
            rise = function(labels, student + step, mask, **settings) - function(
                labels, student - step, mask, **settings
            )
            np.testing.assert_allclose(gradient[:, i], rise / 2e-5, atol=1e-6)

    def test_temperature_may_be_learned(self, loss_cls, ragged_lists):
        if "temperature" not in contracts.settings_of(loss_cls):
            pytest.skip("the loss has no temperature")
        labels, student, mask = ragged_lists
        wide = labels.astype("float64"), student.astype("float64"), mask
        settings = contracts.unusual(loss_cls)
        temperature = tf.constant(settings.pop("temperature"), tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(temperature)
            loss = function_of(loss_cls)(*wide, temperature, **settings)
            total = tf.reduce_sum(loss)
        above, below = (
            np.sum(function_of(loss_cls)(*wide, float(temperature) + step, **settings))
            for step in (1e-5, -1e-5)
        )
        np.testing.assert_allclose(total, (above + below) / 2, rtol=1e-6)
        slope = (above - below) / 2e-5
        np.testing.assert_allclose(tape.gradient(total, temperature), slope, atol=1e-6)

    @pytest.mark.parametrize("junk", [1e30, np.inf, np.nan])
    def test_padding_changes_nothing(self, loss_cls, ragged_lists, junk):
        labels, student, mask = ragged_lists
        function = function_of(loss_cls)
        want = loss_and_gradient(function, labels, student, mask)
        wider = [(0, 0), (0, 2)]
        labels, student, weight = (
            np.pad(np.where(mask, values, junk), wider, constant_values=junk)
            for values in (labels, student, np.ones_like(student))
        )
        mask = np.pad(mask, wider)
        for settings in ({}, {"item_weight": weight}):
            got = loss_and_gradient(function, labels, student, mask, **settings)
            np.testing.assert_allclose(got[0], want[0], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(got[1][:, :-2], want[1], rtol=1e-4, atol=1e-6)
            np.testing.assert_array_equal(got[1][~mask], 0.0)

    def test_nan_labels_are_refused(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        labels = labels.copy()
        labels[4, 1] = np.nan
        name = "teacher_scores" if contracts.learns_from_teacher(loss_cls) else "relev"
        message = f"`{name}.*must be numbers for all real candidates"
        y_true = {"labels": labels, "mask": mask}
        with pytest.raises(ValueError, match=f"{message}.* NaN in list 4"):
            function_of(loss_cls)(labels, student, mask)
        with pytest.raises(ValueError, match=message):
            loss_cls()(y_true, student)
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            tf.function(loss_cls())(y_true, student)

    def test_nan_student_scores_give_nan(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        diverged, one = np.full_like(student, np.nan), student.copy()
        one[0, 0] = np.nan
        for scores in (one, diverged):
            assert np.isnan(loss_cls()({"labels": labels, "mask": mask}, scores))

    def test_padding_may_be_at_any_position(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        settings = contracts.unusual(loss_cls)
        function = function_of(loss_cls)
        want = function(*ragged_lists, **settings)
        first = [(0, 0), (3, 0)]
        got = function(
            np.pad(labels, first, constant_values=99.0),
            np.pad(student, first, constant_values=99.0),
            np.pad(mask, first),
            **settings,
        )
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)

    def test_candidate_order_changes_nothing(self, loss_cls, ragged_lists):
        settings = contracts.unusual(loss_cls)
        if not contracts.learns_from_teacher(loss_cls):
            settings["k"] = 10  # equal grades make a cut-off depend on the order
            settings = {k: settings[k] for k in contracts.settings_of(loss_cls)}
        function = function_of(loss_cls)
        shuffled = (values[:, [3, 1, 4, 0, 2]] for values in ragged_lists)
        np.testing.assert_allclose(
            function(*shuffled, **settings),
            function(*ragged_lists, **settings),
            rtol=1e-4,
            atol=1e-6,
        )

    def test_a_constant_changes_only_the_losses_for_which_this_is_declared(
        self, loss_cls, ragged_lists
    ):
        labels, student, mask = ragged_lists
        function = function_of(loss_cls)
        got = function(labels, student - 10.0, mask).numpy()
        want = function(*ragged_lists).numpy()
        same = np.allclose(got, want, rtol=1e-4, atol=1e-5)
        assert same != (loss_cls.__name__ in contracts.CHANGED_BY_SHIFT)

    def test_list_of_padding_has_loss_zero_and_gradient_zero(self, loss_cls):
        junk, nothing = np.full((1, 3), 9.0, "float32"), np.zeros((1, 3), bool)
        loss, gradient = loss_and_gradient(function_of(loss_cls), junk, junk, nothing)
        np.testing.assert_array_equal(loss, 0.0)
        np.testing.assert_array_equal(gradient, 0.0)
        assert float(loss_cls()({"labels": junk, "mask": nothing}, junk)) == 0.0

    @pytest.mark.parametrize("size", [1e4, 3e37, 3e38])
    @pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
    def test_huge_scores_are_finite(self, loss_cls, size, temperature):
        labels = np.array([[size, 0.0, -size], [-size, 0.0, size]], "float32")
        student = np.array([[size, 0.0, -size], [size, 0.0, -size]], "float32")
        loss, gradient = loss_and_gradient(
            function_of(loss_cls),
            labels,
            student,
            np.ones((2, 3), bool),
            **contracts.at_temperature(loss_cls, temperature),
        )
        assert np.isfinite(loss).all()
        assert np.isfinite(gradient).all()
        if size == 1e4:
            assert loss[1] > loss[0]

    def test_scores_of_very_different_magnitudes_are_finite(self, loss_cls):
        scores = np.array([[3e38, 1e20, 1e4, 1.0, 0.0, -1e-38, -1e4, -3e38]], "float32")
        mask = np.ones(scores.shape, bool)
        for student in (scores, -scores, np.zeros_like(scores)):
            for weight in (None, np.abs(scores)):
                loss, gradient = loss_and_gradient(
                    function_of(loss_cls), scores, student, mask, item_weight=weight
                )
                assert np.isfinite(loss).all()
                assert np.isfinite(gradient).all()

    @pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
    def test_half_precision_is_computed_in_float32(self, loss_cls, ragged_lists, dtype):
        labels, student, mask = ragged_lists
        halves = tf.cast(labels, dtype), tf.cast(student, dtype)
        wholes = (tf.cast(half, "float32") for half in halves)
        got = function_of(loss_cls)(*halves, mask)
        np.testing.assert_array_equal(got, function_of(loss_cls)(*wholes, mask))
        largest = tf.constant([[6e4, 0.0, -6e4]], dtype)
        y_true = {"labels": largest, "mask": np.ones((1, 3), bool)}
        assert np.isfinite(float(loss_cls()(y_true, -largest)))


@EVERY_LOSS
@pytest.mark.slow
class TestEveryGraph:
    def test_graph_and_eager_agree_for_sizes_unknown_in_advance(
        self, loss_cls, ragged_lists
    ):
        function, settings = function_of(loss_cls), contracts.unusual(loss_cls)
        matrix = tf.TensorSpec((None, None))
        in_graph = tf.function(
            lambda labels, student, mask: function(labels, student, mask, **settings),
            input_signature=[matrix, matrix, tf.TensorSpec((None, None), tf.bool)],
        )
        np.testing.assert_allclose(
            in_graph(*ragged_lists),
            function(*ragged_lists, **settings),
            rtol=1e-5,
            atol=1e-6,
        )

    @pytest.mark.parametrize("weighted", [False, True])
    def test_xla_and_eager_agree(self, loss_cls, ragged_lists, weighted):
        loss, (labels, student, mask) = loss_cls(), ragged_lists
        y_true = {"labels": labels, "mask": mask}
        if weighted:
            y_true["item_weight"] = 1.0 + np.abs(labels)

        def step(student):
            with tf.GradientTape() as tape:
                tape.watch(student)
                value = loss(y_true, student)
            return value, tape.gradient(value, student)

        student = tf.constant(student)
        got, want = tf.function(step, jit_compile=True)(student), step(student)
        np.testing.assert_allclose(got[0], want[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got[1], want[1], rtol=1e-4, atol=1e-6)

    def test_nan_labels_give_nan_where_xla_has_no_errors(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        labels = labels.copy()
        labels[4, 1] = np.nan
        compiled = tf.function(loss_cls(), jit_compile=True)
        assert np.isnan(compiled({"labels": labels, "mask": mask}, student))

    def test_the_mask_of_a_keras_layer_is_ignored(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        y_true = {"labels": labels, "mask": mask}
        scores = tf.constant(student)
        scores._keras_mask = tf.zeros_like(mask)
        np.testing.assert_allclose(
            loss_cls()(y_true, scores), loss_cls()(y_true, student)
        )


@EVERY_LOSS
class TestEveryWeight:
    def test_zero_list_weight_equals_removal(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        keep = np.array([True, False, True, True, True, False])
        weight = np.where(keep, 2.0, 0.0)
        got = loss_cls()({"labels": labels, "mask": mask}, student, weight)
        kept = {"labels": labels[keep], "mask": mask[keep]}
        np.testing.assert_allclose(got, loss_cls()(kept, student[keep]), rtol=1e-6)

    def test_list_weight_two_equals_repetition(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        got = loss_cls()(
            {"labels": labels, "mask": mask}, student, np.array([2, 1, 1, 1, 1, 1])
        )
        twice = [0, 0, 1, 2, 3, 4, 5]
        repeated = {"labels": labels[twice], "mask": mask[twice]}
        np.testing.assert_allclose(got, loss_cls()(repeated, student[twice]), rtol=1e-6)

    @pytest.mark.parametrize("shape", [(6,), (6, 5)])
    def test_all_weights_zero_give_zero(self, loss_cls, ragged_lists, shape):
        labels, student, mask = ragged_lists
        y_true = {"labels": labels, "mask": mask}
        assert float(loss_cls()(y_true, student, np.zeros(shape))) == 0.0

    @pytest.mark.parametrize("weight", [0.0, -1.0])
    def test_zero_item_weight_equals_removal(self, loss_cls, ragged_lists, weight):
        labels, student, mask = ragged_lists
        weight = np.where(REMOVED, weight, 1.0).astype("float32")
        function, settings = function_of(loss_cls), contracts.unusual(loss_cls)
        got = loss_and_gradient(
            function, labels, student, mask, **settings, item_weight=weight
        )
        want = loss_and_gradient(function, labels, student, mask & ~REMOVED, **settings)
        np.testing.assert_array_equal(got[0], want[0])
        np.testing.assert_array_equal(got[1], want[1])

    def test_sample_weights_of_candidates_are_item_weights(
        self, loss_cls, ragged_lists
    ):
        labels, student, mask = ragged_lists
        weight = contracts.item_weights()
        each = function_of(loss_cls)(*ragged_lists, item_weight=weight)
        got = loss_cls()({"labels": labels, "mask": mask}, student, weight)
        np.testing.assert_allclose(got, np.sum(each) / 5, rtol=1e-5)

    def test_list_weights_and_item_weights_can_be_combined(
        self, loss_cls, ragged_lists
    ):
        labels, student, mask = ragged_lists
        weight, of_list = contracts.item_weights(), np.array([3, 1, 1, 1, 0, 2.0])
        each = function_of(loss_cls)(*ragged_lists, item_weight=weight)
        y_true = {"labels": labels, "mask": mask, "item_weight": weight}
        got = loss_cls()(y_true, student, of_list)
        np.testing.assert_allclose(got, np.sum(each * of_list) / 7, rtol=1e-5)

    def test_both_kinds_of_candidate_weights_are_multiplied(
        self, loss_cls, ragged_lists
    ):
        labels, student, mask = ragged_lists
        weight, more = contracts.item_weights(), 1.0 + np.abs(student)
        y_true = {"labels": labels, "mask": mask, "item_weight": more}
        got = loss_cls()(y_true, student, sample_weight=weight)
        y_true["item_weight"] = weight * more
        np.testing.assert_allclose(got, loss_cls()(y_true, student), rtol=1e-5)

    def test_only_ratios_of_item_weights_matter(self, loss_cls, ragged_lists):
        weight = contracts.item_weights()
        function = function_of(loss_cls)
        for factor in (7.0, 1e-30, 1e30):
            np.testing.assert_allclose(
                function(*ragged_lists, item_weight=weight * np.float32(factor)),
                function(*ragged_lists, item_weight=weight),
                rtol=1e-4,
                atol=1e-5,
            )

    def test_weight_two_equals_two_candidates_where_this_is_declared(
        self, loss_cls, ragged_lists
    ):
        function, settings = function_of(loss_cls), contracts.cut_short(loss_cls)
        weight = np.ones((6, 5), "float32")
        weight[:, 0] = 2.0
        _, by_weight = loss_and_gradient(
            function, *ragged_lists, **settings, item_weight=weight
        )
        twice = (values[:, [0, 0, 1, 2, 3, 4]] for values in ragged_lists)
        _, gradient = loss_and_gradient(function, *twice, **settings)
        by_two = np.concatenate(
            [gradient[:, :1] + gradient[:, 1:2], gradient[:, 2:]], axis=1
        )
        same = np.allclose(by_weight, by_two, rtol=1e-4, atol=1e-6)
        assert same == (loss_cls.__name__ in contracts.WEIGHT_IS_COUNT)

    def test_weights_of_another_shape_raise_an_error(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        y_true = {"labels": labels, "mask": mask}
        for shape in [(6, 1), (5,), (5, 6), (6, 5, 1)]:
            with pytest.raises(ValueError, match="`sample_weight` must have shape"):
                loss_cls()(y_true, student, np.ones(shape))
        with pytest.raises(ValueError, match="`item_weight` must have the shape"):
            function_of(loss_cls)(*ragged_lists, item_weight=np.ones((6, 1)))


@EVERY_LOSS
class TestEveryClass:
    def test_is_the_mean_of_its_function(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        y_true = {"labels": labels, "mask": mask}
        for settings in ({}, contracts.unusual(loss_cls)):
            got = loss_cls(**settings)(y_true, student)
            each = function_of(loss_cls)(*ragged_lists, **settings)
            np.testing.assert_allclose(got, np.sum(each) / 5, rtol=1e-5)  # one is empty

    def test_has_the_settings_of_its_function_with_the_same_defaults(self, loss_cls):
        of_function = inspect.signature(function_of(loss_cls)).parameters
        of_object = loss_cls().get_config()
        for name in contracts.settings_of(loss_cls):
            assert of_object[name] == of_function[name].default
        assert list(of_function)[-1] == "item_weight"

    def test_call_returns_one_loss_for_each_list(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        weight = contracts.item_weights()
        y_true = {"labels": labels, "mask": mask}
        got = loss_cls().call(y_true, student)
        np.testing.assert_allclose(got, function_of(loss_cls)(*ragged_lists), rtol=1e-6)
        got = loss_cls().call({**y_true, "item_weight": weight}, student)
        want = function_of(loss_cls)(*ragged_lists, item_weight=weight)
        np.testing.assert_allclose(got, want, rtol=1e-6)

    def test_labels_without_a_mask_are_all_real(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        everything = {"labels": labels, "mask": np.ones_like(mask)}
        np.testing.assert_allclose(
            loss_cls()(labels, student), loss_cls()(everything, student)
        )

    def test_padded_lists_do_not_dilute_the_mean(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        want = loss_cls()({"labels": labels, "mask": mask}, student)
        more = [(0, 4), (0, 0)]
        y_true = {"labels": np.pad(labels, more), "mask": np.pad(mask, more)}
        got = loss_cls()(y_true, np.pad(student, more))
        np.testing.assert_allclose(got, want, rtol=1e-6)

    def test_other_reductions_are_those_of_keras(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        y_true = {"labels": labels, "mask": mask}
        each = function_of(loss_cls)(*ragged_lists)
        for reduction, want in [
            ("sum", np.sum(each)),
            ("sum_over_batch_size", np.sum(each) / 6),
            (None, each),
        ]:
            got = loss_cls(reduction=reduction)(y_true, student)
            np.testing.assert_allclose(got, want, rtol=1e-5)

    def test_config_round_trip(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        settings = contracts.unusual(loss_cls)
        loss = loss_cls(**settings, reduction="sum", name="mine")
        config = keras.saving.serialize_keras_object(loss)
        assert config["registered_name"] == f"recdistill>{loss_cls.__name__}"
        copy = keras.saving.deserialize_keras_object(config)
        assert type(copy) is loss_cls
        want = {**settings, "reduction": "sum", "name": "mine", "dtype": "float32"}
        assert copy.get_config() == loss.get_config() == want
        y_true = {"labels": labels, "mask": mask}
        np.testing.assert_allclose(copy(y_true, student), loss(y_true, student))

    def test_an_invalid_setting_raises_an_error_with_its_name_and_value(
        self, loss_cls, ragged_lists
    ):
        for name in contracts.settings_of(loss_cls):
            for value in contracts.BAD[name]:
                message = re.escape(f"Received: {name}={value}")
                with pytest.raises(ValueError, match=f"`{name}` must be .*{message}"):
                    loss_cls(**{name: value})
                with pytest.raises(ValueError, match=f"`{name}` must be .*{message}"):
                    function_of(loss_cls)(*ragged_lists, **{name: value})

    def test_different_shapes_raise_an_error(self, loss_cls, ragged_lists):
        labels, student, mask = ragged_lists
        with pytest.raises(ValueError, match="`student_scores` must have the shape"):
            function_of(loss_cls)(labels, student[:, :1], mask)
        with pytest.raises(ValueError, match="`student_scores` must have the shape"):
            loss_cls()({"labels": labels, "mask": mask}, student[:, :1])


@pytest.mark.parametrize(
    "loss_cls", [*filter(contracts.learns_from_teacher, contracts.list_losses())]
)
class TestEveryLossThatLearnsFromTheTeacher:
    @pytest.mark.slow
    def test_gradient_descent_finds_the_teachers_first_candidate(self, loss_cls):
        rng = np.random.default_rng(3)
        teacher = rng.permuted(np.tile(np.arange(6.0), (8, 1)), axis=1)
        student = tf.Variable(rng.normal(size=teacher.shape) * 0.1)
        loss = loss_cls(**({"k": 3} if contracts.cut_short(loss_cls) else {}))
        for _ in range(60):
            with tf.GradientTape() as tape:
                value = 8.0 * loss(teacher, student)
            student.assign_sub(tape.gradient(value, student))
        assert (student.numpy().argmax(axis=1) == teacher.argmax(axis=1)).all()

    def test_negative_teacher_scores_are_valid(self, loss_cls, ragged_lists):
        teacher, student, mask = ragged_lists
        function = function_of(loss_cls)
        got = function(teacher - 30.0, student, mask)
        want = contracts.reference_of(loss_cls)(teacher - 30.0, student, mask)
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
        if loss_cls.__name__ not in contracts.CHANGED_BY_SHIFT:
            want = function(teacher, student, mask)
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)

    def test_agreement_is_the_minimum_where_this_is_declared(
        self, loss_cls, ragged_lists
    ):
        teacher, _, mask = ragged_lists
        function, settings = function_of(loss_cls), contracts.cut_short(loss_cls)
        least, gradient = loss_and_gradient(
            function, teacher, teacher, mask, **settings
        )
        flat = np.allclose(gradient, 0.0, atol=1e-6)
        assert flat == (loss_cls.__name__ in contracts.MINIMUM_AT_TEACHER)
        rng = np.random.default_rng(1)
        if flat:
            for size in (0.1, 1.0, 10.0):
                step = rng.normal(0.0, size, teacher.shape).astype("float32")
                worse = function(teacher, teacher + step, mask, **settings).numpy()
                assert (worse >= least - 1e-6).all()
            assert worse.sum() > least.sum() + 0.01
