"""keras_metrics: by hand, compared with the NumPy functions, and inside Keras."""

import inspect
import math
import subprocess
import sys

import keras
import keras_rs
import numpy as np
import pytest
import tensorflow as tf

from recdistill import Distiller, metrics
from recdistill.losses import ListwiseCrossEntropy
from recdistill.metrics import keras_metrics
from tests.reference_metrics import ragged_batch
from tests.small_models import evaluate, fit, make_arrays, make_batches, make_distiller

FUNCTIONS = {
    metrics.NDCG: metrics.ndcg,
    metrics.Recall: metrics.recall,
    metrics.HitRate: metrics.hit_rate,
    metrics.ReciprocalRank: metrics.reciprocal_rank,
    metrics.AveragePrecision: metrics.average_precision,
}
EVERY_METRIC = pytest.mark.parametrize("metric_cls", FUNCTIONS)
RELEVANCE = np.array([[3.0, 0.0, 0.0, 1.0]])
SCORES = np.array([[0.2, 0.9, 0.1, 0.5]])  # ranks 3, 1, 4, 2


def result_of(metric, y_true, scores, sample_weight=None):
    metric.update_state(y_true, scores, sample_weight)
    return float(metric.result())


def test_the_contract_covers_every_public_metric():
    found = {
        cls
        for _, cls in inspect.getmembers(keras_metrics, inspect.isclass)
        if issubclass(cls, metrics.RankingMetric) and cls is not metrics.RankingMetric
    }
    assert found == set(FUNCTIONS)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (
            metrics.NDCG(4),
            (3 / 2 + 1 / math.log2(3)) / (3 + 1 / math.log2(3)),
        ),
        (metrics.NDCG(2), (1 / math.log2(3)) / (3 + 1 / math.log2(3))),
        (metrics.Recall(2), 1 / 2),
        (metrics.HitRate(1), 0.0),
        (metrics.HitRate(2), 1.0),
        (metrics.ReciprocalRank(), 1 / 2),
        (metrics.ReciprocalRank(1), 0.0),
        (metrics.AveragePrecision(4), (1 / 2 + 2 / 3) / 2),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_values_derived_by_hand(metric, expected):
    assert result_of(metric, RELEVANCE, SCORES) == pytest.approx(expected, abs=1e-6)


def test_without_a_cutoff_the_whole_list_is_evaluated():
    scores, _, relevance, mask = ragged_batch(seed=8)
    y_true = {"labels": relevance, "mask": mask}
    for metric_cls, function in FUNCTIONS.items():
        want = np.nanmean(function(scores, relevance, mask, scores.shape[1]))
        got = result_of(metric_cls(k=None), y_true, scores)
        assert got == pytest.approx(want, abs=1e-6)


def test_default_names_are_those_in_the_report():
    names = [cls().name for cls in FUNCTIONS]
    assert names == ["ndcg@10", "recall@10", "hit@10", "mrr", "map@10"]
    assert metrics.ReciprocalRank(5).name == "mrr@5"
    assert metrics.NDCG(None).name == "ndcg"
    assert metrics.NDCG(3, name="mine").name == "mine"


def test_same_numbers_as_keras_rs_for_binary_relevance_without_ties():
    rng = np.random.default_rng(0)
    relevance = (rng.random((30, 12)) < 0.3).astype("float32")
    relevance[:, 0] = 1.0
    scores = rng.normal(size=(30, 12)).astype("float32")
    for ours, theirs in [
        (metrics.NDCG, keras_rs.metrics.NDCG),
        (metrics.Recall, keras_rs.metrics.RecallAtK),
        (metrics.ReciprocalRank, keras_rs.metrics.MeanReciprocalRank),
        (metrics.AveragePrecision, keras_rs.metrics.MeanAveragePrecision),
    ]:
        want = result_of(theirs(k=5), relevance, scores)
        got = result_of(ours(k=5), relevance, scores)
        assert got == pytest.approx(want, abs=1e-6)


@EVERY_METRIC
class TestEveryMetric:
    @pytest.mark.parametrize("k", [1, 3, 10, 50])
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_equals_the_numpy_function(self, metric_cls, k, dtype):
        scores, _, relevance, mask = ragged_batch(dtype=dtype)
        each = FUNCTIONS[metric_cls](scores, relevance, mask, k)
        assert np.isnan(each).any()
        y_true = {"labels": relevance, "mask": mask}
        got = result_of(metric_cls(k), y_true, scores)
        assert got == pytest.approx(np.nanmean(each), abs=1e-6)

    def test_each_list_alone_equals_the_numpy_function(self, metric_cls):
        scores, _, relevance, mask = ragged_batch(seed=1)
        for row, want in enumerate(FUNCTIONS[metric_cls](scores, relevance, mask, 3)):
            one = slice(row, row + 1)
            y_true = {"labels": relevance[one], "mask": mask[one]}
            got = result_of(metric_cls(3), y_true, scores[one])
            np.testing.assert_allclose(got, want, atol=1e-6)

    def test_batches_add_up_to_the_whole(self, metric_cls):
        scores, _, relevance, mask = ragged_batch(seed=2)
        whole, parts = metric_cls(5), metric_cls(5)
        whole.update_state({"labels": relevance, "mask": mask}, scores)
        for rows in (slice(0, 7), slice(7, 40)):
            y_true = {"labels": relevance[rows], "mask": mask[rows]}
            parts.update_state(y_true, scores[rows])
        assert float(parts.result()) == pytest.approx(float(whole.result()), abs=1e-6)
        parts.reset_state()
        assert math.isnan(float(parts.result()))

    def test_without_any_relevant_candidate_the_result_is_nan(self, metric_cls):
        assert math.isnan(result_of(metric_cls(), np.zeros((2, 3)), np.ones((2, 3))))

    def test_of_equal_scores_the_earlier_candidate_ranks_first(self, metric_cls):
        equal = np.zeros((1, 2))
        assert result_of(metric_cls(1), [[1.0, 0.0]], equal) == 1.0
        assert result_of(metric_cls(1), [[0.0, 1.0]], equal) == 0.0

    def test_a_score_of_minus_infinity_ranks_before_padding(self, metric_cls):
        scores = np.array([[np.inf, -np.inf, 1.0]])
        y_true = {"labels": [[9.0, 1.0, 0.0]], "mask": [[False, True, True]]}
        got = result_of(metric_cls(2), y_true, scores)
        want = FUNCTIONS[metric_cls](scores, *map(np.array, y_true.values()), 2)
        assert got == pytest.approx(want[0], abs=1e-6)
        assert got > 0.0

    @pytest.mark.parametrize("score", [np.nan, np.inf])
    def test_a_score_of_nan_or_infinity_gives_nan(self, metric_cls, score):
        scores = np.array([[score, 1.0], [0.0, 1.0]])
        assert math.isnan(result_of(metric_cls(), [[1.0, 0.0], [0.0, 1.0]], scores))

    def test_values_under_padding_and_added_padding_change_nothing(self, metric_cls):
        scores, _, relevance, mask = ragged_batch(seed=7)
        want = result_of(metric_cls(3), {"labels": relevance, "mask": mask}, scores)
        for junk in (np.nan, np.inf, 1e30, -1e30):
            labels, others = (
                np.pad(
                    np.where(mask, values, junk),
                    [(0, 0), (1, 2)],
                    constant_values=junk,
                )
                for values in (relevance, scores)
            )
            wider = np.pad(mask, [(0, 0), (1, 2)])
            got = result_of(metric_cls(3), {"labels": labels, "mask": wider}, others)
            assert got == pytest.approx(want, abs=1e-6)

    def test_negative_relevance_counts_as_zero(self, metric_cls):
        got = result_of(metric_cls(2), [[-1.0, 2.0, 1.0]], SCORES[:, :3])
        want = result_of(metric_cls(2), [[0.0, 2.0, 1.0]], SCORES[:, :3])
        assert got == want

    def test_integer_labels_and_half_precision_scores_are_accepted(self, metric_cls):
        labels = np.array([[3, 0, 0, 1]])
        want = result_of(metric_cls(2), RELEVANCE, SCORES)
        for dtype in (tf.float16, tf.bfloat16):
            assert result_of(metric_cls(2), labels, tf.cast(SCORES, dtype)) == want

    def test_float64_scores_that_are_equal_in_float32_keep_their_order(
        self, metric_cls
    ):
        scores = np.array([[1.0, 1.0 + 1e-12]])
        assert result_of(metric_cls(1), [[0.0, 1.0]], scores) == 1.0
        assert result_of(metric_cls(1), [[1.0, 0.0]], scores) == 0.0

    def test_a_perfect_ranking_gives_one_and_a_miss_gives_zero(self, metric_cls):
        relevance = np.array([[0.0, 0.0, 1.0]])
        assert result_of(metric_cls(1), relevance, [[0.1, 0.2, 0.3]]) == 1.0
        assert result_of(metric_cls(1), relevance, [[0.3, 0.2, 0.1]]) == 0.0

    def test_list_weights_apply_to_the_mean(self, metric_cls):
        scores, _, relevance, mask = ragged_batch(seed=3)
        weight = np.random.default_rng(4).uniform(0.0, 3.0, len(scores))
        weight[0] = 0.0
        each = FUNCTIONS[metric_cls](scores, relevance, mask, 4)
        counts = ~np.isnan(each)
        want = np.average(each[counts], weights=weight[counts])
        y_true = {"labels": relevance, "mask": mask}
        got = result_of(metric_cls(4), y_true, scores, weight)
        assert got == pytest.approx(want, abs=1e-6)
        got = result_of(metric_cls(4), y_true, scores, 0.5)
        assert got == pytest.approx(np.nanmean(each), abs=1e-6)

    def test_a_list_of_weight_zero_does_not_count_even_with_nan_scores(
        self, metric_cls
    ):
        scores = np.array([[np.nan, 1.0], [0.0, 1.0]])
        relevance, weight = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0.0, 2.0])
        assert result_of(metric_cls(), relevance, scores, weight) == 1.0

    def test_weights_of_another_shape_raise_an_error(self, metric_cls):
        with pytest.raises(
            ValueError, match=r"`sample_weight` must have shape \(batch"
        ):
            metric_cls().update_state(RELEVANCE, SCORES, np.ones((1, 4)))

    def test_different_shapes_raise_an_error(self, metric_cls):
        with pytest.raises(ValueError, match="`scores` must have the shape of `mask`"):
            metric_cls().update_state(RELEVANCE, SCORES[:, :2])

    @pytest.mark.parametrize("k", [0, -1, 2.5, True])
    def test_an_invalid_cutoff_raises_an_error(self, metric_cls, k):
        with pytest.raises(ValueError, match=f"`k` must be .* Received: k={k}"):
            metric_cls(k=k)

    @pytest.mark.parametrize("jit_compile", [False, True])
    def test_graph_and_eager_agree_for_sizes_unknown_in_advance(
        self, metric_cls, jit_compile
    ):
        scores, _, relevance, mask = ragged_batch(seed=5)
        metric, matrix = metric_cls(5), tf.TensorSpec((None, None), tf.float64)

        @tf.function(
            input_signature=[matrix, tf.TensorSpec((None, None), tf.bool), matrix],
            jit_compile=jit_compile,
        )
        def update(labels, mask, scores):
            metric.update_state({"labels": labels, "mask": mask}, scores)

        update(relevance, mask, scores)
        want = result_of(metric_cls(5), {"labels": relevance, "mask": mask}, scores)
        assert float(metric.result()) == pytest.approx(want, abs=1e-6)

    @pytest.mark.parametrize("k", [3, None])
    def test_config_round_trip(self, metric_cls, k):
        metric = metric_cls(k=k, name="mine")
        config = keras.saving.serialize_keras_object(metric)
        assert config["registered_name"] == f"recdistill>{metric_cls.__name__}"
        copy = keras.saving.deserialize_keras_object(config)
        assert type(copy) is metric_cls
        assert copy.get_config() == metric.get_config()
        assert (copy.k, copy.name) == (k, "mine")

    @pytest.mark.slow
    def test_a_keras_model_reports_it_in_fit_and_evaluate(self, metric_cls):
        rng = np.random.default_rng(6)
        x, relevance = rng.normal(size=(20, 5)), np.eye(5)[rng.integers(0, 5, 20)]
        weight = rng.uniform(0.5, 2.0, 20)
        model = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(5)])
        model.compile(
            "sgd",
            "mse",
            metrics=[metric_cls(2)],
            weighted_metrics=[metric_cls(2, name="weighted")],
        )
        model.fit(x, relevance, epochs=1, verbose=0)
        got = model.evaluate(
            x,
            relevance,
            sample_weight=weight,
            batch_size=7,
            return_dict=True,
            verbose=0,
        )
        scores, everything = model.predict(x, verbose=0), np.ones((20, 5), bool)
        each = FUNCTIONS[metric_cls](scores, relevance, everything, 2)
        assert got[metric_cls(2).name] == pytest.approx(each.mean(), abs=1e-6)
        want = np.average(each, weights=weight)
        assert got["weighted"] == pytest.approx(want, abs=1e-6)


@EVERY_METRIC
@pytest.mark.slow
def test_a_distiller_reports_it_with_masks_and_list_weights(metric_cls):
    _, y, weight = arrays = make_arrays()
    assert not y["mask"].all()
    distiller = make_distiller()
    distiller.compile(
        "sgd",
        ListwiseCrossEntropy(),
        metrics=[metric_cls(2)],
        weighted_metrics=[metric_cls(2, name="weighted")],
    )
    batches = make_batches(arrays)
    history = fit(distiller, batches, validation_data=batches)
    got = evaluate(distiller, batches)
    scores = distiller.predict(batches, verbose=0)
    each = FUNCTIONS[metric_cls](scores, y["labels"], y["mask"], 2)
    name = metric_cls(2).name
    assert got[name] == pytest.approx(each.mean(), abs=1e-6)
    assert history[f"val_{name}"] == [pytest.approx(each.mean(), abs=1e-6)]
    want = np.average(each, weights=weight)
    assert got["weighted"] == pytest.approx(want, abs=1e-6)


@pytest.mark.slow
def test_of_candidate_weights_a_distiller_keeps_which_lists_count():
    x, y, _ = make_arrays()
    weight = np.ones(y["mask"].shape, "float32")
    weight[::2] = 0.0
    distiller = make_distiller()
    distiller.compile("sgd", ListwiseCrossEntropy(), weighted_metrics=[metrics.NDCG(2)])
    got = evaluate(distiller, make_batches((x, y, weight)))
    scores = distiller.predict(make_batches((x, y, weight)), verbose=0)
    each = FUNCTIONS[metrics.NDCG](scores, y["labels"], y["mask"], 2)
    assert got["ndcg@2"] == pytest.approx(each[1::2].mean(), abs=1e-6)


@pytest.mark.slow
def test_a_distiller_compiled_with_it_loads_in_a_new_process(tmp_path):
    student = keras.Sequential(
        [keras.layers.Input((3, 2)), keras.layers.Dense(1), keras.layers.Reshape((3,))]
    )
    distiller = Distiller(None, student, student_loss_weight=1.0)
    distiller.compile("sgd", ListwiseCrossEntropy(), metrics=[metrics.NDCG(2)])
    distiller.save(tmp_path / "distiller.keras")
    code = (
        "import sys, keras; from recdistill import Distiller; "
        "loaded = keras.saving.load_model(sys.argv[1]); "
        "print(loaded.get_compile_config()['metrics'][0]['config'])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "distiller.keras")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    config = {"name": "ndcg@2", "dtype": "float32", "k": 2}
    assert done.stdout.strip() == str(config)
