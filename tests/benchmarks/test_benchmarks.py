"""benchmarks: tiny runs give explained, finite figures, and both sides agree."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import (
    Benchmark,
    distiller_correctness,
    keras_distillation,
    linear,
    metrics,
    sized,
)
from benchmarks.__main__ import (
    BENCHMARKS,
    arguments,
    as_table,
    earlier,
    measured,
    shown,
    write,
)

pytestmark = pytest.mark.slow

SCALE = 0.01
LARGER = {"metrics": 0.03, "linear": 0.03}
PIPELINES = ("growth", "keras_distillation")
"""They run whole pipelines; their parts have tests of their own."""
MEASURED = [each for each in BENCHMARKS if each.name not in PIPELINES]


@pytest.fixture(scope="module")
def outcomes():
    return {each.name: each.run(LARGER.get(each.name, SCALE)) for each in MEASURED}


@pytest.mark.parametrize("benchmark", MEASURED, ids=lambda each: each.name)
def test_every_figure_is_finite_and_explained(outcomes, benchmark):
    outcome = outcomes[benchmark.name]
    assert set(outcome) == {"sizes", "figures"}
    # A peer that is not installed is explained but has no figures.
    missing = set(benchmark.reading) - set(outcome["figures"])
    assert set(outcome["figures"]) <= set(benchmark.reading)
    assert all("recbole" in name or "faiss" in name for name in missing)
    for value in outcome["figures"].values():
        assert isinstance(value, int | float)
        assert math.isfinite(value)
    assert all(isinstance(size, int) and size > 0 for size in outcome["sizes"].values())


TIMED = [each for each in MEASURED if each.name != "distiller_correctness"]


@pytest.mark.parametrize("benchmark", TIMED, ids=lambda each: each.name)
def test_times_rates_and_speedups_are_positive(outcomes, benchmark):
    timed = {
        name: value
        for name, value in outcomes[benchmark.name]["figures"].items()
        if name.endswith(("_s", "_ms", "_per_second")) or "speedup" in name
    }
    assert timed
    assert min(timed.values()) > 0.0


@pytest.mark.parametrize("benchmark", MEASURED, ids=lambda each: each.name)
def test_both_sides_compute_the_same(outcomes, benchmark):
    differences = [
        value
        for name, value in outcomes[benchmark.name]["figures"].items()
        if "difference" in name
    ]
    assert differences
    assert max(differences) < 1e-4


def test_evaluated_lists_have_hits_and_misses(outcomes):
    figures = outcomes["metrics"]["figures"]
    for name in metrics.NAMES:
        assert 0.1 < figures[f"mean_{name}"] < 0.99


def test_only_a_live_teacher_is_called_and_saved(outcomes):
    outcome = outcomes["distiller"]
    figures, steps = outcome["figures"], outcome["sizes"]["steps_in_an_epoch"]
    for calls in ("teacher_calls", "teacher_calls_in_validation"):
        assert figures[f"recdistill_stored_{calls}"] == 0
        assert figures[f"keras_stored_{calls}"] == 0
        assert figures[f"recdistill_live_{calls}"] == steps
        assert figures[f"keras_live_{calls}"] == steps
    # The second layer of the teacher alone is 256 x 256 numbers of four bytes.
    saved = figures["keras_live_saved_bytes"] - figures["recdistill_stored_saved_bytes"]
    assert saved > 256 * 256 * 4


def test_losses_on_the_known_pair_match_the_definition(outcomes):
    figures = outcomes["distiller_correctness"]["figures"]
    # Teacher [2, 1, 0, -1] and student [1, 2, 0, -1]: p and q differ in the first two.
    e = math.e
    total = e**2 + e + 1 + 1 / e
    by_hand = (e**2 / total) * 1 + (e / total) * -1
    assert figures["loss_at_1_reference"] == pytest.approx(by_hand)
    assert by_hand == pytest.approx(0.4070, abs=5e-5)
    for temperature in (1, 3):
        want = figures[f"loss_at_{temperature}_reference"]
        for name in ("recdistill", "keras_explicit"):
            got = figures[f"loss_at_{temperature}_{name}"]
            assert got == pytest.approx(want, rel=1e-5)


def test_only_our_losses_apply_masks_and_weights(outcomes):
    figures = outcomes["distiller_correctness"]["figures"]
    for name in ("padded_error", "empty_error", "weight_error"):
        assert figures[f"{name}_recdistill"] < 1e-5
        assert figures[f"{name}_keras"] > 0.1
    assert figures["moved_by_weight_zero_recdistill"] == 0.0
    assert figures["moved_by_weight_zero_keras"] > 0.0
    # A careful user gets padding right, but for lists that are nothing else.
    assert figures["padded_error_keras_filled"] < 1e-5
    assert figures["empty_error_keras_filled"] == pytest.approx(1 / 4, rel=1e-4)


def test_the_definition_of_the_benchmark_is_the_sum_by_hand():
    # 2² Σ p log(p / q) with p = (3/4, 1/4) and q = (1/2, 1/2).
    got = distiller_correctness.kl_divergence([2 * math.log(3.0), 0.0], [1.0, 1.0], 2.0)
    want = 4 * (3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2))
    assert got == pytest.approx(want)


def test_refitting_leaves_out_the_row_of_the_query():
    training_rows, histories = linear.make_training_rows({"queries": 30, "items": 40})
    got = linear.refitted_scores(training_rows, histories)
    rest = np.delete(training_rows, 3, axis=0)
    inverse = np.linalg.inv(rest.T @ rest + linear.L2 * np.eye(40))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    row = np.zeros(40)
    for age, index in enumerate(histories[3][histories[3] > 0] - linear.FIRST):
        row[index] = linear.FLOOR + (1 - linear.FLOOR) * linear.DECAY**age
    raw = row @ weights
    free = raw[row == 0.0]
    np.testing.assert_allclose(got[3], (raw - free.mean()) / free.std(), atol=1e-9)


def test_runs_and_relevance_judgements_use_the_same_candidate_names():
    run = metrics.as_run(np.array([[0.5, 2.0]]), ["a", "b"])
    judged = metrics.as_qrels(np.array([[0.0, 3.0]]), ["a", "b"])
    assert run == {"0": {"a": 0.5, "b": 2.0}}
    assert judged == {"0": {"b": 3}}


def test_results_hold_every_figure_and_the_machine(outcomes, tmp_path):
    report, numbers = sorted(write(outcomes, tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "RESULTS.md",
        "results.json",
    ]
    document = json.loads(numbers.read_text(encoding="utf-8"))
    assert document["benchmarks"] == outcomes
    assert document["environment"]["cores"] >= 1
    text = report.read_text(encoding="utf-8")
    assert document["environment"]["cpu"] in text
    for benchmark in MEASURED:
        assert f"## {benchmark.title}" in text
        assert benchmark.equal in text
        for name, value in outcomes[benchmark.name]["figures"].items():
            row = f"| `{name}` | {shown(value)} | {benchmark.reading[name]} |"
            assert row in text


def test_a_teacher_of_keras_reads_no_stored_scores_and_labels_sum_to_one():
    x = {"mask": np.array([[True, True, False]]), "teacher_scores": np.zeros((1, 3))}
    labels = tf.constant([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    got, distribution = keras_distillation.for_keras(x, {"labels": labels})
    assert list(got) == ["mask"]
    np.testing.assert_allclose(distribution, [[0.75, 0.25, 0.0], [0.0, 0.0, 0.0]])


def test_the_score_of_a_masked_candidate_is_low_for_keras():
    model = keras_distillation.Masked(lambda x, training: x["scores"])
    x = {"scores": tf.constant([[5.0, 6.0]]), "mask": tf.constant([[True, False]])}
    np.testing.assert_allclose(model(x), [[5.0, -1e9]])


def test_a_benchmark_that_was_not_run_again_keeps_its_section(outcomes, tmp_path):
    first, second = MEASURED[:2]
    write({first.name: outcomes[first.name]}, tmp_path)
    kept = earlier(tmp_path)
    assert kept == {first.name: outcomes[first.name]}
    write(kept | {second.name: outcomes[second.name]}, tmp_path)
    text = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert text.index(f"## {first.title}") and text.index(f"## {second.title}")
    assert MEASURED[2].title not in text


def test_an_unknown_benchmark_is_an_error_that_lists_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        arguments(["speed"])
    shown_text = " ".join(capsys.readouterr().err.split())
    assert "Received: speed" in shown_text and "keras_distillation" in shown_text


def test_a_benchmark_without_time_left_is_not_started():
    with pytest.raises(TimeoutError, match="No time is left"):
        measured("metrics", 1.0, 0.0)


def test_a_figure_that_is_not_finite_leaves_the_old_files(tmp_path):
    (tmp_path / "results.json").write_text("old", encoding="utf-8")
    wrong = Benchmark("wrong", "Wrong", "", "", {"x": ""}, lambda scale: {})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write({"wrong": {"sizes": {}, "figures": {"x": math.nan}}}, tmp_path, [wrong])
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert (tmp_path / "results.json").read_text(encoding="utf-8") == "old"


def test_table_has_a_row_for_each_figure(outcomes):
    for outcome in outcomes.values():
        assert as_table(outcome).row_count == len(outcome["figures"])


@pytest.mark.parametrize(
    ("value", "text"),
    [(38152, "38,152"), (8781.4, "8,781"), (0.40703, "0.407"), (5.41e-6, "5.41e-06")],
)
def test_numbers_are_shown_to_four_digits(value, text):
    assert shown(value) == text


def test_sizes_shrink_with_the_scale_down_to_a_minimum():
    assert sized(100, 1.0) == 100
    assert sized(100, 0.05) == 5
    assert sized(100, 0.001, least=4) == 4
