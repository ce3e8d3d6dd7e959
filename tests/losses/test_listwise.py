"""listwise: softmax losses by hand, their limits, and relations between losses."""

from math import exp, log

import numpy as np
import pytest

from recdistill import losses
from tests import contracts
from tests import reference_losses as reference
from tests.contracts import loss_and_gradient

ONE_LIST = np.ones((1, 2), bool)
SOFT = [
    losses.listwise_kl_divergence,
    losses.listwise_soft_cross_entropy,
    losses.listwise_jensen_shannon,
]


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
    got = losses.listwise_kl_divergence(teacher, student, ONE_LIST, temperature=2.0)
    want = 2.0**2 * (3 / 4 * log((3 / 4) / (1 / 2)) + 1 / 4 * log((1 / 4) / (1 / 2)))
    np.testing.assert_allclose(got, [want], rtol=1e-6)


def test_kl_by_hand_with_item_weights():
    scores = np.zeros((1, 2), "float32")
    teacher = np.array([[0.0, log(2.0)]], "float32")
    weight = np.array([[2.0, 1.0]], "float32")
    got = losses.listwise_kl_divergence(teacher, scores, ONE_LIST, item_weight=weight)
    want = 1 / 2 * log((1 / 2) / (2 / 3)) + 1 / 2 * log((1 / 2) / (1 / 3))
    np.testing.assert_allclose(got, [want], rtol=1e-6)


def test_soft_cross_entropy_by_hand_at_a_temperature():
    teacher = np.array([[2.0 * log(3.0), 0.0]], "float32")
    student = np.array([[0.0, 2.0 * log(4.0)]], "float32")
    got = losses.listwise_soft_cross_entropy(teacher, student, ONE_LIST, 2.0)
    want = -(2.0**2) * (3 / 4 * log(1 / 5) + 1 / 4 * log(4 / 5))
    np.testing.assert_allclose(got, [want], rtol=1e-6)


def test_jensen_shannon_by_hand_at_a_temperature():
    teacher = np.array([[2.0 * log(3.0), 0.0]], "float32")
    student = np.zeros((1, 2), "float32")
    got = losses.listwise_jensen_shannon(teacher, student, ONE_LIST, 2.0)
    of_teacher = 3 / 4 * log((3 / 4) / (5 / 8)) + 1 / 4 * log((1 / 4) / (3 / 8))
    of_student = 1 / 2 * log((1 / 2) / (5 / 8)) + 1 / 2 * log((1 / 2) / (3 / 8))
    np.testing.assert_allclose(got, [2.0**2 * (of_teacher + of_student) / 2], rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 10.0, 300.0])
@pytest.mark.parametrize("name", ["listwise_kl_divergence", "listwise_jensen_shannon"])
def test_divergences_of_similar_lists_are_exact(name, temperature):
    rng = np.random.default_rng(5)
    teacher = rng.normal(size=(20, 100)).astype("float32")
    student = teacher + rng.normal(0.0, 0.1, teacher.shape).astype("float32")
    mask = np.ones(teacher.shape, bool)
    want = getattr(reference, name)(teacher, student, mask, temperature)
    got = getattr(losses, name)(teacher, student, mask, temperature)
    np.testing.assert_allclose(got, want, rtol=1e-3)


def test_divergences_are_finite_if_one_side_excludes_a_candidate():
    teacher = np.array([[0.0, -1e4, 5.0], [3e3, 0.0, 0.0]], "float32")
    student = np.array([[-1e4, 0.0, 0.0], [0.0, 0.0, 3e3]], "float32")
    mask = np.ones((2, 3), bool)
    for function in SOFT:
        value, gradient = loss_and_gradient(function, teacher, student, mask)
        assert np.isfinite(value).all() and np.isfinite(gradient).all()


def test_cross_entropy_by_hand():
    relevance = np.array([[2.0, 0.0, 1.0, 9.0]], "float32")
    student = np.array([[0.0, 1.0, 0.5, 30.0]], "float32")
    mask = np.array([[True, True, True, False]])
    got = losses.listwise_cross_entropy(relevance, student, mask, temperature=0.5)
    evidence = exp(0.0) + exp(2.0) + exp(1.0)
    want = -(2 / 3 * log(exp(0.0) / evidence) + 1 / 3 * log(exp(1.0) / evidence))
    np.testing.assert_allclose(got, [want], rtol=1e-6)


def test_cross_entropy_by_hand_with_item_weights():
    relevance = np.array([[1.0, 1.0, 0.0]], "float32")
    student, mask = np.zeros((1, 3), "float32"), np.ones((1, 3), bool)
    weight = np.array([[3.0, 1.0, 4.0]], "float32")
    got = losses.listwise_cross_entropy(relevance, student, mask, item_weight=weight)
    np.testing.assert_allclose(
        got, [-(3 / 4 * log(3 / 8) + 1 / 4 * log(1 / 8))], rtol=1e-6
    )


def test_cross_entropy_treats_negative_relevance_as_zero():
    student = np.array([[0.3, -0.2, 1.0]], "float32")
    mask = np.ones((1, 3), bool)
    np.testing.assert_allclose(
        losses.listwise_cross_entropy([[1.0, -5.0, 2.0]], student, mask),
        losses.listwise_cross_entropy([[1.0, 0.0, 2.0]], student, mask),
    )


@pytest.mark.parametrize("loss_cls", [losses.ListwiseCrossEntropy])
def test_lists_without_relevance_do_not_count_in_the_mean(loss_cls):
    relevance = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 7.0]], "float32")
    mask = np.array([[True, True], [True, True], [True, False]])
    scores = np.zeros((3, 2), "float32")
    y_true = {"labels": relevance, "mask": mask}
    np.testing.assert_allclose(loss_cls()(y_true, scores), log(2.0), rtol=1e-6)
    # Without its first candidate the first list has no relevant one either.
    assert float(loss_cls()(y_true, scores, np.array([[0.0, 1.0]] * 3))) == 0.0


@pytest.mark.parametrize(
    ("function", "share"),
    [(losses.listwise_kl_divergence, 1 / 2), (losses.listwise_jensen_shannon, 1 / 8)],
)
def test_at_high_temperature_it_is_a_fraction_of_the_mse_of_centred_scores(
    function, share
):
    teacher = np.array([[1.0, -2.0, 0.5, 3.0]])
    student = np.array([[0.0, 1.0, -1.0, 2.0]])
    got = function(teacher, student, np.ones((1, 4), bool), temperature=1e3)
    gap = (teacher - teacher.mean()) - (student - student.mean())
    np.testing.assert_allclose(got, [share * np.mean(gap**2)], rtol=1e-2)


def test_kl_gradient_is_the_difference_of_probabilities_times_the_temperature():
    teacher = np.array([[2.0 * log(3.0), 0.0]], "float32")
    student = np.zeros((1, 2), "float32")
    _, gradient = loss_and_gradient(
        losses.listwise_kl_divergence, teacher, student, ONE_LIST, temperature=2.0
    )
    np.testing.assert_allclose(
        gradient, [[2.0 * (1 / 2 - 3 / 4), 2.0 * (1 / 2 - 1 / 4)]], rtol=1e-5
    )


def test_kl_has_the_gradient_of_cross_entropy_with_soft_targets():
    teacher, student, mask = contracts.ragged_lists(losses.ListwiseKLDivergence)
    soft_targets = np.where(mask, np.exp(teacher), 0.0)
    _, by_kl = loss_and_gradient(losses.listwise_kl_divergence, teacher, student, mask)
    _, by_cross_entropy = loss_and_gradient(
        losses.listwise_cross_entropy, soft_targets, student, mask
    )
    np.testing.assert_allclose(by_kl, by_cross_entropy, atol=1e-6)


def test_soft_cross_entropy_is_kl_plus_the_entropy_of_the_soft_targets():
    teacher, student, mask = contracts.ragged_lists(losses.ListwiseKLDivergence)
    kl, by_kl = loss_and_gradient(
        losses.listwise_kl_divergence, teacher, student, mask, temperature=2.0
    )
    soft, by_soft = loss_and_gradient(
        losses.listwise_soft_cross_entropy, teacher, student, mask, temperature=2.0
    )
    p = np.exp(np.where(mask, teacher / 2.0, -np.inf))
    p /= np.maximum(p.sum(axis=1, keepdims=True), 1e-30)
    entropy = -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=1)
    np.testing.assert_allclose(soft - kl, 4.0 * entropy, atol=1e-5)
    np.testing.assert_allclose(by_soft, by_kl, atol=1e-6)


@pytest.mark.parametrize(
    "function", [losses.listwise_kl_divergence, losses.listwise_jensen_shannon]
)
def test_item_weight_two_gives_the_loss_of_two_candidates(function):
    teacher, student, mask = contracts.ragged_lists(losses.ListwiseKLDivergence)
    weight = np.ones((6, 5), "float32")
    weight[:, 1] = 2.0
    got = function(teacher, student, mask, 2.0, weight)
    twice = (values[:, [0, 1, 1, 2, 3, 4]] for values in (teacher, student, mask))
    np.testing.assert_allclose(got, function(*twice, 2.0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("function", SOFT)
def test_a_best_score_of_tiny_weight_does_not_dominate(function):
    teacher = np.array([[100.0, 0.0, log(3.0)]], "float32")
    student, mask = np.zeros((1, 3), "float32"), np.ones((1, 3), bool)
    weight = np.array([[1e-30, 1e30, 1e30]], "float32")  # exp(100) is 2.7e43
    got = function(teacher, student, mask, item_weight=weight)
    want = function(teacher, student, mask & [[False, True, True]])
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_jensen_shannon_gradient_is_right_where_both_distributions_agree():
    teacher = np.log([[2.0, 1.0, 1.0]])
    student = np.log([[1.0, 2.0, 1.0]])
    _, gradient = loss_and_gradient(
        losses.listwise_jensen_shannon, teacher, student, np.ones((1, 3), bool)
    )
    # q_i (log(q_i / m_i) - sum_j q_j log(q_j / m_j)) / 2, with m = (3/8, 3/8, 1/4).
    logs = np.log(np.array([1 / 4, 1 / 2, 1 / 4]) / np.array([3 / 8, 3 / 8, 1 / 4]))
    shares = np.array([1 / 4, 1 / 2, 1 / 4])
    want = shares * (logs - np.sum(shares * logs)) / 2
    np.testing.assert_allclose(gradient, [want], atol=1e-9)


def test_jensen_shannon_is_symmetric_and_bounded():
    teacher, student, mask = contracts.ragged_lists(losses.ListwiseKLDivergence)
    there = losses.listwise_jensen_shannon(teacher, student, mask, 2.0)
    back = losses.listwise_jensen_shannon(student, teacher, mask, 2.0)
    np.testing.assert_allclose(there, back, rtol=1e-4, atol=1e-6)
    far = losses.listwise_jensen_shannon(100 * teacher, -100 * teacher, mask)
    assert (far.numpy() <= log(2.0) + 1e-6).all()
    assert far.numpy().max() > 0.6


class TestSampledTail:
    """Lists with a drawn tail, whose weights are the inverse of its probability."""

    ITEMS, CERTAIN, DRAWN = 400, 20, 100

    def draws(self, count):
        """Scores of the catalogue, and the candidates and weights of many draws."""
        rng = np.random.default_rng(5)
        teacher, student = rng.normal(size=(2, self.ITEMS))
        teacher[: self.CERTAIN] += 3.0
        others = np.arange(self.CERTAIN, self.ITEMS)
        items = np.stack(
            [
                np.r_[: self.CERTAIN, rng.choice(others, self.DRAWN, replace=False)]
                for _ in range(count)
            ]
        )
        weight = np.ones(items.shape)
        weight[:, self.CERTAIN :] = len(others) / self.DRAWN
        return teacher, student, items, weight

    def test_the_normaliser_of_the_cross_entropy_is_unbiased(self):
        _, student, items, weight = self.draws(2_000)
        relevance = np.zeros(items.shape)
        relevance[:, 3] = 1.0
        mask = np.ones(items.shape, bool)
        found = np.exp(
            losses.listwise_cross_entropy(
                relevance, student[items], mask, item_weight=weight
            )
        )
        # exp(loss) is the sum of the exponentials divided by that of the positive.
        total = sum(exp(score) for score in student) / exp(student[3])
        error = found.std() / len(found) ** 0.5
        assert abs(found.mean() - total) < 4 * error
        assert error < 0.005 * total

    @pytest.mark.parametrize(
        "name",
        [
            "listwise_kl_divergence",
            "listwise_jensen_shannon",
            "pointwise_mse",
            "pairwise_margin_mse",
        ],
    )
    def test_distillation_losses_estimate_those_of_the_catalogue(self, name):
        teacher, student, items, weight = self.draws(300)
        mask = np.ones(items.shape, bool)
        function = getattr(losses, name)
        found = function(
            teacher[items], student[items], mask, item_weight=weight
        ).numpy()
        everything = np.ones((1, self.ITEMS), bool)
        (whole,) = getattr(reference, name)(teacher[None], student[None], everything)
        assert found.mean() == pytest.approx(whole, rel=0.02)
        plain = function(teacher[items], student[items], mask).numpy()
        assert abs(plain.mean() - whole) > 2 * abs(found.mean() - whole)

    @pytest.mark.parametrize(
        ("name", "limit"),
        [
            ("listwise_kl_divergence", 0.05),
            ("listwise_soft_cross_entropy", 0.05),
            ("listwise_jensen_shannon", 0.05),
            ("listwise_cross_entropy", 0.005),
        ],
    )
    def test_the_gradient_tends_to_that_of_the_catalogue_as_the_tail_grows(
        self, name, limit
    ):
        rng = np.random.default_rng(6)
        teacher, student = rng.normal(size=(2, self.ITEMS))
        teacher[: self.CERTAIN] += 3.0
        relevance = np.where(np.arange(self.ITEMS) < 3, 1.0, 0.0)
        p, q = np.exp(teacher), np.exp(student)
        p, q = p / p.sum(), q / q.sum()
        above = np.log(q / ((p + q) / 2.0))
        want = {
            "listwise_jensen_shannon": q * (above - np.sum(q * above)) / 2.0,
            "listwise_cross_entropy": q - relevance / 3.0,
        }.get(name, q - p)[: self.CERTAIN]
        labels = relevance if name == "listwise_cross_entropy" else teacher
        errors = []
        for drawn in (20, 80, 380):
            tail = [rng.permutation(380)[:drawn] + self.CERTAIN for _ in range(500)]
            items = np.stack([np.r_[: self.CERTAIN, each] for each in tail])
            weight = np.where(items < self.CERTAIN, 1.0, 380 / drawn)
            mask = np.ones(items.shape, bool)
            _, found = loss_and_gradient(
                getattr(losses, name),
                labels[items],
                student[items],
                mask,
                item_weight=weight,
            )
            found = found[:, : self.CERTAIN].mean(axis=0)
            errors.append(np.abs(found - want).sum() / np.abs(want).sum())
        assert errors[0] < limit
        assert errors[1] < 0.5 * errors[0]
        assert errors[2] < 1e-9
