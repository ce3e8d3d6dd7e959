"""Properties of every ranking metric: padding, order, scale, independence of lists."""

import numpy as np

from recdistill.lists import numpy_ranks
from recdistill.metrics import agreement, ranking
from tests.reference_metrics import AGREEMENT, RELEVANCE_METRICS, ragged_batch


def every_metric(scores, others, relevance, mask):
    values = {
        name: getattr(ranking, name)(scores, relevance, mask, 4)
        for name in RELEVANCE_METRICS
    }
    for name, settings in AGREEMENT.items():
        values[name] = getattr(agreement, name)(scores, others, mask, **settings)
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
