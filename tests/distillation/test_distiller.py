"""Distiller: its loss by hand, masks, sample weights and reported losses."""

from math import log
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill.distillation.distiller import Distiller
from recdistill.losses import (
    ListwiseCrossEntropy,
    ListwiseKLDivergence,
    ListwisePlackettLuce,
    ListwiseSoftCrossEntropy,
)
from tests.small_models import (
    LISTS,
    Fixed,
    Student,
    evaluate,
    fit,
    make_arrays,
    make_batches,
    make_distiller,
    weights_of,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def one_list():
    """The student scores its two candidates equally; a third is padding."""
    mask = tf.constant([[True, True, False]])
    x = {"mask": mask, "teacher_scores": tf.constant([[log(3.0), 0.0, 9.0]])}
    y = {"labels": tf.constant([[0.0, 2.0, 5.0]]), "mask": mask}
    return x, y, Fixed([[1.0, 1.0, 50.0]])


RELEVANCE = log(2.0)


DIVERGENCE = 3 / 4 * log((3 / 4) / (1 / 2)) + 1 / 4 * log((1 / 4) / (1 / 2))


def test_the_loss_is_the_weighted_sum_of_relevance_and_distillation(one_list):
    x, y, student = one_list
    distiller = make_distiller(
        student=student,
        losses=[ListwiseKLDivergence(), ListwiseCrossEntropy()],
        distillation_loss_weights=[0.7, 0.2],
        student_loss_weight=0.4,
    )
    got = evaluate(distiller, tf.data.Dataset.from_tensors((x, y)))
    # The teacher's scores taken as relevance are all on the first candidate.
    assert got["loss"] == pytest.approx(
        0.4 * RELEVANCE + 0.7 * DIVERGENCE + 0.2 * log(2.0), rel=1e-5
    )
    assert got["relevance_loss"] == pytest.approx(RELEVANCE, rel=1e-5)
    assert got["distillation_loss"] == pytest.approx(
        (0.7 * DIVERGENCE + 0.2 * log(2.0)) / 0.9, rel=1e-5
    )


def test_by_default_distillation_losses_share_the_weight_that_relevance_leaves(
    one_list,
):
    x, y, student = one_list
    losses = [ListwiseKLDivergence(), ListwiseKLDivergence(temperature=2.0)]
    distiller = make_distiller(student=student, losses=losses, student_loss_weight=0.4)
    assert distiller.distillation_loss_weights == pytest.approx((0.3, 0.3))
    single = make_distiller(
        student=student, losses=ListwiseKLDivergence(), student_loss_weight=0.4
    )
    got = evaluate(single, tf.data.Dataset.from_tensors((x, y)))
    assert got["loss"] == pytest.approx(0.4 * RELEVANCE + 0.6 * DIVERGENCE, rel=1e-5)


def test_weight_zero_still_reports_the_distillation_loss(one_list):
    x, y, student = one_list
    distiller = make_distiller(
        student=student, losses=ListwiseKLDivergence(), student_loss_weight=1.0
    )
    got = evaluate(distiller, tf.data.Dataset.from_tensors((x, y)))
    assert got["loss"] == pytest.approx(RELEVANCE, rel=1e-5)
    assert got["distillation_loss"] == pytest.approx(DIVERGENCE, rel=1e-5)


def test_bare_relevance_is_read_with_the_mask_of_the_batch(one_list):
    x, y, student = one_list
    distiller = make_distiller(student=student)
    bare = distiller.compute_loss(x, y["labels"])
    np.testing.assert_allclose(bare, distiller.compute_loss(x, y))


def test_the_regulariser_of_the_student_moves_the_loss():
    arrays = make_arrays()
    distiller = make_distiller(student=Student(penalty="l2"))
    got = evaluate(distiller, make_batches(arrays))
    penalty = 0.01 * np.sum(np.square(distiller.student.users.embeddings))
    assert penalty > 1e-6
    parts = 0.5 * got["relevance_loss"] + 0.5 * got["distillation_loss"]
    assert got["loss"] - parts == pytest.approx(penalty, rel=1e-2)


def test_two_replicas_halve_the_loss_and_report_it_whole(monkeypatch):
    x, y, weight = make_arrays()
    distiller = make_distiller(student=Student(penalty="l2"))
    loss = distiller.compute_loss(x, y, sample_weight=weight)
    report = distiller.get_metrics_result()
    distiller.reset_metrics()
    strategy = SimpleNamespace(num_replicas_in_sync=2)
    monkeypatch.setattr(tf.distribute, "get_strategy", lambda: strategy)
    halved = distiller.compute_loss(x, y, sample_weight=weight)
    np.testing.assert_allclose(halved, loss / 2, rtol=1e-6)
    for name, value in distiller.get_metrics_result().items():
        np.testing.assert_allclose(value, report[name], rtol=1e-6)


@pytest.mark.slow
def test_history_has_separate_losses_for_training_and_validation():
    batches = make_batches(make_arrays())
    history = fit(make_distiller(), batches, validation_data=batches, epochs=2)
    names = {"loss", "relevance_loss", "distillation_loss"}
    assert set(history) == names | {f"val_{name}" for name in names}
    for prefix in ("", "val_"):
        np.testing.assert_allclose(
            history[prefix + "loss"],
            0.5 * np.array(history[prefix + "relevance_loss"])
            + 0.5 * np.array(history[prefix + "distillation_loss"]),
            rtol=1e-5,
        )


@pytest.mark.slow
def test_reported_losses_are_reset_in_each_epoch():
    distiller = make_distiller(optimizer=keras.optimizers.SGD(0.0))
    batches = make_batches(make_arrays())
    history = fit(distiller, batches, validation_data=batches, epochs=2)
    for first, second in history.values():
        assert first == pytest.approx(second, rel=1e-6)


@pytest.mark.slow
def test_training_lowers_the_loss():
    distiller = make_distiller(optimizer=keras.optimizers.Adam(0.05))
    history = fit(distiller, make_batches(make_arrays()), epochs=20)
    assert history["loss"][-1] < 0.9 * history["loss"][0]


@pytest.mark.parametrize("shared", [False, True])
def test_neither_batch_size_nor_padded_lists_change_what_is_reported(shared):
    x, y, weight = make_arrays(shared)
    index = x["candidate_index"]
    distiller = make_distiller()

    def batches(*sizes):
        start = 0
        for size in sizes:
            rows = slice(start, start + size)
            inputs, labels, weights = tf.nest.map_structure(
                lambda array, rows=rows: tf.constant(array[rows]), (x, y, weight)
            )
            if shared:
                inputs["candidate_index"] = tf.constant(index)
            yield inputs, labels, weights
            start += size

    def evaluated(batches):
        distiller.reset_metrics()
        for batch in batches:
            distiller.test_step(batch)
        return {name: float(v) for name, v in distiller.get_metrics_result().items()}

    want = evaluated(batches(12))
    assert evaluated(batches(5, 5, 2)) == pytest.approx(want, rel=1e-5)
    nothing = [
        ({**inputs, "mask": tf.zeros_like(labels["mask"])}, labels, weights)
        for inputs, labels, weights in batches(4)
    ]
    for _, labels, _ in nothing:
        labels["mask"] = tf.zeros_like(labels["mask"])
    assert evaluated([*batches(12), *nothing]) == pytest.approx(want, rel=1e-5)


def test_sample_weight_zero_leaves_the_student_unchanged():
    x, y, weight = make_arrays()
    distiller = make_distiller(optimizer=keras.optimizers.Adam(0.1))
    distiller.predict(make_batches((x,)), verbose=0)
    before = weights_of(distiller)
    fit(distiller, make_batches((x, y, 0.0 * weight)))
    for old, new in zip(before, weights_of(distiller), strict=True):
        np.testing.assert_array_equal(old, new)
    fit(distiller, make_batches((x, y, weight)))
    assert not np.array_equal(before[0], weights_of(distiller)[0])


def test_lists_of_weight_zero_do_not_count():
    x, y, weight = make_arrays()
    keep = np.arange(LISTS) % 3 > 0
    kept = tf.nest.map_structure(lambda array: array[keep], (x, y, weight))
    distiller = make_distiller()
    want = evaluate(distiller, make_batches(kept))
    got = evaluate(distiller, make_batches((x, y, weight * keep)))
    assert got == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("per_candidate", [False, True])
def test_lists_about_which_the_teacher_says_nothing_count_for_relevance(per_candidate):
    x, y, weight = make_arrays()
    if per_candidate:
        weight = np.repeat(weight[:, None], x["mask"].shape[1], axis=1)
    keep = np.arange(LISTS) % 3 > 0
    kept = tf.nest.map_structure(lambda array: array[keep], (x, y, weight))
    distiller = make_distiller()
    taught = evaluate(distiller, make_batches(kept))
    judged = evaluate(distiller, make_batches((x, y, weight)))
    x["teacher_weight"] = keep.astype("float32")
    for batch_size in (2, 4, LISTS):
        got = evaluate(distiller, make_batches((x, y, weight), batch_size))
        for name, want in (("relevance_loss", judged), ("distillation_loss", taught)):
            assert got[name] == pytest.approx(want[name], rel=1e-5)


@pytest.mark.parametrize("loss", [ListwiseKLDivergence(), "mse"])
def test_weights_for_the_teacher_count_with_weights_of_candidates_as_well(loss):
    x, y, _ = make_arrays()
    x["teacher_weight"] = np.linspace(0.1, 3.0, LISTS, dtype="float32")

    def values(weight):
        keras.utils.set_random_seed(1)
        distiller = make_distiller(losses=[loss])
        return evaluate(distiller, make_batches((x, y, weight), LISTS))

    of_lists = values(np.ones(LISTS, "float32"))
    of_candidates = values(np.ones(x["mask"].shape, "float32"))
    assert of_candidates == pytest.approx(of_lists, rel=1e-5)


def test_each_distillation_loss_is_a_mean_with_the_weights_for_the_teacher():
    x, y, weight = make_arrays()
    x["teacher_weight"] = np.arange(LISTS, dtype="float32")
    losses = [ListwiseKLDivergence(), ListwisePlackettLuce()]
    distiller = make_distiller(losses=losses, temperatures=[2.0, None])
    small, large = (
        evaluate(distiller, make_batches((x, y, weight), size)) for size in (3, LISTS)
    )
    small.pop("loss"), large.pop("loss")
    assert len(small) == 5
    assert small == pytest.approx(large, rel=1e-5)


def test_relevance_with_a_mask_takes_its_own_item_weight():
    x, y, _ = make_arrays()
    weight = np.random.default_rng(2).uniform(1.0, 9.0, x["mask"].shape)
    x["item_weight"] = weight.astype("float32")

    distiller = make_distiller()

    def loss(**changes):
        batches = make_batches((x, {"labels": y["labels"], **changes}))
        return evaluate(distiller, batches)["relevance_loss"]

    own = {"mask": x["mask"], "item_weight": x["item_weight"]}
    assert loss(**own) == pytest.approx(loss(), rel=1e-6)
    without = loss(mask=x["mask"])
    assert without != pytest.approx(loss(), rel=1e-3)
    x.pop("item_weight")
    assert without == pytest.approx(loss(), rel=1e-6)


def test_evaluate_twice_is_equal_under_dropout_and_training_is_not():
    x, y, weight = make_arrays()
    distiller = make_distiller(student=Student(dropout=0.5))
    batches = make_batches((x, y, weight))
    assert evaluate(distiller, batches) == evaluate(distiller, batches)
    first = float(distiller.compute_loss(x, y, training=True))
    assert float(distiller.compute_loss(x, y, training=True)) != first
    still = float(distiller.compute_loss(x, y, training=False))
    assert float(distiller.compute_loss(x, y, training=False)) == still


@pytest.mark.slow
def test_eager_and_graph_training_agree():
    histories = []
    for run_eagerly in (False, True):
        keras.utils.set_random_seed(3)
        distiller = make_distiller()
        distiller.compile("sgd", ListwiseCrossEntropy(), run_eagerly=run_eagerly)
        histories.append(fit(distiller, make_batches(make_arrays()), epochs=2))
    for name, values in histories[0].items():
        np.testing.assert_allclose(values, histories[1][name], rtol=1e-5)


def test_pure_distillation_needs_no_relevance():
    x, _, _ = make_arrays()
    distiller = Distiller(None, Student(), ListwiseKLDivergence(), None, 0.0)
    distiller.compile("sgd")
    history = fit(distiller, make_batches((x,)), epochs=2)
    assert set(history) == {"loss", "distillation_loss"}
    assert history["loss"][1] < history["loss"][0]


@pytest.mark.slow
def test_candidates_may_be_shared_by_all_lists_of_a_batch():
    x, y, weight = make_arrays(shared=True)
    index = x.pop("candidate_index")

    def share(x, y, weight):
        return {**x, "candidate_index": tf.constant(index)}, y, weight

    shared = make_batches((x, y, weight)).map(share)
    x["candidate_index"] = np.tile(index, (LISTS, 1))
    student = Student()
    want = evaluate(make_distiller(student=student), make_batches((x, y, weight)))
    distiller = make_distiller(student=student)
    assert evaluate(distiller, shared) == pytest.approx(want, rel=1e-5)
    fit(distiller, shared)
    assert evaluate(distiller, shared)["loss"] < want["loss"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"student_loss_weight": 1.5}, "between 0 and 1. .*student_loss_weight=1.5"),
        ({"student_loss_weight": -0.1}, "student_loss_weight=-0.1"),
        ({"student_loss_weight": float("nan")}, "student_loss_weight=nan"),
        ({"distillation_loss_weights": [0.5, 0.5]}, r"=\[0.5, 0.5\], 1 losses"),
        ({"distillation_loss_weights": [-1.0]}, r"at least 0, .*=\[-1.0\]"),
        ({"distillation_loss_weights": [float("inf")]}, r"finite .*=\[inf\]"),
        ({"losses": None, "student_loss_weight": 0.0}, "`distillation_losses` must be"),
        ({"losses": ["kl"]}, "must be a Keras loss .*Received: 'kl'"),
        ({"losses": [ListwiseKLDivergence(reduction=None)]}, "with a reduction"),
    ],
)
def test_bad_arguments_are_named_with_their_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_distiller(**arguments)


def test_compile_names_a_missing_or_unusable_argument():
    distiller = Distiller(None, Student(), ListwiseKLDivergence())
    with pytest.raises(ValueError, match=r"`loss` must be given .*loss_weight=0.5"):
        distiller.compile("sgd")
    with pytest.raises(ValueError, match=r"`loss` must be a Keras loss .*'ndcg'"):
        distiller.compile("sgd", loss="ndcg")
    with pytest.raises(ValueError, match=r"`metrics` must be .*Received: 'ndcg'"):
        distiller.compile("sgd", loss=ListwiseCrossEntropy(), metrics=["ndcg"])
    with pytest.raises(ValueError, match="`loss_weights` must be None"):
        distiller.compile("sgd", loss=ListwiseCrossEntropy(), loss_weights=[0.5])


def test_a_batch_without_relevance_or_mask_is_an_error():
    x, y, _ = make_arrays()
    with pytest.raises(ValueError, match="`y` must hold the relevance"):
        fit(make_distiller(), make_batches((x,)))
    with pytest.raises(ValueError, match='`x` must have the key "mask"'):
        fit(make_distiller(), make_batches((x, y), without=["mask"]))


def test_a_step_has_one_softmax_of_each_side_whatever_the_number_of_losses():
    x, y, _ = make_arrays()
    losses = [ListwiseKLDivergence(), ListwiseSoftCrossEntropy()]
    distiller = make_distiller(losses=losses)
    distiller(x)

    @tf.function
    def loss(x, y):
        return distiller.compute_loss(x, {"labels": y["labels"]}, None, None)

    arrays = tf.nest.map_structure(tf.constant, (x, y))
    operations = loss.get_concrete_function(*arrays).graph.get_operations()
    exponentials = [each for each in operations if each.type == "Exp"]
    assert len(exponentials) == 2


def test_lists_of_all_sizes_share_one_trace_of_the_step():
    traced = []

    class Counting(Student):
        def call(self, x, training=None):
            traced.append(x["mask"].shape)
            return super().call(x, training)

    distiller = make_distiller(student=Counting())
    x, y, weight = make_arrays()

    def batches(sizes):
        for size in sizes:
            short = {**x, **{n: x[n][:, :size] for n in x if n != "query"}}
            yield short, {"labels": y["labels"][:, :size]}, weight

    signature = tf.nest.map_structure(
        lambda each: tf.TensorSpec([None] * each.ndim, each.dtype), next(batches([4]))
    )
    data = tf.data.Dataset.from_generator(
        lambda: batches([4, 3, 2, 4, 1, 3]), output_signature=signature
    )
    endless = data.repeat()
    distiller.fit(endless, steps_per_epoch=1, verbose=0, shuffle=False)
    before = len(traced)
    distiller.fit(endless, steps_per_epoch=6, verbose=0, shuffle=False)
    assert len(traced) == before
