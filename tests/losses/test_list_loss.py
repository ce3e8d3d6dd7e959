"""list_loss: checks of settings, and losses that users derive from the base classes."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from recdistill.lists import masked_ops
from recdistill.losses import ListLoss, RelevanceListLoss, TemperedListLoss
from recdistill.losses.list_loss import check_settings
from tests import contracts


def hinge(labels, student_scores, mask, margin=1.0, item_weight=None):
    mask, weight, labels, scores = masked_ops.as_weighted_lists(
        mask, item_weight, labels=labels, student_scores=student_scores
    )
    return masked_ops.mean(ops.maximum(margin - labels * scores, 0.0), weight)


class Hinge(ListLoss):
    function = staticmethod(hinge)

    def __init__(self, margin=1.0, **kwargs):
        super().__init__(**kwargs)
        self.set_settings(margin=margin)


def test_a_derived_loss_needs_a_function_and_its_settings():
    loss = Hinge(margin=2.0)
    labels, scores = np.array([[1.0, -1.0]]), np.array([[0.5, 0.5]])
    assert float(loss(labels, scores)) == (1.5 + 2.5) / 2
    y_true = {"labels": labels, "mask": np.array([[True, False]])}
    assert float(loss(y_true, scores)) == 1.5
    assert loss.get_config()["margin"] == 2.0
    assert Hinge.from_config(loss.get_config()).margin == 2.0


def test_settings_of_one_object_do_not_change_the_class():
    Hinge()
    assert Hinge.settings == ListLoss.settings == ()
    assert TemperedListLoss().settings == ("temperature",)


def test_settings_are_checked_by_name():
    check_settings(k=None, from_probabilities=False, decay=0.5)
    with pytest.raises(ValueError, match="`k` must be a positive integer"):
        check_settings(k=0)
    with pytest.raises(
        ValueError, match=r"`decay` must be positive\. Received: decay=0"
    ):
        check_settings(decay=0)


def test_a_tensor_is_accepted_as_setting():
    check_settings(temperature=tf.constant(-1.0))


def test_a_loss_on_relevance_gives_lists_without_relevance_weight_zero():
    labels = np.array([[0.0, 1.0], [0.0, 0.0], [9.0, 0.0]])
    mask = np.array([[True, True], [True, True], [False, True]])
    got = RelevanceListLoss().list_weight(labels, mask)
    np.testing.assert_array_equal(got, [True, False, False])
    got = ListLoss().list_weight(labels, mask)
    np.testing.assert_array_equal(got, [True, True, True])


@pytest.mark.parametrize("loss_cls", contracts.all_losses())
def test_the_config_of_every_loss_has_its_dtype(loss_cls):
    loss = loss_cls(dtype="float64")
    assert loss.get_config()["dtype"] == "float64"
    assert loss_cls.from_config(loss.get_config()).dtype == "float64"
    older = {k: v for k, v in loss.get_config().items() if k != "dtype"}
    assert loss_cls.from_config(older).dtype == "float32"
