"""teachers: an ensemble is the weighted sum of its members' z-scores."""

from math import sqrt
from typing import get_args

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill.distillation.score_transforms import TRANSFORMS
from recdistill.models.ensemble import EnsembleTeacher
from recdistill.pipeline.config.teacher_section import EnsembleTeacherConfig
from recdistill.pipeline.scorers import compiled


class Stored(keras.Model):
    """A teacher that reads its scores from the batch, and notes how it was called."""

    def __init__(self, key):
        super().__init__()
        self.key, self.calls = key, []

    def call(self, batch, training=None):
        self.calls.append(training)
        return batch[self.key]


class Learnt(keras.Model):
    """A teacher with a weight."""

    def __init__(self):
        super().__init__()
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")

    def call(self, batch, training=None):
        return self.scale * batch["one"]


def batch():
    return {
        "one": tf.constant([[1.0, 3.0, 99.0], [0.0, 0.0, 3.0], [5.0, 5.0, 5.0]]),
        "other": tf.constant([[-2.0, -8.0, -99.0], [9.0, 6.0, 3.0], [0.0, 1.0, 7.0]]),
        "mask": tf.constant([[True, True, False], [True] * 3, [True, True, False]]),
    }


def test_the_sum_of_z_scores_by_hand():
    got = EnsembleTeacher([Stored("one"), Stored("other")])(batch())
    # One: (-1, 1), (-1, -1, 2) / √2 and no spread. Other: (1, -1), (3, 0, -3) / √6
    # and (-1, 1). Under padding 0.
    want = [
        [-1 + 1, 1 - 1, 0.0],
        [-1 / sqrt(2) + 3 / sqrt(6), -1 / sqrt(2), 2 / sqrt(2) - 3 / sqrt(6)],
        [-1.0, 1.0, 0.0],
    ]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_weights_say_how_much_each_member_counts():
    one, other = Stored("one"), Stored("other")
    got = EnsembleTeacher([one, other], weights=[2.0, 0.5])(batch())
    alone = [EnsembleTeacher([member])(batch()) for member in (one, other)]
    np.testing.assert_allclose(got, 2.0 * alone[0] + 0.5 * alone[1], rtol=1e-6)


def test_scores_under_padding_are_not_read():
    teacher = EnsembleTeacher([Stored("one"), Stored("other")])
    given = batch()
    want = teacher(given).numpy()
    for garbage in (1e30, -7.0, np.nan):
        for key in ("one", "other"):
            given[key] = tf.where(given["mask"], given[key], garbage)
        np.testing.assert_array_equal(teacher(given), want)


def test_the_unit_and_origin_of_a_member_do_not_matter():
    given = batch()
    teacher = EnsembleTeacher([Stored("one"), Stored("other")])
    want = teacher(given).numpy()
    given["one"] = 1000.0 * given["one"] - 4.0
    np.testing.assert_allclose(teacher(given), want, rtol=1e-4, atol=1e-5)


def test_members_are_told_whether_it_is_training():
    member = Stored("one")
    teacher = EnsembleTeacher([member])
    teacher(batch())
    member.calls.clear()
    teacher(batch(), training=True)
    teacher(batch(), training=False)
    assert member.calls == [True, False]


def test_the_weights_of_its_members_are_its_own():
    teacher = EnsembleTeacher([Learnt(), Stored("other"), Learnt()])
    teacher(batch())
    assert len(teacher.trainable_variables) == 2


@pytest.mark.parametrize(
    "members, weights, received",
    [
        (0, None, "0 members, 0 weights"),
        (0, [1.0], "0 members, 1 weights"),
        (2, [1.0], "2 members, 1 weights"),
        (1, [], "1 members, 0 weights"),
    ],
)
def test_weights_that_do_not_match_the_members_are_refused(members, weights, received):
    with pytest.raises(ValueError, match=f"one entry for each. Received: {received}"):
        EnsembleTeacher([Stored("one") for _ in range(members)], weights)


def test_scores_of_one_scale_can_be_added_as_they_are():
    given = batch()
    got = EnsembleTeacher([Stored("one"), Stored("other")], [1.0, 2.0], "none")(given)
    want = np.where(given["mask"], given["one"] + 2.0 * given["other"], 0.0)
    np.testing.assert_allclose(got, want)


def test_a_teacher_from_outside_joins_ours():
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
    assert set(get_args(config)) == set(TRANSFORMS)
