"""Soft targets: configured values are used, and `auto` is the doctor's proposal."""

from typing import get_args

import numpy as np
import pytest

from recdistill import losses
from recdistill.distillation.schedules import value_at
from recdistill.distillation.score_doctor import examine
from recdistill.errors import ConfigError
from recdistill.pipeline.config import DistillationLoss, DistillConfig
from recdistill.pipeline.training.soft_targets import (
    choose,
    distillation_losses,
    distiller_arguments,
    number_of_strata,
)
from tests import contracts

RNG = np.random.default_rng(7)
MASK = np.ones((30, 200), bool)
WELL = examine(RNG.normal(size=MASK.shape), MASK)
HEAVY = examine(np.exp(3 * RNG.normal(size=MASK.shape)), MASK)
CONSTANT = examine(np.zeros(MASK.shape), MASK)


FIXED = DistillConfig(scores="z_score", teacher_temperature=1.0)


def test_defaults_are_the_proposal_of_the_doctor():
    chosen = choose(DistillConfig(), HEAVY)
    assert (chosen.transform, chosen.teacher_temperature) == (
        "log",
        HEAVY.proposal.temperature,
    )
    assert chosen.part.chosen_by == "doctor"


def test_a_configured_choice_does_not_depend_on_the_doctor():
    chosen = choose(FIXED, HEAVY)
    assert (chosen.transform, chosen.teacher_temperature) == ("z_score", 1.0)
    assert chosen.part.chosen_by == "configuration"
    assert (chosen.part.teacher_temperature, chosen.part.temperature) == (1.0, 1.0)
    assert chosen.part.effective == pytest.approx(HEAVY.effective["z_score"]["1"])
    assert chosen.part.list_size == 200


def test_configured_values_are_used_unchanged():
    config = DistillConfig(scores="rank", teacher_temperature=0.5, temperature=2.0)
    chosen = choose(config, HEAVY)
    assert (chosen.transform, chosen.teacher_temperature) == ("rank", 0.5)
    assert (chosen.part.teacher_temperature, chosen.part.temperature) == (0.5, 2.0)


@pytest.mark.parametrize("found", [WELL, HEAVY])
def test_auto_is_the_proposal(found):
    chosen = choose(DistillConfig(), found)
    assert chosen.transform == found.proposal.transform
    # Only the teacher's scores are divided; the temperature of the loss is 1.
    assert chosen.teacher_temperature == found.proposal.temperature
    assert chosen.part.temperature == 1.0
    assert chosen.warning is None
    assert chosen.part.chosen_by == "doctor"
    assert chosen.part.reason == found.proposal.reason
    assert chosen.part.effective == found.proposal.effective


def test_transform_and_teacher_temperature_can_be_automatic_separately():
    chosen = choose(DistillConfig(scores="auto", teacher_temperature=2.0), HEAVY)
    assert (chosen.transform, chosen.teacher_temperature) == ("log", 2.0)
    chosen = choose(DistillConfig(scores="rank"), HEAVY)
    assert chosen.transform == "rank"
    assert chosen.teacher_temperature == HEAVY.temperature_for("rank") != 1.0
    assert chosen.part.chosen_by == "doctor"


def test_the_temperature_of_the_loss_softens_the_targets_once_more():
    fixed = FIXED.model_copy(update={"teacher_temperature": 4.0})
    both = FIXED.model_copy(update={"teacher_temperature": 2.0, "temperature": 2.0})
    effective = HEAVY.effective["z_score"]["4"]
    for config in (fixed, both):
        assert choose(config, HEAVY).part.effective == pytest.approx(effective)


def test_targets_that_are_too_soft_or_too_sharp_give_a_warning():
    assert (
        "nearly uniform"
        in choose(FIXED.model_copy(update={"teacher_temperature": 9.0}), WELL).warning
    )
    sharp = choose(FIXED.model_copy(update={"teacher_temperature": 0.1}), HEAVY)
    assert "nearly one-hot" in sharp.warning


def test_constant_scores_are_left_at_temperature_1():
    chosen = choose(DistillConfig(), CONSTANT)
    assert (chosen.transform, chosen.teacher_temperature) == ("z_score", 1.0)
    assert chosen.warning is None
    assert chosen.part.effective is None


class TestDistillationLosses:
    def test_one_loss_has_the_temperature_and_all_of_the_weight(self):
        terms, shares = distillation_losses(DistillConfig(weight=0.6, temperature=2.5))
        assert [type(term) for term in terms] == [losses.ListwiseKLDivergence]
        assert terms[0].temperature == 2.5 and shares == [0.6]

    def test_several_share_the_weight_and_have_their_own_options(self):
        config = DistillConfig(
            weight=0.8,
            temperature=2.0,
            loss=[
                {"name": "ListwiseKLDivergence", "weight": 3.0},
                {"name": "TopKRelaxedRanking", "options": {"k": 7, "temperature": 0.5}},
            ],
        )
        terms, shares = distillation_losses(config)
        assert terms[0].temperature == 2.0
        assert (terms[1].k, terms[1].temperature) == (7, 0.5)
        np.testing.assert_allclose(shares, [0.6, 0.2])

    @pytest.mark.parametrize("options", [{"kk": 3}, {"k": 0}])
    def test_an_option_that_does_not_fit_names_the_loss(self, options):
        term = {"name": "TopKRelaxedRanking", "options": options}
        with pytest.raises(ConfigError, match=r"TopKRelaxedRanking.*options=\{'k"):
            distillation_losses(DistillConfig(loss=[term]))

    def test_weights_and_temperatures_can_stay_the_same(self):
        config = DistillConfig(weight=0.8, final_weight=0.8, temperature=2.0)
        found = distiller_arguments(config, 100)
        assert found["distillation_loss_weights"] == [0.8]
        assert found["student_loss_weight"] == pytest.approx(0.2)
        assert found["distillation_losses"][0].temperature == 2.0
        assert "temperatures" not in found

    def test_by_default_the_weight_falls_to_its_half_unless_it_is_1(self):
        found = distiller_arguments(DistillConfig(weight=0.6), steps=100)
        (weight,) = found["distillation_loss_weights"]
        relevance = found["student_loss_weight"]
        assert [float(value_at(weight, k)) for k in (0, 100)] == pytest.approx(
            [0.6, 0.3]
        )
        assert float(value_at(relevance, 100)) == pytest.approx(0.7)
        alone = distiller_arguments(DistillConfig(weight=1.0), steps=100)
        assert alone["distillation_loss_weights"] == [1.0]
        assert alone["student_loss_weight"] == 0.0

    def test_weights_and_temperatures_change_linearly_over_the_steps(self):
        config = DistillConfig(
            weight=0.8,
            final_weight=0.4,
            temperature=4.0,
            final_temperature=1.0,
            loss=[
                {"name": "ListwiseKLDivergence", "weight": 3.0},
                {"name": "PairwiseMarginMSE"},
            ],
        )
        found = distiller_arguments(config, steps=100)
        weights, (temperature, none) = (
            found["distillation_loss_weights"],
            found["temperatures"],
        )
        for step, weight, heat in [(0, 0.8, 4.0), (50, 0.6, 2.5), (200, 0.4, 1.0)]:
            shares = [float(value_at(each, step)) for each in weights]
            want = [0.75 * weight, 0.25 * weight]
            np.testing.assert_allclose(shares, want, rtol=1e-6)
            relevance = value_at(found["student_loss_weight"], step)
            assert float(relevance) == pytest.approx(1.0 - weight)
            assert float(value_at(temperature, step)) == pytest.approx(heat)
        assert none is None

    def test_losses_with_strata_must_have_the_same_number_of_them(self):
        def found(*options):
            loss = [{"name": "StratifiedKLDivergence", "options": o} for o in options]
            return number_of_strata(distillation_losses(DistillConfig(loss=loss))[0])

        assert number_of_strata(distillation_losses(DistillConfig())[0]) is None
        assert found({}) == 4
        assert found({"strata": 3}, {"strata": 3, "temperature": 2.0}) == 3
        with pytest.raises(ConfigError, match=r"same number. Received: \[3, 4\]"):
            found({}, {"strata": 3})

    @pytest.mark.parametrize("name", get_args(DistillationLoss))
    def test_every_name_is_a_loss_that_learns_from_a_teacher(self, name):
        terms, _ = distillation_losses(DistillConfig(loss=name))
        assert contracts.learns_from_teacher(type(terms[0]))

    def test_every_loss_that_learns_from_a_teacher_has_its_name(self):
        classes = filter(contracts.learns_from_teacher, contracts.list_losses())
        assert {cls.__name__ for cls in classes} == set(get_args(DistillationLoss))
