"""score_doctor: statistics, problems found, and that its proposal works."""

import json
from functools import cache
from math import exp, log

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill.distillation import score_doctor
from recdistill.distillation.score_doctor import (
    TARGET,
    Examination,
    examine,
)
from recdistill.distillation.score_transforms import TRANSFORMS, transformed
from recdistill.losses import listwise_kl_divergence
from recdistill.metrics.agreement import overlap
from recdistill.pipeline.config import DistillConfig
from recdistill.pipeline.training.soft_targets import choose
from tests.reference_scores import REFERENCE, effective

pytestmark = pytest.mark.slow

QUERIES, ITEMS = 150, 300


def everywhere(scores):
    return np.ones(np.shape(scores), bool)


def normal(lists=40, size=400, seed=0):
    return np.random.default_rng(seed).normal(size=(lists, size))


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


class TestMeasures:
    # The second list has three real candidates, all equal.
    scores = np.array([[3.0, 1.0, 1.0, -1.0], [2.0, 2.0, 2.0, np.nan]])
    mask = np.array([[True] * 4, [True] * 3 + [False]])

    def test_they_match_values_derived_by_hand(self):
        found = examine(self.scores, self.mask)
        assert (found.lists, found.list_size) == (2, 3.5)
        assert (found.low, found.high) == (-1.0, 3.0)
        assert found.not_finite == 0
        assert found.constant == 1 / 2
        assert found.ties == found.top_ties == 1 / 3
        assert (found.at_lowest, found.at_highest) == (1 / 7, 1 / 7)
        # Of the first list alone: mean 1, variance (4 + 0 + 0 + 4) / 4.
        assert found.deviations == pytest.approx([2**0.5] * 3)
        assert found.z_at_rank == {"1": pytest.approx(2**0.5)}
        # The fourth powers of z are 4, 0, 0, 4: their mean is 2.
        assert found.kurtosis == pytest.approx(2 - 3)

    def test_effective_candidates_are_a_geometric_mean_over_the_lists_that_vary(self):
        rng = np.random.default_rng(3)
        scores, mask = rng.normal(size=(20, 30)), rng.random((20, 30)) < 0.8
        found = examine(scores, mask)
        for transform in TRANSFORMS:
            shown = REFERENCE[transform](scores, mask)
            for temperature in (0.5, 2.0):
                numbers = effective(shown, mask, temperature)
                want = exp(sum(map(log, numbers)) / len(numbers))
                got = found.effective[transform][f"{temperature:g}"]
                assert got == pytest.approx(want, rel=1e-5), transform

    def test_scores_that_are_not_finite_are_counted_and_ignored(self):
        scores = normal()
        clean = examine(scores[:, 3:], everywhere(scores[:, 3:]))
        scores[:, 0], scores[:, 1], scores[:2, 2] = np.nan, np.inf, -np.inf
        mask = everywhere(scores)
        mask[2:, 2] = False
        found = examine(scores, mask)
        assert found.not_finite == 40 + 40 + 2
        assert found.findings == (
            "82 scores are NaN or infinite; no loss can use them.",
        )
        assert found.kurtosis == pytest.approx(clean.kurtosis)
        for transform, curve in found.effective.items():
            assert curve == pytest.approx(clean.effective[transform], rel=1e-5)

    def test_scores_that_are_all_nan_give_no_proposal_and_no_error(self):
        found = examine(np.full((3, 4), np.nan), np.ones((3, 4), bool))
        assert (found.low, found.kurtosis, found.proposal) == (None, None, None)
        assert found.not_finite == 12

    def test_padding_and_lists_of_padding_change_nothing(self):
        scores = normal(20, 60)
        want = examine(scores, everywhere(scores))
        wider = np.full((22, 80), np.nan)
        wider[:20, :60] = scores
        got = examine(wider, np.isfinite(wider))
        for transform, curve in got.effective.items():
            assert curve == pytest.approx(want.effective[transform], rel=1e-5)
        same = {"effective": {}, "kurtosis": 0.0, "deviations": None, "z_at_rank": {}}
        same["proposal"] = None
        assert got.model_copy(update=same) == want.model_copy(update=same)
        assert got.proposal.temperature == want.proposal.temperature

    def test_huge_scores_do_not_overflow(self):
        found = examine(normal() * 1e305, everywhere(normal()))
        want = examine(normal(), everywhere(normal()))
        assert found.kurtosis == pytest.approx(want.kurtosis)
        assert found.deviations == pytest.approx([d * 1e305 for d in want.deviations])

    def test_it_round_trips_through_json(self):
        found = examine(normal(), everywhere(normal()))
        document = json.loads(
            json.dumps(found.model_dump(mode="json"), allow_nan=False)
        )
        assert Examination.model_validate(document) == found

    def test_a_table_without_candidates_is_an_error(self):
        with pytest.raises(ValueError, match="`mask` must have a real candidate"):
            examine(np.zeros((2, 3)), np.zeros((2, 3), bool))


DISTORTED = {
    # How scores are distorted, the transform to propose, and a part of the finding.
    "sigmoid": (lambda t: sigmoid(4 * t), "logit", "look like probabilities"),
    "rare clicks": (lambda t: sigmoid(2 * t - 6), "logit", "look like probabilities"),
    "cubed": (lambda t: t**3, "log", "The tail is heavy: z-scores are"),
    "exponentiated": (lambda t: np.exp(2 * t), "log", "The tail is heavy"),
    "tanh": (
        lambda t: np.tanh(3 * t),
        "rank",
        "The scores of the best candidates are squashed",
    ),
    "clipped": (lambda t: np.minimum(t, 1.0), "rank", "top ten have equal scores"),
}


class TestDiagnosis:
    def test_a_well_shaped_teacher_has_no_findings(self):
        found = examine(normal() * 7 + 3, everywhere(normal()))
        assert found.findings == ()
        assert found.proposal.transform == "z_score"

    @pytest.mark.parametrize("name", DISTORTED)
    def test_the_problem_is_reported_and_the_right_transform_proposed(self, name):
        distort, transform, said = DISTORTED[name]
        found = examine(distort(normal()), everywhere(normal()))
        assert any(said in finding for finding in found.findings)
        assert found.proposal.transform == transform

    def test_min_max_scaled_scores_are_not_taken_for_probabilities(self):
        scores = REFERENCE["min_max"](normal(), everywhere(normal()))
        found = examine(scores, everywhere(scores))
        assert found.findings == ()
        assert found.proposal.transform == "z_score"

    @pytest.mark.slow
    def test_a_tail_is_heavy_if_heavier_than_an_exponential_one(self):
        rng = np.random.default_rng(4)
        light = rng.exponential(size=(60, 5_000)) ** 0.8
        heavy = rng.exponential(size=(60, 5_000)) ** 1.25
        assert examine(light, everywhere(light)).proposal.transform == "z_score"
        assert examine(heavy, everywhere(heavy)).proposal.transform == "log"

    def test_constant_lists_are_reported_from_one_in_a_hundred(self):
        scores = normal(100, 60)
        scores[:1] = 3.0
        (finding,) = examine(scores, everywhere(scores)).findings
        assert finding.startswith(
            "1% of the lists have the same score for all candidates"
        )
        scores = normal(200, 60)
        scores[:1] = 3.0
        assert examine(scores, everywhere(scores)).findings == ()

    def test_lists_with_one_score_are_not_called_constant(self):
        scores, mask = normal(100, 60), np.ones((100, 60), bool)
        mask[:1, 1:] = False
        scores[1] = np.nan
        found = examine(scores, mask)
        assert (found.single, found.constant) == (0.02, 0.0)
        assert found.findings[1].startswith("2% of the lists have fewer than two fin")
        alone = examine(scores[:, :1], mask[:, :1])
        assert (alone.single, alone.constant, alone.proposal) == (1.0, 0.0, None)

    def test_lists_that_are_all_constant_have_no_proposal(self):
        found = examine(np.full((5, 9), 0.3), np.ones((5, 9), bool))
        assert found.proposal is None
        assert found.findings[0].startswith("100% of the lists")
        assert found.warning("z_score", 1.0) is None
        assert found.temperature_for("z_score") == 1.0

    def test_lists_of_unequal_scale_are_reported(self):
        scores = normal() * np.logspace(0, 2, 40)[:, None]
        (finding,) = examine(scores, everywhere(scores)).findings
        assert finding.startswith("Lists differ in scale")


@pytest.mark.slow
class TestProposal:
    @pytest.mark.parametrize("name", DISTORTED)
    def test_the_proposed_temperature_gives_the_desired_effective_candidates(
        self, name
    ):
        scores = DISTORTED[name][0](normal())
        found = examine(scores, everywhere(scores))
        proposal = found.proposal
        shown = transformed(scores, everywhere(scores), proposal.transform)
        numbers = effective(shown.numpy(), everywhere(scores), proposal.temperature)
        number = exp(sum(map(log, numbers)) / len(numbers))
        assert proposal.effective == pytest.approx(number, rel=1e-5)
        assert number == pytest.approx(TARGET, rel=0.05)
        assert f"at temperature {proposal.temperature:g} " in proposal.reason
        assert found.temperature_for(proposal.transform) == proposal.temperature

    def test_in_short_lists_a_quarter_of_the_candidates_is_desired(self):
        found = examine(normal(50, 40), everywhere(normal(50, 40)))
        assert found.proposal.effective == pytest.approx(10, rel=0.05)

    @pytest.mark.parametrize("transform", TRANSFORMS)
    def test_every_transform_has_a_temperature(self, transform):
        scores = sigmoid(normal() - 2)
        found = examine(scores, everywhere(scores))
        number = found.effective_at(transform, found.temperature_for(transform))
        assert number == pytest.approx(TARGET, rel=0.15)

    @pytest.mark.parametrize("temperature", [0.02, 0.7, 1.0, 3.0])
    def test_numbers_between_the_known_temperatures_are_close(self, temperature):
        found = examine(normal(), everywhere(normal()))
        numbers = effective(
            REFERENCE["z_score"](normal(), everywhere(normal())),
            everywhere(normal()),
            temperature,
        )
        want = exp(sum(map(log, numbers)) / len(numbers))
        assert found.effective_at("z_score", temperature) == pytest.approx(
            want, rel=0.1
        )


class TestWarning:
    def test_nearly_one_hot_or_uniform_targets_cause_a_warning(self):
        found = examine(normal(), everywhere(normal()))
        cold, hot = found.warning("z_score", 0.03), found.warning("z_score", 8.0)
        assert "effective candidates of 400, nearly one-hot" in cold
        assert "effective candidates of 400, nearly uniform" in hot
        assert "distill.scores=auto" in cold
        assert found.warning("z_score", found.proposal.temperature) is None

    @pytest.mark.parametrize(
        ("number", "warned"), [(1.9, True), (2.1, False), (199, False), (201, True)]
    )
    def test_the_limits_are_two_candidates_and_half_the_list(self, number, warned):
        found = examine(normal(), everywhere(normal()))
        curve = dict.fromkeys(found.effective["none"], float(number))
        found = found.model_copy(update={"effective": {"none": curve}})
        assert (found.warning("none", 1.0) is not None) == warned


@pytest.mark.slow
class TestEffectOfTheProposal:
    """A small student, distilled from the distorted scores of a good teacher.

    The student is too small to match its teacher, so its quality depends on the soft
    targets.
    """

    @staticmethod
    @cache
    def teacher():
        rng = np.random.default_rng(0)
        queries, items = rng.normal(size=(QUERIES, 12)), rng.normal(size=(12, ITEMS))
        return queries @ items / 12**0.5

    @classmethod
    @cache
    def agreement(cls, name, *auto):
        """Overlap of the student's top ten with that of the undistorted teacher."""
        distort = DISTORTED[name][0] if name else lambda t: t
        scores = distort(cls.teacher()).astype("float32")
        mask = everywhere(scores)
        fixed = {"scores": "z_score", "teacher_temperature": 1.0}
        config = DistillConfig(**fixed | dict.fromkeys(auto, "auto"))
        chosen = choose(config, examine(scores, mask))
        targets = (
            transformed(scores, mask, chosen.transform) / chosen.teacher_temperature
        )
        rng = np.random.default_rng(1)
        start = rng.normal(0, 0.3, (QUERIES, 4)), rng.normal(0, 0.3, (4, ITEMS))
        queries, items = (tf.Variable(value.astype("float32")) for value in start)
        optimizer = keras.optimizers.Adam(0.05)
        optimizer.build([queries, items])

        @tf.function
        def step():
            with tf.GradientTape() as tape:
                student = queries @ items
                loss = listwise_kl_divergence(
                    targets, student, mask, config.temperature
                )
                loss = tf.reduce_mean(loss)
            optimizer.apply(tape.gradient(loss, [queries, items]))

        for _ in range(200):
            step()
        student = (queries @ items).numpy()
        return float(overlap(cls.teacher(), student, mask, 10).mean())

    @pytest.mark.parametrize("name", ["sigmoid", "cubed", "exponentiated", "tanh"])
    def test_with_the_proposal_a_distorted_teacher_teaches_nearly_as_well(self, name):
        good = self.agreement(None, "scores", "teacher_temperature")
        proposed = self.agreement(name, "scores", "teacher_temperature")
        distorted = self.agreement(name)
        assert proposed > 0.85 * good
        assert distorted < proposed - 0.08

    def test_a_temperature_alone_does_not_correct_a_heavy_tail(self):
        proposed = self.agreement("exponentiated", "scores", "teacher_temperature")
        assert self.agreement("exponentiated", "teacher_temperature") < proposed - 0.05

    def test_the_proposal_does_not_harm_a_well_shaped_teacher(self):
        good = self.agreement(None, "scores", "teacher_temperature")
        assert good > self.agreement(None) - 0.03


def made(kind, size):
    """Scores of 60 lists of a size, which are distorted in one of several ways."""
    distort = DISTORTED[kind][0] if kind in DISTORTED else lambda t: t
    return distort(normal(60, size, seed=size))


@pytest.mark.parametrize("size", range(2, 21))
@pytest.mark.parametrize("kind", ["normal", "sigmoid", "cubed", "clipped"])
def test_the_proposal_suits_short_lists_and_causes_no_warning(kind, size):
    scores = made(kind, size)
    found = examine(scores, everywhere(scores))
    proposal = found.proposal
    assert 1.0 < proposal.effective < size
    assert 0.01 < proposal.temperature < 100.0
    assert found.warning(proposal.transform, proposal.temperature) is None
    assert found.warning(proposal.transform, proposal.temperature * 20) is not None
    if kind == "normal":  # Where the best scores are equal, no target is one-hot.
        assert found.warning(proposal.transform, proposal.temperature / 20) is not None


def test_a_proposal_that_cannot_reach_the_desired_number_causes_no_warning():
    scores = np.zeros((20, 40))
    scores[:, 0] = -1.0
    found = examine(scores, everywhere(scores))
    assert found.proposal.effective > 20
    transform = found.proposal.transform
    assert found.warning(transform, found.proposal.temperature) is None
    assert found.warning(transform, 1.0) is not None


@pytest.mark.parametrize("size, want", [(1, 1.5), (2, 1.5), (3, 2), (8, 2), (12, 3)])
def test_the_desired_number_is_between_one_and_the_size(size, want):
    assert score_doctor._wanted(size) == want
