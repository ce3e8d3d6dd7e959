"""soft_targets: what is configured is done; what is left open, the doctor decides."""

from typing import get_args

import numpy as np
import pytest

from recdistill import losses
from recdistill.distillation.score_doctor import examine
from recdistill.errors import ConfigError
from recdistill.pipeline.config import DistillationLoss, DistillConfig
from recdistill.pipeline.soft_targets import choose, distillation_losses
from tests import contracts

RNG = np.random.default_rng(7)
MASK = np.ones((30, 200), bool)
WELL = examine(RNG.normal(size=MASK.shape), MASK)
HEAVY = examine(np.exp(3 * RNG.normal(size=MASK.shape)), MASK)
CONSTANT = examine(np.zeros(MASK.shape), MASK)


FIXED = DistillConfig(scores="z_score", temperature=1.0)


def test_the_defaults_follow_the_doctor():
    chosen = choose(DistillConfig(), HEAVY)
    assert (chosen.transform, chosen.unit) == ("log", HEAVY.proposal.temperature)
    assert chosen.part.chosen_by == "doctor"


def test_a_configured_choice_does_not_depend_on_the_doctor():
    chosen = choose(FIXED, HEAVY)
    assert (chosen.transform, chosen.unit, chosen.temperature) == ("z_score", 1.0, 1.0)
    assert chosen.part.chosen_by == "configuration"
    assert chosen.part.temperature == 1.0
    assert chosen.part.effective == pytest.approx(HEAVY.effective["z_score"]["1"])
    assert chosen.part.list_size == 200


def test_configured_values_are_used_as_they_are():
    chosen = choose(DistillConfig(scores="rank", temperature=0.5), HEAVY)
    assert (chosen.transform, chosen.unit, chosen.temperature) == ("rank", 1.0, 0.5)


@pytest.mark.parametrize("found", [WELL, HEAVY])
def test_what_is_left_open_follows_the_proposal(found):
    chosen = choose(DistillConfig(scores="auto", temperature="auto"), found)
    assert chosen.transform == found.proposal.transform
    # The teacher's scores are divided; the loss stays at 1.
    assert (chosen.unit, chosen.temperature) == (found.proposal.temperature, 1.0)
    assert chosen.warning is None
    assert chosen.part.chosen_by == "doctor"
    assert chosen.part.reason == found.proposal.reason
    assert chosen.part.effective == found.proposal.effective


def test_either_alone_can_be_left_open():
    chosen = choose(DistillConfig(scores="auto", temperature=2.0), HEAVY)
    assert (chosen.transform, chosen.unit, chosen.temperature) == ("log", 1.0, 2.0)
    assert chosen.part.temperature == 2.0
    chosen = choose(DistillConfig(scores="rank", temperature="auto"), HEAVY)
    assert chosen.transform == "rank"
    assert chosen.unit == HEAVY.temperature_for("rank") != 1.0
    assert chosen.part.chosen_by == "doctor"


def test_a_bad_choice_is_warned_of():
    assert (
        "nearly uniform"
        in choose(FIXED.model_copy(update={"temperature": 9.0}), WELL).warning
    )
    sharp = choose(FIXED.model_copy(update={"temperature": 0.1}), HEAVY)
    assert "nearly one-hot" in sharp.warning


def test_where_nothing_can_be_told_all_stays_as_it_is():
    chosen = choose(DistillConfig(scores="auto", temperature="auto"), CONSTANT)
    assert (chosen.transform, chosen.unit, chosen.temperature) == ("z_score", 1.0, 1.0)
    assert chosen.warning is None
    assert chosen.part.effective is None


class TestDistillationLosses:
    def test_one_loss_has_the_temperature_and_all_of_the_weight(self):
        terms, shares = distillation_losses(DistillConfig(weight=0.6), 2.5)
        assert [type(term) for term in terms] == [losses.ListwiseKLDivergence]
        assert terms[0].temperature == 2.5 and shares == [0.6]

    def test_several_share_the_weight_and_have_their_own_options(self):
        config = DistillConfig(
            weight=0.8,
            loss=[
                {"name": "ListwiseKLDivergence", "weight": 3.0},
                {"name": "TopKRelaxedRanking", "options": {"k": 7, "temperature": 0.5}},
            ],
        )
        terms, shares = distillation_losses(config, 2.0)
        assert terms[0].temperature == 2.0
        assert (terms[1].k, terms[1].temperature) == (7, 0.5)
        np.testing.assert_allclose(shares, [0.6, 0.2])

    @pytest.mark.parametrize("options", [{"kk": 3}, {"k": 0}])
    def test_an_option_that_does_not_fit_names_the_loss(self, options):
        term = {"name": "TopKRelaxedRanking", "options": options}
        with pytest.raises(ConfigError, match=r"TopKRelaxedRanking.*options=\{'k"):
            distillation_losses(DistillConfig(loss=[term]), 1.0)

    @pytest.mark.parametrize("name", get_args(DistillationLoss))
    def test_every_name_is_a_loss_that_learns_from_a_teacher(self, name):
        terms, _ = distillation_losses(DistillConfig(loss=name), 1.0)
        assert contracts.learns_from_teacher(type(terms[0]))

    def test_every_loss_that_learns_from_a_teacher_has_its_name(self):
        classes = filter(contracts.learns_from_teacher, contracts.list_losses())
        assert {cls.__name__ for cls in classes} == set(get_args(DistillationLoss))
