"""ensemble_weights: scales, and weights of the members that help."""

import json

import numpy as np
import pytest

from recdistill.data.batches import Lists
from recdistill.data.collation import Collator
from recdistill.data.ragged import Ragged
from recdistill.data.shard_reading import in_order
from recdistill.pipeline.ranking.validation import Validation
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.teacher_training.ensemble_weights import (
    choose_weights,
    factors,
    scales_of,
)
from tests import small_pipelines

LISTS, ITEMS = 400, 30


def validation(positives):
    count = len(positives)
    none = Ragged(np.zeros(0, "int32"), np.zeros(count + 1, "int64"))
    own = Ragged(np.asarray(positives, "int32"), np.arange(count + 1))
    lists = Lists(
        list_id=np.arange(count),
        query_id=np.arange(count).astype(str),
        query={"number": np.arange(count)},
        positives=own,
        relevance=Ragged(np.ones(count, "float32"), np.arange(count + 1)),
        seen=none,
        weight=np.ones(count, "float32"),
        query_row=np.zeros(count, "int64"),
    )
    return Validation([lists], ITEMS, ["mrr", "ndcg@10"])


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    return rng, rng.integers(0, ITEMS, LISTS)


def scorer(scores):
    return lambda x: scores[x["query"]["number"]]


def noisy(rng, positives, strength):
    scores = rng.normal(size=(LISTS, ITEMS)).astype("float32")
    scores[np.arange(LISTS), positives] += strength
    return scores


def reciprocal_rank(scores, positives):
    own = scores[np.arange(LISTS), positives]
    return float(np.mean(1 / (1 + (scores > own[:, None]).sum(axis=1))))


def z_scores(scores):
    return (scores - scores.mean(1, keepdims=True)) / scores.std(1, keepdims=True)


def test_two_members_that_err_differently_share_the_weight(case):
    rng, positives = case
    first, second = (noisy(rng, positives, 2.0) for _ in range(2))
    second *= 50  # The scale of a member does not matter.
    choice = choose_weights(
        [scorer(first), scorer(second)], validation(positives), "z_score", seed=1
    )
    by_hand = {
        share: reciprocal_rank(
            share * z_scores(first) + (1 - share) * z_scores(second), positives
        )
        for share in np.arange(21) / 20
    }
    share = max(by_hand, key=by_hand.get)
    assert 0.3 < share < 0.7
    assert choice.weights == pytest.approx((share, 1 - share))
    assert choice.value == pytest.approx(by_hand[share], abs=1e-5)
    assert choice.alone == pytest.approx((by_hand[1.0], by_hand[0.0]), abs=1e-5)
    assert choice.without == pytest.approx((by_hand[0.0], by_hand[1.0]), abs=1e-5)


def test_a_scale_is_the_mean_distance_of_the_highest_score_from_the_mean(case):
    rng, positives = case
    spread = 10.0 ** rng.uniform(-1, 1, (LISTS, 1))  # Of each list.
    scores = (rng.normal(size=(LISTS, ITEMS)) * spread + rng.normal()).astype("float32")
    equal = np.full((LISTS, ITEMS), 0.7)  # Rounded in sums of ITEMS scores.
    assert (equal.mean(axis=1) != 0.7).all()
    got = scales_of([scorer(scores), scorer(equal)], validation(positives))
    by_hand = np.mean([max(row) - np.mean(row.astype("float64")) for row in scores])
    assert got == pytest.approx((by_hand, 1.0))


def test_weights_can_be_chosen_for_scores_with_a_scale(case):
    rng, positives = case
    first, second = (noisy(rng, positives, 2.0) for _ in range(2))
    second *= 50
    members, lists = [scorer(first), scorer(second)], validation(positives)
    scales = scales_of(members, lists)
    choice = choose_weights(members, lists, "none", 1, scales)
    one, two = factors(choice.weights, scales)
    assert 0.3 < choice.weights[0] < 0.7
    joined = reciprocal_rank(one * first + two * second, positives)
    assert choice.value == pytest.approx(joined, abs=1e-4)


def test_a_member_that_adds_nothing_is_left_out(case):
    rng, positives = case
    good, noise = noisy(rng, positives, 3.0), noisy(rng, positives, 0.0)
    choice = choose_weights(
        [scorer(noise), scorer(good), scorer(good + 1)],
        validation(positives),
        "z_score",
        seed=1,
    )
    assert sorted(choice.weights) == [0.0, 0.0, 1.0]
    assert choice.weights[0] == 0.0
    assert choice.without == (None, None, None)
    assert choice.value == pytest.approx(reciprocal_rank(good, positives), abs=1e-5)


def test_a_single_member_has_all_the_weight(case):
    rng, positives = case
    only = scorer(noisy(rng, positives, 1.0))
    assert choose_weights([only], validation(positives), "none", seed=1).weights == (
        1.0,
    )


def test_the_score_of_a_candidate_does_not_depend_on_the_other_candidates(tmp_path):
    members = "{kind='transition'}, {kind='linear', l2=20.0}"
    teacher = f"teacher={{kind='ensemble', weights=[2.0, 1.0], members=[{members}]}}"
    pipeline = Pipeline(small_pipelines.load(tmp_path, teacher))
    artefact = pipeline.run("teacher")
    model, prepared = pipeline.context.teacher_model, pipeline.prepared
    scales = scales_of(
        [lambda x, m=m: m(x).numpy() for m in model.members],
        pipeline.context.teacher_validation,
    )
    stored = json.loads((artefact.path / "member_weights.json").read_text())
    want = np.array([2.0, 1.0]) / scales
    assert stored == pytest.approx(want / want.sum(), rel=1e-5)
    lists = next(in_order(prepared.shards("valid"), 8))
    x, _, _ = Collator(prepared.catalogue_size)(lists, np.random.default_rng(0))
    mask = x["mask"]
    x["candidate_index"] = np.broadcast_to(x["candidate_index"], mask.shape)
    before = model(x).numpy()
    x["mask"] = mask & (np.arange(mask.shape[1]) % 3 == 0)
    assert x["mask"].any()
    np.testing.assert_array_equal(model(x).numpy(), np.where(x["mask"], before, 0.0))
