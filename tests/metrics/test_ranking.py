"""ranking: metrics compared with their definitions, and properties of all of them."""

import math

import numpy as np
import pytest
from scipy import stats

from recdistill.lists import numpy_ranks
from recdistill.metrics import ranking
from tests import reference_metrics as reference
from tests.reference_metrics import ragged_batch

RELEVANCE_METRICS = [
    "ndcg",
    "recall",
    "hit_rate",
    "reciprocal_rank",
    "average_precision",
]
AGREEMENT = {
    "overlap": {"k": 5},
    "survival": {"k": 3, "n": 7},
    "kendall_tau": {"k": 6},
    "rank_biased_overlap": {"p": 0.8, "k": 15},
}


@pytest.mark.parametrize("k", [1, 3, 10, 50])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("name", RELEVANCE_METRICS)
def test_relevance_metric_matches_its_definition(name, k, dtype):
    scores, _, relevance, mask = ragged_batch(dtype=dtype)
    got = getattr(ranking, name)(scores, relevance, mask, k)
    want = reference.each_list(getattr(reference, name), scores, relevance, mask, k=k)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize(("name", "settings"), AGREEMENT.items())
@pytest.mark.parametrize("ties", [True, False])
def test_agreement_matches_its_definition(name, settings, ties):
    teacher, student, _, mask = ragged_batch(ties=ties)
    got = getattr(ranking, name)(teacher, student, mask, **settings)
    want = reference.each_list(
        getattr(reference, name), teacher, student, mask, **settings
    )
    np.testing.assert_allclose(got, want, rtol=1e-12)
    assert np.isfinite(got).sum() > 20


def test_values_derived_by_hand():
    # By score the order is b, d, a, c; the gain of a is 3, that of d is 1.
    lists = ([[0.2, 0.9, 0.1, 0.5]], [[3.0, 0.0, 0.0, 1.0]], [[True] * 4])
    best = 3 / math.log2(2) + 1 / math.log2(3)
    found = 1 / math.log2(3) + 3 / math.log2(4)
    assert ranking.ndcg(*lists, k=4) == pytest.approx([found / best])
    assert ranking.ndcg(*lists, k=2) == pytest.approx([1 / math.log2(3) / best])
    assert ranking.recall(*lists, k=2) == pytest.approx([1 / 2])
    assert ranking.hit_rate(*lists, k=1) == [0.0]
    assert ranking.reciprocal_rank(*lists) == [1 / 2]
    assert ranking.reciprocal_rank(*lists, k=1) == [0.0]
    assert ranking.average_precision(*lists, k=4) == pytest.approx(
        [(1 / 2 + 2 / 3) / 2]
    )


def test_agreement_values_derived_by_hand():
    # The teacher ranks a b c d, the student b a d c.
    pair = ([[4.0, 3.0, 2.0, 1.0]], [[3.0, 4.0, 1.0, 2.0]], [[True] * 4])
    assert ranking.overlap(*pair, k=1) == [0.0]
    assert ranking.overlap(*pair, k=3) == pytest.approx([2 / 3])
    assert ranking.survival(*pair, k=1, n=2) == [1.0]
    assert ranking.kendall_tau(*pair, k=4) == pytest.approx([(4 - 2) / 6])
    p = 0.9
    sum_of_depths = 0 + p * 2 / 2 + p**2 * 2 / 3 + p**3 * 4 / 4
    want = (1 - p) * sum_of_depths + p**4
    assert ranking.rank_biased_overlap(*pair, p=p) == pytest.approx([want])


def test_metrics_agree_with_an_independent_library():
    ir_measures = pytest.importorskip("ir_measures")
    scores, _, relevance, mask = ragged_batch(seed=3, ties=False)
    binary = (relevance > 0).astype(float)
    relevant_rows = np.flatnonzero((binary * mask).sum(axis=1) > 0)
    cells = [(r, c) for r in relevant_rows for c in np.flatnonzero(mask[r])]
    run = [ir_measures.ScoredDoc(f"q{r}", f"d{c}", scores[r, c]) for r, c in cells]
    qrels = [ir_measures.Qrel(f"q{r}", f"d{c}", int(binary[r, c])) for r, c in cells]
    pairs = {
        ir_measures.nDCG @ 5: ranking.ndcg(scores, binary, mask, 5),
        ir_measures.R @ 5: ranking.recall(scores, binary, mask, 5),
        ir_measures.Success @ 2: ranking.hit_rate(scores, binary, mask, 2),
        ir_measures.RR: ranking.reciprocal_rank(scores, binary, mask),
        ir_measures.AP @ 5: ranking.average_precision(scores, binary, mask, 5),
    }
    for measure, ours in pairs.items():
        theirs = {
            one.query_id: one.value
            for one in ir_measures.iter_calc([measure], qrels, run)
        }
        want = [theirs[f"q{r}"] for r in relevant_rows]
        np.testing.assert_allclose(
            ours[relevant_rows], want, rtol=1e-9, err_msg=str(measure)
        )


def test_kendall_tau_agrees_with_scipy_on_the_whole_list():
    rng = np.random.default_rng(5)
    teacher, student = rng.integers(6, size=(2, 9, 20)).astype(float)
    got = ranking.kendall_tau(teacher, student, np.ones((9, 20), bool), k=20)
    want = [
        stats.kendalltau(t, s).statistic for t, s in zip(teacher, student, strict=True)
    ]
    np.testing.assert_allclose(got, want, rtol=1e-12)


def every_metric(scores, others, relevance, mask):
    values = {
        name: getattr(ranking, name)(scores, relevance, mask, 4)
        for name in RELEVANCE_METRICS
    }
    for name, settings in AGREEMENT.items():
        values[name] = getattr(ranking, name)(scores, others, mask, **settings)
    return values


def assert_unchanged(before, after):
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, rtol=1e-12, err_msg=name)


class TestEveryMetric:
    def test_padding_changes_nothing(self):
        scores, others, relevance, mask = ragged_batch()
        wider = [
            np.pad(x, ((0, 0), (2, 3)), constant_values=value)
            for x, value in ((scores, 99), (others, 99), (relevance, 9), (mask, False))
        ]
        assert_unchanged(
            every_metric(scores, others, relevance, mask), every_metric(*wider)
        )

    def test_candidate_order_changes_nothing_without_ties(self):
        batch = ragged_batch(ties=False)
        order = np.random.default_rng(1).permutation(batch[0].shape[1])
        assert_unchanged(
            every_metric(*batch), every_metric(*(x[:, order] for x in batch))
        )

    def test_shift_and_scale_of_scores_change_nothing(self):
        scores, others, relevance, mask = ragged_batch()
        assert_unchanged(
            every_metric(scores, others, relevance, mask),
            every_metric(4 * scores - 64, others / 2 + 32, relevance, mask),
        )

    def test_each_list_is_evaluated_independently(self):
        batch = ragged_batch()
        alone = [every_metric(*(x[i : i + 1] for x in batch)) for i in range(40)]
        joined = {
            name: np.concatenate([one[name] for one in alone]) for name in alone[0]
        }
        assert_unchanged(every_metric(*batch), joined)

    def test_list_of_padding_gives_nan(self):
        for name, values in every_metric(*ragged_batch()).items():
            assert np.isnan(values[-1]), name

    def test_empty_batch_gives_empty_values(self):
        for name, values in every_metric(*(x[:0] for x in ragged_batch())).items():
            assert values.shape == (0,), name

    def test_chunked_computation_gives_the_same(self, monkeypatch):
        batch = ragged_batch()
        whole = every_metric(*batch)
        monkeypatch.setattr(numpy_ranks, "_CHUNK_ENTRIES", 30)
        assert_unchanged(whole, every_metric(*batch))


def test_list_without_relevant_candidates_gives_nan():
    scores, _, relevance, mask = ragged_batch()
    assert mask[-2].any()
    for name in RELEVANCE_METRICS:
        assert np.isnan(getattr(ranking, name)(scores, relevance, mask, 4)[-2]), name


def test_best_order_has_ndcg_of_exactly_one():
    _, _, relevance, mask = ragged_batch()
    scores = np.where(mask, relevance, 0.0)
    relevant_rows = (scores > 0).any(axis=1)
    assert (ranking.ndcg(scores, relevance, mask, 5)[relevant_rows] == 1.0).all()


def test_scale_of_relevance_changes_nothing():
    scores, _, relevance, mask = ragged_batch()
    np.testing.assert_allclose(
        ranking.ndcg(scores, 8 * relevance, mask, 5),
        ranking.ndcg(scores, relevance, mask, 5),
    )


def test_a_student_equal_to_the_teacher_agrees_fully():
    scores, _, _, mask = ragged_batch(ties=False)
    for name, settings in AGREEMENT.items():
        values = getattr(ranking, name)(scores, 3 * scores, mask, **settings)
        np.testing.assert_allclose(values[~np.isnan(values)], 1.0, err_msg=name)


def test_reversed_scores_have_kendall_tau_of_minus_one():
    scores, _, _, mask = ragged_batch(ties=False)
    values = ranking.kendall_tau(scores, -np.where(mask, scores, 0), mask, k=12)
    np.testing.assert_allclose(values[~np.isnan(values)], -1.0)


def test_kendall_tau_of_constant_scores_is_nan():
    teacher = [[3.0, 2.0, 1.0]]
    assert np.isnan(ranking.kendall_tau(teacher, [[5.0] * 3], [[True] * 3], k=3))


def test_ties_are_broken_by_position():
    constant = [[1.0] * 5]
    found = ranking.relevant_ranks(constant, [[0, 1, 0, 0, 1]], [[True] * 5])
    np.testing.assert_array_equal(found.rank, [2, 5])
    real = numpy_ranks.real_scores(
        constant, [[False, True, True, True, True]], name="s"
    )
    np.testing.assert_array_equal(numpy_ranks.first_k(real, 3), [[1, 2, 3]])


def test_many_relevant_candidates_get_the_right_ranks():
    rng = np.random.default_rng(2)
    scores, mask = rng.normal(size=(3, 60)).round(1), np.ones((3, 60), bool)
    found = ranking.relevant_ranks(scores, np.ones((3, 60)), mask)
    np.testing.assert_array_equal(found.rank, np.tile(np.arange(1, 61), 3))


def test_minus_infinity_ranks_after_every_finite_score():
    scores = [[-np.inf, -1e30, -np.inf, 0.0]]
    found = ranking.relevant_ranks(scores, [[1, 1, 1, 0]], [[True] * 4])
    np.testing.assert_array_equal(found.rank, [2, 3, 4])
    real = numpy_ranks.real_scores(scores, [[True] * 4], name="scores")
    np.testing.assert_array_equal(numpy_ranks.first_k(real, 3), [[3, 1, 0]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_invalid_score_raises_an_error_with_row_and_position(bad):
    scores, mask = np.zeros((3, 4)), np.ones((3, 4), bool)
    scores[2, 1] = bad
    with pytest.raises(ValueError, match=rf"`scores`.*{bad} in row 2 at position 1"):
        ranking.ndcg(scores, np.ones((3, 4)), mask, 2)
    with pytest.raises(ValueError, match="`student_scores` must be below infinity"):
        ranking.overlap(np.zeros((3, 4)), scores, mask, 2)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_an_invalid_relevance_raises_an_error_with_row_and_position(bad):
    relevance = np.zeros((2, 3))
    relevance[1, 2] = bad
    with pytest.raises(ValueError, match=r"`relevance`.*in row 1 at position 2"):
        ranking.ndcg(np.zeros((2, 3)), relevance, np.ones((2, 3), bool), 2)


@pytest.mark.parametrize("k", [0, -1, 2.0, True])
def test_cutoff_must_be_a_positive_integer(k):
    lists = ([[1.0, 2.0]], [[1, 0]], [[True, True]])
    for name in RELEVANCE_METRICS:
        with pytest.raises(ValueError, match=f"`k` must be a positive.*k={k}"):
            getattr(ranking, name)(*lists, k)
    with pytest.raises(ValueError, match="`k` must be a positive"):
        ranking.overlap([[1.0, 2.0]], [[1.0, 0.0]], [[True, True]], k)


@pytest.mark.parametrize("p", [0.0, 1.0, -0.5])
def test_persistence_must_be_between_zero_and_one(p):
    with pytest.raises(ValueError, match=f"`p` must be between 0 and 1.*p={p}"):
        ranking.rank_biased_overlap([[1.0]], [[1.0]], [[True]], p=p)


def test_mask_must_be_boolean_and_shapes_must_agree():
    with pytest.raises(ValueError, match="`mask` must be a boolean array"):
        ranking.ndcg([[1.0]], [[1.0]], [[1]], 1)
    with pytest.raises(ValueError, match="`mask` must be a boolean array"):
        ranking.ndcg([1.0], [1.0], [True], 1)
    with pytest.raises(ValueError, match="`scores` must have the shape of `mask`"):
        ranking.ndcg([[1.0, 2.0]], [[1.0]], [[True]], 1)
    with pytest.raises(ValueError, match="`relevance` must have the shape of `mask`"):
        ranking.ndcg([[1.0]], [[1.0, 2.0]], [[True]], 1)
