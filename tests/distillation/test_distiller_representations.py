"""Losses on embeddings in the Distiller: one forward pass, and projections."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from recdistill.distillation import layer_outputs
from recdistill.distillation.distiller import Distiller
from recdistill.losses import (
    ContrastiveAlignment,
    HintMSE,
    ListwiseCrossEntropy,
    ListwiseKLDivergence,
    RelationalAngle,
    RelationalDistance,
    hint_mse,
)
from tests.small_models import (
    FEW_ITEMS,
    LISTS,
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

WIDTH = 7
STORED = "teacher_query_embedding"


@pytest.fixture
def arrays():
    """Batches with stored embeddings of queries and of candidates."""
    x, y, weight = make_arrays()
    rng = np.random.default_rng(8)
    x[STORED] = rng.normal(size=(LISTS, WIDTH)).astype("float32")
    table = rng.normal(size=(len(FEW_ITEMS), WIDTH)).astype("float32")
    x["teacher_candidates"] = table[x["candidate_index"]]
    return x, y, weight


def candidates_hint(**kwargs):
    return HintMSE("candidate_embedding", "teacher_candidates", **kwargs)


def with_hints(*losses, teacher=None, student=None, **kwargs):
    losses = [ListwiseKLDivergence(temperature=2.0), *losses]
    kwargs = {"distillation_loss_weights": [1.0] * len(losses), **kwargs}
    return make_distiller(teacher, student, losses, **kwargs)


def test_weights_for_the_teacher_count_with_weights_of_candidates_as_well(arrays):
    x, y, _ = arrays
    x["teacher_weight"] = np.linspace(0.1, 3.0, LISTS, dtype="float32")

    def values(weight):
        keras.utils.set_random_seed(1)
        distiller = with_hints(HintMSE(), candidates_hint())
        return evaluate(distiller, make_batches((x, y, weight), LISTS))

    of_lists = values(np.ones(LISTS, "float32"))
    of_candidates = values(np.ones(x["mask"].shape, "float32"))
    assert of_candidates == pytest.approx(of_lists, rel=1e-5)


def test_hint_mse_compares_the_projected_embedding_of_the_same_forward_pass(arrays):
    x, _, weight = arrays
    distiller = with_hints(HintMSE(), candidates_hint())
    got = evaluate(distiller, make_batches(arrays, LISTS))
    _, queries, candidates = distiller.projections
    with layer_outputs.watching(
        distiller.student, ["query_embedding", "items"]
    ) as seen:
        distiller.student(x)
    assert queries.kernel.shape == (3, WIDTH)
    of_queries = np.array(seen["query_embedding"]) @ queries.kernel.numpy()
    want = np.average(np.mean((of_queries - x[STORED]) ** 2, axis=1), weights=weight)
    assert got["distillation_loss_hint_mse"] == pytest.approx(want, rel=1e-5)
    of_items = np.array(seen["items"]) @ candidates.kernel.numpy()
    per_list = hint_mse(x["teacher_candidates"], of_items, x["mask"])
    want = np.average(per_list, weights=weight)
    assert got["distillation_loss_hint_mse_2"] == pytest.approx(want, rel=1e-5)


def test_each_of_several_losses_is_reported_and_all_add_up(arrays):
    distiller = with_hints(
        HintMSE(name="hint"),
        RelationalDistance(teacher_output=STORED),
        RelationalAngle("candidate_embedding", "teacher_candidates"),
        ContrastiveAlignment(),
        distillation_loss_weights=[0.5, 2.0, 3.0, 0.0, 1.0],
        student_loss_weight=0.4,
    )
    batches = make_batches(arrays)
    history = fit(distiller, batches, validation_data=batches, epochs=2)
    names = ("listwise_kl_divergence", "hint", "relational_distance")
    names += ("relational_angle", "contrastive_alignment")
    for prefix in ("", "val_"):
        parts = [np.array(history[f"{prefix}distillation_loss_{n}"]) for n in names]
        assert all(part.min() > 0.0 for part in parts)
        weighted = np.dot([0.5, 2.0, 3.0, 0.0, 1.0], parts)
        np.testing.assert_allclose(
            history[f"{prefix}distillation_loss"], weighted / 6.5, rtol=1e-5
        )
        np.testing.assert_allclose(
            history[f"{prefix}loss"],
            0.4 * np.array(history[f"{prefix}relevance_loss"]) + weighted,
            rtol=1e-5,
        )
    assert history["loss"][1] < history["loss"][0]


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_student_and_teacher_run_once_a_step(arrays, run_eagerly):
    x, _, _ = arrays
    teacher, student = Teacher(), Student()
    teacher(x)
    distiller = with_hints(
        HintMSE("items", "teachers_items"),
        RelationalDistance("candidate_embedding", "teachers_items"),
        teacher=teacher,
        student=student,
    )
    distiller.compile("sgd", ListwiseCrossEntropy(), run_eagerly=run_eagerly)
    batches = make_batches(arrays, without=["teacher_scores"])
    distiller.predict(batches, verbose=0)
    for run in (fit, evaluate):
        before = int(teacher.runs), int(student.runs)
        run(distiller, batches)
        assert int(teacher.runs) - before[0] == 3
        assert int(student.runs) - before[1] == 3


def test_a_live_layer_and_the_same_embeddings_stored_give_one_loss(arrays):
    x, _, _ = arrays
    teacher, student = Teacher(), Student()
    with layer_outputs.watching(teacher, ["teachers_items"]) as seen:
        x["teacher_scores"] = np.array(teacher(x))
    x["teachers_items"] = np.array(seen["teachers_items"])
    losses = (
        HintMSE("candidate_embedding", "teachers_items", projection=True),
        RelationalDistance("candidate_embedding", "teachers_items"),
    )
    stored = with_hints(*losses, student=student)
    want = evaluate(stored, make_batches(arrays))
    live = with_hints(*losses, teacher=teacher, student=student)
    batches = make_batches(arrays, without=["teacher_scores", "teachers_items"])
    evaluate(live, batches)
    for mine, other in zip(live.projections, stored.projections, strict=True):
        if mine is not None:
            mine.set_weights(other.get_weights())
    assert evaluate(live, batches) == pytest.approx(want, rel=1e-5)


def test_stored_embeddings_are_hidden_from_both_models(arrays):
    class Curious(Student):
        def call(self, x, training=None):
            assert not {STORED, "teacher_scores"} & set(x)
            return super().call(x, training)

    def teacher(x, training):
        assert STORED not in x
        return x["affinity"]

    distiller = with_hints(HintMSE(), teacher=teacher, student=Curious())
    fit(distiller, make_batches(arrays, without=["teacher_scores"]))


def test_embeddings_alone_need_no_scores_and_no_relevance(arrays):
    losses = [HintMSE(), candidates_hint()]
    distiller = Distiller(None, Student(), losses, None, 0.0)
    distiller.compile(keras.optimizers.Adam(0.05))
    x, _, _ = arrays
    batches = make_batches((x,), without=["teacher_scores"])
    history = fit(distiller, batches, epochs=15)
    hints_apart = {f"distillation_loss_hint_mse{n}" for n in ("", "_2")}
    assert set(history) == {"loss", "distillation_loss"} | hints_apart
    assert history["loss"][-1] < 0.9 * history["loss"][0]


def test_projections_train_with_the_student_but_do_not_belong_to_it(arrays, tmp_path):
    student = Student()
    distiller = with_hints(HintMSE(), student=student)
    batches = make_batches(arrays)
    evaluate(distiller, batches)
    before = weights_of(distiller.projections[1])
    fit(distiller, batches)
    assert not np.array_equal(before[0], weights_of(distiller.projections[1])[0])
    assert len(student.weights) == 2
    assert len(distiller.weights) == 4
    student.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    np.testing.assert_array_equal(
        loaded.predict(batches, verbose=0), distiller.predict(batches, verbose=0)
    )
    student.save_weights(tmp_path / "hinted.weights.h5")
    plain = Student()
    plain(arrays[0])
    plain.save_weights(tmp_path / "plain.weights.h5")
    sizes = [(tmp_path / f"{n}.weights.h5").stat().st_size for n in ("hinted", "plain")]
    assert sizes[0] == sizes[1]


def test_a_loaded_distiller_continues_training(arrays, tmp_path):
    batches = make_batches(arrays)
    distiller = with_hints(HintMSE(), RelationalDistance(teacher_output=STORED))
    distiller.compile("adam", ListwiseCrossEntropy())
    fit(distiller, batches)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    for mine, theirs in zip(weights_of(loaded), weights_of(distiller), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    want = fit(distiller, batches, epochs=2)
    got = fit(loaded, batches, epochs=2)
    for name, values in want.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-5)


def test_a_distiller_that_predicts_first_can_train(arrays):
    distiller = with_hints(HintMSE())
    batches = make_batches(arrays, without=[STORED, "teacher_scores"])
    distiller.predict(batches, verbose=0)
    assert not distiller.projections[1].built
    fit(distiller, make_batches(arrays))
    assert distiller.projections[1].built


def test_without_a_projection_the_student_takes_the_teachers_axes(arrays):
    x, _, _ = arrays
    for name in (STORED, "teacher_candidates"):
        x[name] = x[name][..., :3]
    losses = [HintMSE(projection=False), candidates_hint(projection=False)]
    distiller = Distiller(None, Student(), losses, None, 0.0)
    distiller.compile(keras.optimizers.Adam(0.05))
    history = fit(distiller, make_batches(arrays), epochs=3)
    assert history["loss"][-1] < history["loss"][0]
    assert len(distiller.weights) == 2


@pytest.mark.parametrize("stored_per_list", [True, False])
def test_shared_candidates_give_the_loss_of_separate_lists(stored_per_list):
    x, y, weight = make_arrays(shared=True)
    index = x.pop("candidate_index")
    table = np.random.default_rng(8).normal(size=(len(FEW_ITEMS), 3)).astype("float32")
    student, losses = Student(), (candidates_hint(projection=False),)

    def share(x, y, weight):
        x = {**x, "candidate_index": tf.constant(index)}
        if not stored_per_list:
            x["teacher_candidates"] = tf.constant(table[index])
        return x, y, weight

    tiled = np.tile(table[index], (LISTS, 1, 1))
    x["teacher_candidates"] = tiled
    shared = make_batches((x, y, weight), LISTS).map(share)
    apart = {**x, "candidate_index": np.tile(index, (LISTS, 1))}
    want = evaluate(
        with_hints(*losses, student=student), make_batches((apart, y, weight), LISTS)
    )
    got = evaluate(with_hints(*losses, student=SharedStudent(student)), shared)
    assert got == pytest.approx(want, rel=1e-5)


class SharedStudent(keras.Model):
    """Exposes shared candidates as one list, as `TwoTowerStudent` does."""

    def __init__(self, student):
        super().__init__()
        self.student = student

    def call(self, x, training=None):
        layer_outputs.expose(
            "candidate_embedding", self.student.items(x["candidate_index"])[None]
        )
        items = self.student.items(x["candidate_index"])
        users = self.student.users(x["query"]["user"])
        return keras.ops.matmul(users, keras.ops.transpose(items))


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (
            [HintMSE("nothing", STORED)],
            r"`student_output` must be .*'nothing'.*'items', 'users'",
        ),
        (
            [HintMSE("users", "nothing")],
            r"`teacher_output` must be a key .*'nothing'.*keys=\['affinity'",
        ),
    ],
)
def test_missing_outputs_are_named(arrays, losses, message):
    with pytest.raises(ValueError, match=message):
        fit(with_hints(*losses, teacher=Teacher()), make_batches(arrays))


def test_missing_embeddings_are_named(arrays):
    message = "must hold `teacher_scores` and `teacher_query_embedding`: pass a teacher"
    with pytest.raises(ValueError, match=message):
        fit(with_hints(HintMSE()), make_batches(arrays, without=[STORED]))


def test_scores_of_another_forward_pass_are_refused(arrays):
    x, y, _ = arrays
    distiller = with_hints(HintMSE())
    with pytest.raises(ValueError, match="`y_pred` must come from this distiller's"):
        distiller.compute_loss(x, y, distiller.student(x))
    assert np.isfinite(distiller.compute_loss(x, y, distiller(x)))
    assert np.isfinite(distiller.compute_loss(x, y))


def test_projections_are_built_in_time_under_a_distribution_strategy(arrays):
    with tf.distribute.MirroredStrategy(["/cpu:0"]).scope():
        distiller = with_hints(
            HintMSE("candidate_embedding", "teachers_items"), teacher=Teacher()
        )
        distiller.compile("sgd", ListwiseCrossEntropy())
    history = fit(distiller, make_batches(arrays), epochs=2)
    assert history["loss"][1] < history["loss"][0]
