"""stratified: UnKD by hand, its strata, and its relation to the KL divergence."""

from math import exp, log

import numpy as np
import pytest
import tensorflow as tf

from recdistill import losses
from recdistill.distillation.distiller import Distiller
from tests import contracts
from tests import reference_losses as reference
from tests.contracts import loss_and_gradient

STRATUM = np.array([[0, 1, 1, 0, 1]] * 3 + [[1, 1, 0, 0, 0]] * 3)
"""Strata of `contracts.ragged_lists`; two of these have candidates of one only."""


@pytest.fixture
def ragged_lists():
    return contracts.ragged_lists(losses.StratifiedKLDivergence)


def test_unkd_by_hand():
    teacher = np.array([[log(3.0), 0.0, -5.0, -5.0, 7.0]], "float32")
    student = np.array([[0.0, 0.0, log(4.0), 0.0, -9.0]], "float32")
    stratum = np.array([[0, 0, 1, 1, 2]])
    got = losses.stratified_kl_divergence(
        teacher, student, np.ones((1, 5), bool), strata=3, stratum=stratum
    )
    popular = 3 / 4 * log((3 / 4) / (1 / 2)) + 1 / 4 * log((1 / 4) / (1 / 2))
    rare = 1 / 2 * log((1 / 2) / (4 / 5)) + 1 / 2 * log((1 / 2) / (1 / 5))
    np.testing.assert_allclose(got, [(popular + rare + 0.0) / 3], rtol=1e-6)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_a_plain_loop_over_strata_gives_the_same(ragged_lists, weighted, temperature):
    settings = {
        "temperature": temperature,
        "strata": 2,
        "stratum": STRATUM,
        "item_weight": contracts.item_weights() if weighted else None,
    }
    got = losses.stratified_kl_divergence(*ragged_lists, **settings)
    want = reference.stratified_kl_divergence(*ragged_lists, **settings)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_kl_is_a_part_between_strata_and_a_weighted_part_within_them(ragged_lists):
    teacher, student, mask = ragged_lists[0][:1], ragged_lists[1][:1], np.ones((1, 5))
    t, s = ([exp(each) for each in scores[0]] for scores in (teacher, student))
    whole = losses.listwise_kl_divergence(teacher, student, mask > 0)
    total = 0.0
    for number in (0, 1):
        inside = STRATUM[:1] == number
        of_teacher = sum(np.array(t)[inside[0]]) / sum(t)
        of_student = sum(np.array(s)[inside[0]]) / sum(s)
        within = losses.stratified_kl_divergence(teacher, student, inside)
        total += of_teacher * (log(of_teacher / of_student) + float(within[0]))
    np.testing.assert_allclose(whole, [total], rtol=1e-5)


@pytest.mark.parametrize("side", [0, 1])
def test_a_constant_added_to_one_stratum_changes_nothing(ragged_lists, side):
    moved = list(ragged_lists)
    moved[side] = moved[side] + 5.0 * (STRATUM == 1).astype("float32")
    function = losses.stratified_kl_divergence
    got = loss_and_gradient(function, *moved, strata=2, stratum=STRATUM)
    want = loss_and_gradient(function, *ragged_lists, strata=2, stratum=STRATUM)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-4, atol=1e-5)


def test_candidates_of_no_stratum_are_left_out(ragged_lists):
    teacher, student, mask = ragged_lists
    number = np.where(STRATUM == 1, -1, STRATUM)
    got = losses.stratified_kl_divergence(teacher, student, mask, stratum=number)
    want = losses.stratified_kl_divergence(teacher, student, mask & (STRATUM == 0))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_without_strata_it_is_the_kl_divergence(ragged_lists):
    got = losses.stratified_kl_divergence(*ragged_lists)
    want = losses.listwise_kl_divergence(*ragged_lists)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_all_lists_may_share_the_strata_of_their_candidates(ragged_lists):
    shared = STRATUM[0]
    each = np.broadcast_to(shared, STRATUM.shape)
    function = losses.stratified_kl_divergence
    np.testing.assert_array_equal(
        function(*ragged_lists, stratum=shared), function(*ragged_lists, stratum=each)
    )


@pytest.mark.parametrize("shape", [(4,), (6, 1), (6, 5, 1)])
def test_strata_of_another_shape_raise_an_error(ragged_lists, shape):
    with pytest.raises(ValueError, match=r"`stratum` must have shape.*Received: strat"):
        losses.stratified_kl_divergence(*ragged_lists, stratum=np.zeros(shape, int))


@pytest.mark.parametrize("compiled", [True, False])
def test_a_distiller_reads_the_strata_of_a_batch(ragged_lists, compiled):
    teacher, student, mask = ragged_lists
    loss = losses.StratifiedKLDivergence(strata=2)
    distiller = Distiller(
        None, _Scores(), distillation_losses=loss, student_loss_weight=0.0
    )
    x = {"mask": mask, "scores": student, "teacher_scores": teacher}
    step = tf.function(distiller.compute_loss, jit_compile=compiled)
    got = step({**x, "stratum": STRATUM})
    each = losses.stratified_kl_divergence(
        *ragged_lists, strata=2, stratum=STRATUM
    ).numpy()
    np.testing.assert_allclose(got, each.sum() / 5, rtol=1e-5)  # one list is empty
    with pytest.raises(ValueError, match="A batch needs the entry 'stratum'"):
        distiller.compute_loss(x)


class _Scores(tf.keras.Model):
    def call(self, x, training=None):
        return x["scores"]
