"""ranking: relevance metrics compared with their definitions and other libraries."""

import math
import shutil

import numpy as np
import pytest

from recdistill.lists import numpy_ranks
from recdistill.metrics import ranking
from tests import reference_metrics as reference
from tests.reference_metrics import ragged_batch

RELEVANCE_METRICS = reference.RELEVANCE_METRICS


@pytest.mark.parametrize("k", [1, 3, 10, 50])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("name", RELEVANCE_METRICS)
def test_relevance_metric_matches_its_definition(name, k, dtype):
    scores, _, relevance, mask = ragged_batch(dtype=dtype)
    got = getattr(ranking, name)(scores, relevance, mask, k)
    want = reference.each_list(getattr(reference, name), scores, relevance, mask, k=k)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, want, rtol=1e-12)


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
    assert ranking.dcg(*lists, k=2) == pytest.approx([1 / math.log2(3)])
    assert ranking.dcg(*lists, k=4) == pytest.approx([found])
    assert ranking.precision(*lists, k=3) == pytest.approx([2 / 3])
    assert ranking.precision(*lists, k=8) == pytest.approx([2 / 8])
    p = 0.8
    assert ranking.rank_biased_precision(*lists) == pytest.approx([0.2 * (p + p**2)])
    assert ranking.rank_biased_precision(*lists, k=2) == pytest.approx([0.2 * p])
    # d satisfies with probability 1/16, a with 7/16; b and c never do.
    err = 1 / 16 / 2 + 15 / 16 * 7 / 16 / 3
    assert ranking.expected_reciprocal_rank(*lists) == pytest.approx([err])
    assert ranking.expected_reciprocal_rank(*lists, k=2) == pytest.approx([1 / 32])


def judged_lists(seed=3, batch=1_000, list_size=30):
    """Random lists with tied scores, grades 0 to 4 and candidates without judgement."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(batch, list_size)).round(1)
    grades = rng.choice(5, p=[0.6, 0.15, 0.1, 0.1, 0.05], size=scores.shape)
    judged = rng.random(scores.shape) < 0.8
    mask = rng.random(scores.shape) < 0.9
    grades[:, 0], judged[:, 0], mask[:, 0] = 2, True, True
    return scores, np.where(judged, grades, 0), judged, mask


def test_metrics_agree_with_trec_eval_on_lists_with_ties_and_missing_judgements():
    """trec_eval breaks ties by name, so names here decrease with the position."""
    ir_measures = pytest.importorskip("ir_measures")
    scores, grades, judged, mask = judged_lists()
    size = scores.shape[1]
    names = [f"d{size - c:03d}" for c in range(size)]
    cells = list(zip(*np.nonzero(mask), strict=True))
    run = [ir_measures.ScoredDoc(f"q{r}", names[c], scores[r, c]) for r, c in cells]
    qrels = [
        ir_measures.Qrel(f"q{r}", names[c], int(grades[r, c]))
        for r, c in cells
        if judged[r, c]
    ]
    lists = scores, grades, mask
    pairs = {
        ir_measures.nDCG @ 1: ranking.ndcg(*lists, 1),
        ir_measures.nDCG @ 10: ranking.ndcg(*lists, 10),
        ir_measures.nDCG @ 50: ranking.ndcg(*lists, 50),  # longer than the lists
        ir_measures.R @ 10: ranking.recall(*lists, 10),
        ir_measures.P @ 1: ranking.precision(*lists, 1),
        ir_measures.P @ 10: ranking.precision(*lists, 10),
        ir_measures.Success @ 3: ranking.hit_rate(*lists, 3),
        ir_measures.RR: ranking.reciprocal_rank(*lists),
        ir_measures.AP @ 10: ranking.average_precision(*lists, 10),
    }
    evaluator = ir_measures.pytrec_eval.evaluator(list(pairs), qrels)
    found = {
        (str(each.measure), each.query_id): each for each in evaluator.iter_calc(run)
    }
    for measure, ours in pairs.items():
        want = [found[str(measure), f"q{r}"].value for r in range(len(scores))]
        np.testing.assert_allclose(ours, want, atol=1e-6, err_msg=str(measure))


@pytest.mark.skipif(shutil.which("perl") is None, reason="gdeval is a Perl script")
def test_err_agrees_with_gdeval():
    ir_measures = pytest.importorskip("ir_measures")
    scores, _, relevance, mask = ragged_batch(seed=4, ties=False)
    grades = np.ceil(np.where(mask, relevance, 0))
    cells = list(zip(*np.nonzero(mask), strict=True))
    run = [ir_measures.ScoredDoc(str(r), f"d{c}", scores[r, c]) for r, c in cells]
    qrels = [ir_measures.Qrel(str(r), f"d{c}", int(grades[r, c])) for r, c in cells]
    ours = ranking.expected_reciprocal_rank(scores, grades, mask, 5)
    for one in ir_measures.gdeval.iter_calc([ir_measures.ERR @ 5], qrels, run):
        got = np.nan_to_num(ours[int(one.query_id)])
        assert got == pytest.approx(one.value, abs=6e-6)  # gdeval prints five digits


def test_err_refuses_a_relevance_above_the_highest_grade():
    with pytest.raises(ValueError, match="`max_grade` must be at least the highest"):
        ranking.expected_reciprocal_rank([[1.0]], [[5.0]], [[True]])


@pytest.mark.parametrize("p", [0.0, 1.0, -0.5])
def test_persistence_must_be_between_zero_and_one(p):
    with pytest.raises(ValueError, match=f"`p` must be between 0 and 1.*p={p}"):
        ranking.rank_biased_precision([[1.0]], [[1.0]], [[True]], p=p)


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


def test_mask_must_be_boolean_and_shapes_must_agree():
    with pytest.raises(ValueError, match="`mask` must be a boolean array"):
        ranking.ndcg([[1.0]], [[1.0]], [[1]], 1)
    with pytest.raises(ValueError, match="`mask` must be a boolean array"):
        ranking.ndcg([1.0], [1.0], [True], 1)
    with pytest.raises(ValueError, match="`scores` must have the shape of `mask`"):
        ranking.ndcg([[1.0, 2.0]], [[1.0]], [[True]], 1)
    with pytest.raises(ValueError, match="`relevance` must have the shape of `mask`"):
        ranking.ndcg([[1.0]], [[1.0, 2.0]], [[True]], 1)


def test_a_grade_beyond_the_digits_of_float64_does_not_spoil_other_lists():
    scores, mask = [[3.0, 2.0, 1.0]] * 2, np.ones((2, 3), bool)
    grades = [[54.0, 0.0, 1.0], [0.0, 1.0, 2.0]]
    got = ranking.expected_reciprocal_rank(scores, grades, mask, max_grade=54)
    alone = ranking.expected_reciprocal_rank(
        scores[1:], grades[1:], mask[1:], max_grade=54
    )
    assert got[0] == pytest.approx(1.0)
    assert got[1] == alone[0] > 0
