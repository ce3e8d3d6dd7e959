"""Losses on embeddings: by definition, by hand, and what must hold for each of them."""

import inspect
from math import e, log, sqrt

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill import losses
from recdistill.losses import (
    ContrastiveAlignment,
    HintMSE,
    RelationalAngle,
    RelationalDistance,
    RepresentationLoss,
)
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


@pytest.fixture
def rows():
    """Five lists of 5, 3, 2, 1 and 0 rows; junk under padding."""
    rng = np.random.default_rng(11)
    mask = np.arange(5) < np.array([5, 3, 2, 1, 0])[:, None]
    embeddings = rng.normal(size=(2, 5, 5, 4)).astype("float32")
    embeddings[:, ~mask] = 77.0
    weight = rng.uniform(0.5, 2.0, mask.shape).astype("float32")
    return *embeddings, mask, weight


def gradient(function, teacher, student, mask, weight=None):
    student = tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = tf.reduce_sum(function(teacher, student, mask, weight))
    return value.numpy(), tape.gradient(value, student).numpy()


@every_function
class TestEveryFunction:
    def test_it_is_its_definition_in_plain_loops(self, function, rows):
        want = getattr(reference, function.__name__)(*rows)
        np.testing.assert_allclose(function(*rows), want, rtol=1e-4, atol=1e-6)
        assert want[0] > 0.01

    def test_rows_weigh_the_same_if_nothing_is_said(self, function, rows):
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

    def test_weight_zero_is_removal(self, function, rows):
        teacher, student, mask, weight = rows
        weight[:, 1] = 0.0
        without = mask & (np.arange(5) != 1)
        np.testing.assert_allclose(
            function(teacher, student, mask, weight),
            function(teacher, student, without, weight),
            rtol=1e-5,
            atol=1e-7,
        )

    def test_only_ratios_of_weights_count(self, function, rows):
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
    def test_rows_in_one_place_have_a_finite_gradient(self, function, rows, together):
        teacher, student, mask, weight = rows
        student[:, 1:together] = student[:, :1]
        teacher[:, 1] = teacher[:, 0]
        value, slope = gradient(function, teacher, student, mask, weight)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()

    def test_gradient_is_the_slope(self, function, rows):
        teacher, student, mask, weight = (
            x.astype("float64") if x.dtype == "float32" else x for x in rows
        )
        value, slope = gradient(function, teacher, student, mask, weight)
        step = np.random.default_rng(2).normal(size=student.shape) * 1e-6
        up = gradient(function, teacher, student + step, mask, weight)[0]
        np.testing.assert_allclose(up - value, np.sum(slope * step), rtol=1e-3)

    def test_shapes_that_do_not_fit_are_named(self, function):
        good, mask = np.zeros((2, 3, 4), "float32"), np.ones((2, 3), bool)
        with pytest.raises(ValueError, match=r"`teacher_embeddings` must .*\(2, 3\)"):
            function(good[0], good, mask)
        with pytest.raises(ValueError, match=r"`student_embeddings` must"):
            function(good, good[:, :2], mask)
        with pytest.raises(ValueError, match="`mask` must be boolean"):
            function(good, good, mask.astype("float32"))


def test_a_student_equal_to_its_teacher_has_no_loss_and_no_slope(rows):
    teacher, _, mask, weight = rows
    for function in FUNCTIONS[:3]:
        value, slope = gradient(function, teacher, teacher, mask, weight)
        np.testing.assert_allclose(value, 0.0, atol=1e-6)
        np.testing.assert_allclose(slope, 0.0, atol=1e-4)


@pytest.mark.parametrize("function", FUNCTIONS[1:3], ids=lambda f: f.__name__)
def test_relations_survive_rotation_unit_origin_and_more_axes(function, rows):
    teacher, student, mask, weight = rows
    want = function(*rows)
    turn, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(6, 4)))
    moved = (5.0 * student @ turn.T + 3.0).astype("float32")
    np.testing.assert_allclose(
        function(teacher, moved, mask, weight), want, rtol=1e-3, atol=1e-5
    )


def test_lengths_do_not_matter_to_contrastive_alignment(rows):
    teacher, student, mask, weight = rows
    long = student * np.arange(1, 6, dtype="float32")[:, None]
    np.testing.assert_allclose(
        losses.contrastive_alignment(teacher, long, mask, weight),
        losses.contrastive_alignment(*rows),
        rtol=1e-4,
        atol=1e-6,
    )


def test_values_by_hand():
    mask = np.ones((1, 3), bool)
    line = np.array([[[0.0], [1.0], [3.0]]], "float32")
    even = np.array([[[0.0], [10.0], [20.0]]], "float32")
    # Distances over their means: (1/2, 1, 3/2) and (3/4, 3/4, 3/2).
    assert float(losses.relational_distance(line, even, mask)[0]) == pytest.approx(
        2 * (1 / 4) ** 2 / 2 / 3
    )
    corner = np.array([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]], "float32")
    flat = np.array([[[0.0], [1.0], [-1.0]]], "float32")
    # Cosines 0, sqrt(1/2), sqrt(1/2) against -1, 1, 1.
    assert float(losses.relational_angle(corner, flat, mask)[0]) == pytest.approx(
        (1 / 2 + 2 * (1 - sqrt(1 / 2)) ** 2 / 2) / 3
    )
    # The other way around a gap beyond 1 is charged by its size: cosines 1 and -1.
    turned = np.array([[[0.0], [1.0], [2.0]]], "float32")
    assert float(losses.relational_angle(turned, flat, mask)[0]) == pytest.approx(
        (2 - 1 / 2 + 2 - 1 / 2 + 0) / 3
    )
    pair, both = np.eye(2, dtype="float32")[None], np.ones((1, 2), bool)
    for temperature, want in {1.0: log((e + 1) / e), 0.5: log(1 + e**-2)}.items():
        got = losses.contrastive_alignment(pair, pair, both, temperature=temperature)
        assert float(got[0]) == pytest.approx(want, rel=1e-5)
    assert float(losses.hint_mse(pair, 0 * pair, both)[0]) == pytest.approx(1 / 2)


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

    def test_lists_of_candidates_are_averaged_by_weight_without_padding(
        self, cls, rows
    ):
        teacher, student, mask, _ = rows
        per_list = cls().compare(teacher, student, mask, np.ones(mask.shape, "float32"))
        weight = np.array([1.0, 2.0, 0.0, 3.0, 9.0], "float32")
        got = cls()({"labels": teacher, "mask": mask}, student, weight)
        # The last list has no row, so its weight of 9 does not count.
        want = np.dot(per_list[:4], weight[:4]) / 6.0
        np.testing.assert_allclose(got, want, rtol=1e-5)

    def test_weights_of_candidates_reach_the_rows(self, cls, rows):
        teacher, student, mask, weight = rows
        per_list = cls().compare(teacher, student, mask, weight)
        got = cls()({"labels": teacher, "mask": mask}, student, weight)
        np.testing.assert_allclose(got, np.sum(per_list) / 4, rtol=1e-5)

    def test_a_batch_of_padding_is_zero(self, cls, rows):
        teacher, student, mask, _ = rows
        y_true = {"labels": teacher, "mask": np.zeros_like(mask)}
        assert float(cls()(y_true, student)) == 0.0
        y_true = {"labels": teacher[0], "mask": np.zeros_like(mask)}
        assert float(cls()(y_true, student[0])) == 0.0

    def test_config_round_trip(self, cls):
        loss = cls("tower/hidden_0", "stored", reduction="sum", name="mine")
        copy = keras.losses.deserialize(keras.losses.serialize(loss))
        assert type(copy) is cls
        assert copy.get_config() == loss.get_config()
        assert (copy.student_output, copy.teacher_output) == (
            "tower/hidden_0",
            "stored",
        )

    def test_ranks_that_differ_are_named(self, cls):
        with pytest.raises(ValueError, match=r"Embeddings must be .*\(2, 3\).*\(3,\)"):
            cls()(np.zeros((2, 3), "float32"), np.zeros(3, "float32"))

    def test_it_works_inside_feature_distillation_of_keras(self, cls, rows):
        teacher, student, _, _ = rows
        theirs = keras.distillation.FeatureDistillation(loss=cls())
        np.testing.assert_allclose(
            theirs.compute_loss(tf.constant(teacher[0]), tf.constant(student[0])),
            cls()(teacher[0], student[0]),
            rtol=1e-6,
        )


def test_candidates_that_lists_share_give_the_hint_of_lists_apart(rows):
    teacher, student, mask, weight = rows
    loss, list_weight = HintMSE(), weight[:, 0]
    many = [np.tile(x[:1], (5, 1, 1)) for x in (teacher, student)]
    for each in (list_weight, weight, None):
        want = loss({"labels": many[0], "mask": mask}, many[1], each)
        got = loss({"labels": teacher[:1], "mask": mask}, student[:1], each)
        np.testing.assert_allclose(got, want, rtol=1e-5)
    # One side may have them per list, and the other shared.
    mixed = loss({"labels": teacher, "mask": mask}, student[:1])
    np.testing.assert_allclose(
        mixed, loss({"labels": teacher, "mask": mask}, many[1]), rtol=1e-6
    )


def test_shared_candidates_are_compared_as_one_list(rows):
    teacher, student, _, _ = rows
    mask = np.array(
        [[True, True, True, False, False], [False, True, True, True, False]]
    )
    got = RelationalDistance()({"labels": teacher[:1], "mask": mask}, student[:1])
    count = np.array([[1 / 3, 2 / 3, 2 / 3, 1 / 3, 0.0]], "float32")
    real = np.array([[True, True, True, True, False]])
    want = losses.relational_distance(teacher[:1], student[:1], real, count)[0]
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("cls", [RelationalDistance, RelationalAngle])
def test_only_the_first_rows_are_compared(cls, rows):
    teacher, student, mask, _ = rows
    got = cls(rows=3)({"labels": teacher, "mask": mask}, student)
    want = cls()({"labels": teacher[:, :3], "mask": mask[:, :3]}, student[:, :3])
    np.testing.assert_allclose(got, want, rtol=1e-6)
    with pytest.raises(
        ValueError, match=r"`rows` must be at least 2\. Received: rows=1"
    ):
        cls(rows=1)


@pytest.mark.parametrize("cls", [HintMSE, ContrastiveAlignment])
def test_widths_that_differ_ask_for_a_projection(cls):
    with pytest.raises(ValueError, match=r"projection=True.* 2 for the student and 3"):
        cls()(np.ones((4, 3), "float32"), np.ones((4, 2), "float32"))


def test_a_bad_temperature_is_named():
    with pytest.raises(ValueError, match="temperature=-1"):
        ContrastiveAlignment(temperature=-1.0)
    assert ContrastiveAlignment(temperature=0.3).get_config()["temperature"] == 0.3
