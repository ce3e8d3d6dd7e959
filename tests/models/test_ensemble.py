"""EnsembleTeacher: the weighted mean of its members' z-scores."""

from math import sqrt
from typing import get_args

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill.distillation.score_transforms import TRANSFORMS
from recdistill.models.ensemble import EnsembleTeacher
from recdistill.pipeline.config.teacher_section import EnsembleTeacherConfig
from recdistill.pipeline.models.scorers import compiled


@keras.saving.register_keras_serializable(package="tests")
class Stored(keras.Model):
    """A teacher that reads its scores from the batch and records its calls."""

    def __init__(self, key, **kwargs):
        super().__init__(**kwargs)
        self.key, self.calls = key, []

    def get_config(self):
        return {**super().get_config(), "key": self.key}

    def call(self, batch, training=None):
        self.calls.append(training)
        return batch[self.key]


@keras.saving.register_keras_serializable(package="tests")
class Learned(keras.Model):
    """A teacher with a variable."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")

    def call(self, batch, training=None):
        return self.scale * batch["one"]


def batch():
    return {
        "one": tf.constant([[1.0, 3.0, 99.0], [0.0, 0.0, 3.0], [5.0, 5.0, 5.0]]),
        "other": tf.constant([[-2.0, -8.0, -99.0], [9.0, 6.0, 3.0], [0.0, 1.0, 7.0]]),
        "mask": tf.constant([[True, True, False], [True] * 3, [True, True, False]]),
    }


def test_the_mean_of_z_scores_by_hand():
    got = EnsembleTeacher([Stored("one"), Stored("other")])(batch())
    # One: (-1, 1), (-1, -1, 2) / √2 and 0 for equal scores. Other: (1, -1),
    # (3, 0, -3) / √6 and (-1, 1). Under padding 0. Each counts half.
    want = [
        [(-1 + 1) / 2, (1 - 1) / 2, 0.0],
        [
            (-1 / sqrt(2) + 3 / sqrt(6)) / 2,
            -1 / sqrt(2) / 2,
            (2 / sqrt(2) - 3 / sqrt(6)) / 2,
        ],
        [-1 / 2, 1 / 2, 0.0],
    ]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_weights_say_how_much_each_member_counts():
    one, other = Stored("one"), Stored("other")
    got = EnsembleTeacher([one, other], weights=[2.0, 0.5])(batch())
    alone = [EnsembleTeacher([member])(batch()) for member in (one, other)]
    np.testing.assert_allclose(got, 0.8 * alone[0] + 0.2 * alone[1], rtol=1e-6)


def test_only_ratios_of_weights_matter():
    members = [Stored("one"), Stored("other")]
    want = EnsembleTeacher(members, [2.0, 0.5])(batch())
    np.testing.assert_array_equal(EnsembleTeacher(members, [8.0, 2.0])(batch()), want)
    assert EnsembleTeacher(members, [3.0, 1.0]).member_weights == (0.75, 0.25)
    assert EnsembleTeacher(members).member_weights == (0.5, 0.5)


def test_scores_under_padding_are_not_read():
    teacher = EnsembleTeacher([Stored("one"), Stored("other")])
    given = batch()
    want = teacher(given).numpy()
    for garbage in (1e30, -7.0, np.nan):
        for key in ("one", "other"):
            given[key] = tf.where(given["mask"], given[key], garbage)
        np.testing.assert_array_equal(teacher(given), want)


def test_scale_and_offset_of_a_member_do_not_matter():
    given = batch()
    teacher = EnsembleTeacher([Stored("one"), Stored("other")])
    want = teacher(given).numpy()
    given["one"] = 1000.0 * given["one"] - 4.0
    np.testing.assert_allclose(teacher(given), want, rtol=1e-4, atol=1e-5)


def test_members_receive_the_training_flag():
    member = Stored("one")
    teacher = EnsembleTeacher([member])
    teacher(batch())
    member.calls.clear()
    teacher(batch(), training=True)
    teacher(batch(), training=False)
    assert member.calls == [True, False]


def test_it_contains_the_variables_of_its_members():
    teacher = EnsembleTeacher([Learned(), Stored("other"), Learned()])
    teacher(batch())
    assert len(teacher.trainable_variables) == 2


@pytest.mark.parametrize(
    "members, weights, message",
    [
        (0, None, r"weights=\[\] for the teachers \[\]"),
        (0, [1.0], r"one weight for each teacher. Received: weights=\[1.0\]"),
        (2, [1.0], r"weights=\[1.0\] for the teachers \['0', '1'\]"),
        (1, [], r"weights=\[\] for the teachers \['0'\]"),
        (2, [1.0, -1.0], r"at least 0 and not all 0. Received: weights=\[1.0, -1.0\]"),
        (2, [0.0, 0.0], r"not all 0. Received: weights=\[0.0, 0.0\]"),
    ],
)
def test_weights_that_do_not_fit_the_members_are_refused(members, weights, message):
    with pytest.raises(ValueError, match=message):
        EnsembleTeacher([Stored("one") for _ in range(members)], weights)


def test_without_a_transform_it_is_the_weighted_mean_of_the_scores():
    given = batch()
    got = EnsembleTeacher([Stored("one"), Stored("other")], [1.0, 2.0], "none")(given)
    want = np.where(given["mask"], (given["one"] + 2.0 * given["other"]) / 3.0, 0.0)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_member_may_be_any_function():
    class Outside:
        def __call__(self, batch, training=False):
            assert isinstance(batch["raw"], str)
            return np.asarray(batch["other"])

    given = batch()
    mixed = EnsembleTeacher([Stored("one"), Outside()], [2.0, 0.5])
    ours = EnsembleTeacher([Stored("one"), Stored("other")], [2.0, 0.5])
    got = compiled(mixed)({**given, "raw": "for the other alone"})
    np.testing.assert_allclose(got, compiled(ours)(given), rtol=1e-6)
    assert isinstance(mixed.members[0].calls[0], bool)


def test_every_transform_can_be_configured():
    config = EnsembleTeacherConfig.model_fields["normalize"].annotation
    assert set(get_args(config)) == {"scale", *TRANSFORMS}


def test_a_saved_ensemble_gives_the_same_scores(tmp_path):
    teacher = EnsembleTeacher([Learned(), Stored("other")], [3.0, 1.0], "rank")
    teacher(batch())
    teacher.members[0].scale.assign(-2.0)
    want = teacher(batch()).numpy()
    teacher.save(tmp_path / "teacher.keras")
    loaded = keras.models.load_model(tmp_path / "teacher.keras")
    assert loaded.member_weights == (0.75, 0.25)
    assert loaded.normalize == "rank"
    np.testing.assert_array_equal(loaded(batch()), want)


def test_a_clone_has_the_members_the_weights_and_the_name():
    teacher = EnsembleTeacher([Stored("one"), Stored("other")], [1.0, 4.0], name="both")
    clone = keras.models.clone_model(teacher)
    assert (clone.member_weights, clone.name) == ((0.2, 0.8), "both")
    np.testing.assert_array_equal(clone(batch()), teacher(batch()))


def functional():
    """A model whose inputs are neither the first nor the only entries of a batch."""
    other, one = keras.Input((3,), name="other"), keras.Input((3,), name="one")
    return keras.Model({"other": other, "one": one}, 2.0 * one - other)


def test_a_functional_member_receives_the_inputs_that_it_declares():
    given = {"a": tf.constant([7.0, 8.0, 9.0]), **batch()}
    both = EnsembleTeacher([functional(), Stored("one")], normalize="none")
    want = np.where(given["mask"], 1.5 * given["one"] - 0.5 * given["other"], 0.0)
    np.testing.assert_allclose(both(given), want, rtol=1e-6)
    with pytest.raises(ValueError, match=r"the inputs of the model, .*'other'"):
        both({name: each for name, each in given.items() if name != "other"})


def test_a_member_that_returns_something_else_than_scores_is_refused():
    for answer, received in (
        ({"scores": tf.zeros((3, 3))}, r"a dict with the keys \['scores'\]"),
        (tf.zeros((3, 3, 1)), r"the shape \(3, 3, 1\)"),
    ):
        teacher = EnsembleTeacher([lambda x, training, a=answer: a])
        with pytest.raises(ValueError, match=f"return the scores.*{received}"):
            teacher(batch())


def test_members_receive_the_batch_in_its_own_precision():
    seen = []

    def member(x, training):
        seen.append(x["one"].dtype)
        return tf.cast(x["other"], tf.float16)

    weight = tf.constant([[1.0, 2.0, 1.0]] * 3)
    given = {**batch(), "item_weight": weight}
    got = EnsembleTeacher([member], dtype="mixed_float16")(given)
    assert seen == [tf.float32]
    want = EnsembleTeacher([Stored("other")])(given)
    np.testing.assert_allclose(got, want, atol=2e-3)
