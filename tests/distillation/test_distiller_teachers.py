"""Teachers of a Distiller: live or stored, one or several, never trained."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill.distillation.ensemble_scores import ensemble_scores
from recdistill.losses import ListwiseCrossEntropy
from recdistill.models.ensemble import EnsembleTeacher
from tests.small_models import (
    Student,
    Teacher,
    evaluate,
    fit,
    make_arrays,
    make_batches,
    make_distiller,
    weights_of,
)

pytestmark = pytest.mark.slow


def test_stored_scores_and_a_live_teacher_give_the_same_loss():
    x, y, weight = make_arrays()
    teacher, student = Teacher(), Student()
    x["teacher_scores"] = np.array(teacher(x))
    stored = evaluate(make_distiller(None, student), make_batches((x, y, weight)))
    live = evaluate(
        make_distiller(teacher, student),
        make_batches((x, y, weight), without=["teacher_scores"]),
    )
    assert live == pytest.approx(stored, rel=1e-5)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_teacher_runs_only_where_scores_are_missing_and_student_once_a_step(
    run_eagerly,
):
    arrays = make_arrays()
    teacher, student = Teacher(), Student()
    stored = make_batches(arrays)
    live = make_batches(arrays, without=["teacher_scores"])
    teacher(arrays[0])
    distiller = make_distiller(teacher, student)
    distiller.compile("sgd", ListwiseCrossEntropy(), run_eagerly=run_eagerly)
    distiller.predict(stored, verbose=0)
    for batches, teacher_runs in [(stored, 0), (live, 3)]:
        before = int(teacher.runs), int(student.runs)
        fit(distiller, batches)
        evaluate(distiller, batches)
        assert int(teacher.runs) - before[0] == 2 * teacher_runs
        assert int(student.runs) - before[1] == 2 * 3
    before = int(teacher.runs)
    distiller.predict(live, verbose=0)
    assert int(teacher.runs) == before


def test_teacher_may_be_any_function_and_is_not_trained():
    x, y, weight = make_arrays()
    teacher = Teacher()
    teacher(x)
    before = weights_of(teacher)

    def score(x, training):
        assert training is False
        assert "teacher_scores" not in x
        return 10.0 * teacher(x)

    distiller = make_distiller(score)
    batches = make_batches((x, y, weight), without=["teacher_scores"])
    fit(distiller, batches, epochs=2)
    for old, new in zip(before, weights_of(teacher), strict=True):
        np.testing.assert_array_equal(old, new)


def test_no_gradient_flows_through_a_teacher_that_shares_weights():
    x, y, _ = make_arrays()
    student = Student()

    def gradient(teacher, x):
        distiller = make_distiller(teacher, student)
        with tf.GradientTape() as tape:
            loss = distiller.compute_loss(x, y)
        return tf.convert_to_tensor(tape.gradient(loss, student.trainable_weights[0]))

    def opposite(x, training):
        return -student(x, training=training)

    stored = gradient(None, {**x, "teacher_scores": opposite(x, training=False)})
    del x["teacher_scores"]
    np.testing.assert_allclose(gradient(opposite, x), stored, rtol=1e-6)


def test_the_baseline_trains_through_the_same_class_without_any_teacher():
    arrays = make_arrays()
    batches = make_batches(arrays, without=["teacher_scores"])
    baseline = make_distiller(losses=None, student_loss_weight=1.0)
    history = fit(baseline, batches, epochs=2)
    assert set(history) == {"loss", "relevance_loss"}
    np.testing.assert_allclose(history["loss"], history["relevance_loss"], rtol=1e-6)
    assert history["loss"][1] < history["loss"][0]


@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_missing_scores_are_an_error_that_names_both_remedies(method):
    batches = make_batches(make_arrays(), without=["teacher_scores"])
    distiller = make_distiller(None)
    run = {"fit": fit, "evaluate": evaluate}[method]
    message = r"`teacher` must be given.*pass a teacher.*or store.*keys=\['affinity'"
    with pytest.raises(ValueError, match=message):
        run(distiller, batches)


def standardised(scores, mask):
    rows = []
    for row, real in zip(scores, mask, strict=True):
        values = row[real]
        z = np.zeros(len(row))
        z[real] = (values - values.mean()) / values.std()
        rows.append(z)
    return np.array(rows)


@pytest.fixture
def several():
    """Two teachers with different scales, live and stored."""
    x, y, weight = make_arrays()
    ranker, mask = Teacher(), x["mask"]

    def linear(x, training):
        return -50.0 * x["affinity"] + 1_000.0

    scores = {"linear": np.array(linear(x, False)), "ranker": np.array(ranker(x))}
    z = {name: standardised(each, mask) for name, each in scores.items()}
    return x, y, weight, {"linear": linear, "ranker": ranker}, scores, z


@pytest.mark.parametrize("weights", [None, {"ranker": 3.0, "linear": 0.5}])
def test_several_teachers_are_the_weighted_mean_of_their_z_scores(several, weights):
    x, y, weight, teachers, scores, z = several
    student = Student()

    def loss(teacher, stored, teacher_weights=weights):
        distiller = make_distiller(teacher, student, teacher_weights=teacher_weights)
        arrays = {**x, "teacher_scores": stored}, y, weight
        without = ["teacher_scores"] if stored is None else []
        if stored is None:
            arrays[0]["teacher_scores"] = x["affinity"]
        return evaluate(distiller, make_batches(arrays, without=without))["loss"]

    used = {"linear": 1 / 2, "ranker": 1 / 2}
    if weights:
        used = {"linear": 0.5 / 3.5, "ranker": 3.0 / 3.5}
    joined = sum(used[name] * z[name] for name in z).astype("float32")
    want = loss(None, joined, None)
    in_order = None if weights is None else [0.5, 3.0]
    stack = np.stack([scores["linear"], scores["ranker"]], axis=1)
    assert loss(None, scores) == pytest.approx(want, rel=1e-5)
    assert loss(None, stack, in_order) == pytest.approx(want, rel=1e-5)
    assert loss(teachers, None) == pytest.approx(want, rel=1e-5)
    in_a_list = [teachers["linear"], teachers["ranker"]]
    assert loss(in_a_list, None, in_order) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("weights", [None, [0.5, 3.0]])
def test_an_ensemble_teacher_gives_the_same_scores_as_several_teachers(
    several, weights
):
    x, _, _, teachers, scores, z = several
    ensemble = EnsembleTeacher([Member(each) for each in teachers.values()], weights)
    ours = ensemble_scores(scores, x["mask"], weights)
    np.testing.assert_array_equal(ours, ensemble(x))
    if weights is None:
        want = np.where(x["mask"], (z["linear"] + z["ranker"]) / 2, 0.0)
        np.testing.assert_allclose(ours, want, rtol=1e-4, atol=1e-5)


def test_a_distiller_with_an_ensemble_teacher_has_the_loss_of_one_with_its_members(
    several,
):
    x, y, weight, teachers, _, _ = several
    student, members = Student(), list(teachers.values())
    batches = make_batches((x, y, weight), without=["teacher_scores"])
    want = evaluate(make_distiller(members, student), batches)
    ensemble = EnsembleTeacher([Member(each) for each in members])
    got = evaluate(make_distiller(ensemble, student), batches)
    assert got == pytest.approx(want, rel=1e-6)


class Member(keras.Model):
    """A function as a Keras model."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x, training=False):
        return self.function(x, training=training)


def test_several_teachers_run_once_each_and_are_not_saved(several, tmp_path):
    x, y, weight, _, _, _ = several
    teachers = [Teacher(), Teacher()]
    for teacher in teachers:
        teacher(x)
    before = [int(teacher.runs) for teacher in teachers]
    distiller = make_distiller(teachers)
    fit(distiller, make_batches((x, y, weight), without=["teacher_scores"]))
    assert [int(teacher.runs) for teacher in teachers] == [n + 3 for n in before]
    assert len(distiller.variables) == 2
    distiller.save_weights(tmp_path / "d.weights.h5")
    assert b"teachers_" not in (tmp_path / "d.weights.h5").read_bytes()


@pytest.mark.parametrize(
    ("teacher", "weights", "message"),
    [
        ([], None, "`teacher` must not be empty"),
        ([len, len], [1.0], r"one weight for each teacher.*\[1.0\].*\['0', '1'\]"),
        ({"a": len}, {"b": 1.0}, r"one weight for each teacher.*'b'.*\['a'\]"),
        ([len, len], [1.0, -1.0], r"at least 0 and not all 0.*\[1.0, -1.0\]"),
        ([len, len], [0.0, 0.0], r"not all 0.*\[0.0, 0.0\]"),
        (len, [1.0], "`teacher_weights` must be None if there is one teacher"),
    ],
)
def test_bad_teachers_and_weights_are_named(teacher, weights, message):
    with pytest.raises(ValueError, match=message):
        make_distiller(teacher, teacher_weights=weights)


def test_weights_that_do_not_fit_stored_scores_are_named(several):
    x, y, weight, _, scores, _ = several
    distiller = make_distiller(None, teacher_weights=[1.0, 2.0, 3.0])
    with pytest.raises(
        ValueError, match=r"one weight for each.*\['linear', 'ranker'\]"
    ):
        evaluate(distiller, make_batches(({**x, "teacher_scores": scores}, y, weight)))


@pytest.mark.parametrize(
    ("answer", "received"),
    [
        (lambda s: {"click": s, "bounce": -s}, r"keys \['bounce', 'click'\]"),
        (lambda s: s[..., None], r"the shape \(.*, 1\)"),
        (lambda s: (s, s), "2 outputs"),
    ],
)
def test_a_teacher_that_returns_something_else_than_scores_is_an_error(
    answer, received
):
    teacher = Teacher()
    batches = make_batches(make_arrays(), without=["teacher_scores"])
    distiller = make_distiller(lambda x, training: answer(teacher(x)))
    with pytest.raises(ValueError, match=f"`teacher` must return .*{received}"):
        fit(distiller, batches)
