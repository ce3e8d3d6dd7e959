"""Distiller: its loss by hand, then what keras.distillation.Distiller gets wrong."""

from math import log
from types import SimpleNamespace

import keras
import keras_rs
import numpy as np
import pytest
import tensorflow as tf

from recdistill.distiller import Distiller
from recdistill.losses import ListwiseCrossEntropy, ListwiseKLDivergence

LISTS, LIST_SIZE, ITEMS = 12, 4, 9

# Keras 3.15 hands its variables to NumPy 2 in a way that NumPy is going to drop.


class Runs:
    """Counts how often a model really runs; traces do not count."""

    def __init__(self):
        self.count = tf.Variable(0)

    def __int__(self):
        return int(self.count)


@keras.saving.register_keras_serializable(package="tests")
class Student(keras.Model):
    """The dot product of a user's and an item's embedding."""

    def __init__(self, dropout=0.0, penalty=None, **kwargs):
        super().__init__(**kwargs)
        self.dropout_rate, self.penalty = dropout, penalty
        self.users = keras.layers.Embedding(5, 3, embeddings_regularizer=penalty)
        self.items = keras.layers.Embedding(ITEMS, 3)
        self.dropout = keras.layers.Dropout(dropout, seed=1)
        self.runs = Runs()

    def call(self, x, training=None):
        self.runs.count.assign_add(1)
        users = self.dropout(self.users(x["query"]["user"]), training=training)
        items = self.items(x["candidate_index"])
        shared = "bd,nd->bn" if len(items.shape) == 2 else "bd,bnd->bn"
        return keras.ops.einsum(shared, users, items)

    def get_config(self):
        config = {"dropout": self.dropout_rate, "penalty": self.penalty}
        return {**super().get_config(), **config}


class Teacher(keras.Model):
    """Reads a feature of the pair that the student does not know, and has dropout."""

    def __init__(self):
        super().__init__()
        self.items = keras.layers.Embedding(ITEMS, 50, name="teachers_items")
        self.head = keras.layers.Dense(1, name="teachers_head")
        self.dropout = keras.layers.Dropout(0.5)
        self.runs = Runs()

    def call(self, x, training=None):
        self.runs.count.assign_add(1)
        items = self.dropout(self.items(x["candidate_index"]), training=training)
        return self.head(items)[..., 0] + x["affinity"]


class Fixed(keras.Model):
    """A student that has learnt its scores by heart."""

    def __init__(self, scores):
        super().__init__()
        self.scores = self.add_weight(shape=np.shape(scores), initializer="zeros")
        self.scores.assign(scores)

    def call(self, x):
        return self.scores + 0.0 * tf.cast(x["mask"], "float32")


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(3)


def make_arrays(shared=False):
    rng = np.random.default_rng(5)
    shape = (LISTS, LIST_SIZE)
    mask = np.arange(LIST_SIZE) < rng.integers(2, LIST_SIZE + 1, LISTS)[:, None]
    x = {
        "query": {"user": rng.integers(0, 5, LISTS)},
        "candidate_index": rng.integers(0, ITEMS, LIST_SIZE if shared else shape),
        "mask": mask,
        "affinity": rng.normal(size=shape).astype("float32"),
        "teacher_scores": rng.normal(-3.0, 2.0, shape).astype("float32"),
    }
    relevance = rng.integers(0, 3, shape).astype("float32")
    relevance[:, 0] += 1.0
    weight = rng.uniform(0.5, 2.0, LISTS).astype("float32")
    return x, {"labels": relevance, "mask": mask}, weight


def make_batches(arrays, batch_size=4, without=()):
    x, *rest = arrays
    x = {name: value for name, value in x.items() if name not in without}
    return tf.data.Dataset.from_tensor_slices((x, *rest)).batch(batch_size)


def make_distiller(teacher=None, student=None, losses="kl", optimizer="sgd", **kwargs):
    losses = ListwiseKLDivergence(temperature=2.0) if losses == "kl" else losses
    student = Student() if student is None else student
    distiller = Distiller(teacher, student, losses, **kwargs)
    distiller.compile(optimizer=optimizer, loss=ListwiseCrossEntropy())
    return distiller


def fit(distiller, batches, **kwargs):
    return distiller.fit(batches, shuffle=False, verbose=0, **kwargs).history


def evaluate(distiller, batches):
    return distiller.evaluate(batches, verbose=0, return_dict=True)


def weights_of(model):
    return [np.array(weight) for weight in model.get_weights()]


@pytest.fixture
def one_list():
    """The student finds its two candidates alike; a third is padding."""
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


def test_by_default_distillation_losses_share_what_relevance_leaves(one_list):
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


def test_history_has_the_losses_apart_for_training_and_validation():
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


def test_reported_losses_start_afresh_in_each_epoch():
    distiller = make_distiller(optimizer=keras.optimizers.SGD(0.0))
    batches = make_batches(make_arrays())
    history = fit(distiller, batches, validation_data=batches, epochs=2)
    for first, second in history.values():
        assert first == pytest.approx(second, rel=1e-6)


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


def test_weight_zero_leaves_the_student_as_it_is():
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


def test_evaluate_twice_is_equal_under_dropout_and_training_is_not():
    x, y, weight = make_arrays()
    distiller = make_distiller(student=Student(dropout=0.5))
    batches = make_batches((x, y, weight))
    assert evaluate(distiller, batches) == evaluate(distiller, batches)
    first = float(distiller.compute_loss(x, y, training=True))
    assert float(distiller.compute_loss(x, y, training=True)) != first
    still = float(distiller.compute_loss(x, y, training=False))
    assert float(distiller.compute_loss(x, y, training=False)) == still


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


def test_eager_and_graph_training_agree():
    histories = []
    for run_eagerly in (False, True):
        keras.utils.set_random_seed(3)
        distiller = make_distiller()
        distiller.compile("sgd", ListwiseCrossEntropy(), run_eagerly=run_eagerly)
        histories.append(fit(distiller, make_batches(make_arrays()), epochs=2))
    for name, values in histories[0].items():
        np.testing.assert_allclose(values, histories[1][name], rtol=1e-5)


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


def test_teacher_is_neither_counted_nor_saved(tmp_path):
    x, y, weight = make_arrays()
    teacher, student = Teacher(), Student()
    distiller = make_distiller(teacher, student)
    batches = make_batches((x, y, weight), without=["teacher_scores"])
    fit(distiller, batches)
    alone = make_distiller(None, student)
    fit(alone, make_batches((x, y, weight)))

    assert len(distiller.variables) == len(student.variables) == 2
    assert distiller.count_params() == student.count_params() == (5 + ITEMS) * 3
    sizes = {}
    for name, model in {"with": distiller, "without": alone}.items():
        path = tmp_path / f"{name}.weights.h5"
        model.save_weights(path)
        sizes[name] = path.stat().st_size
        assert b"teachers_" not in path.read_bytes()
        model.save(tmp_path / f"{name}.keras")
    assert sizes["with"] == sizes["without"]


def test_a_saved_distiller_comes_back_without_its_teacher(tmp_path):
    arrays = make_arrays()
    teacher = Teacher()
    distiller = Distiller(
        teacher,
        Student(),
        [ListwiseKLDivergence(temperature=2.0), ListwiseKLDivergence()],
        distillation_loss_weights=[0.3, 0.1],
        student_loss_weight=0.6,
    )
    distiller.compile(
        "adam",
        ListwiseCrossEntropy(temperature=0.5),
        metrics=[keras_rs.metrics.NDCG(k=3, name="ndcg")],
    )
    batches = make_batches(arrays)
    fit(distiller, batches)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")

    assert type(loaded) is Distiller
    assert loaded.teacher is None
    assert loaded.distillation_loss_weights == (0.3, 0.1)
    assert loaded.student_loss_weight == 0.6
    np.testing.assert_array_equal(
        loaded.predict(batches, verbose=0), distiller.predict(batches, verbose=0)
    )
    got, want = evaluate(loaded, batches), evaluate(distiller, batches)
    assert 0.0 < got.pop("ndcg") <= 1.0  # keras-rs breaks ties at random
    del want["ndcg"]
    assert got == pytest.approx(want, rel=1e-6)
    # The optimizer comes back with its moments: both go on in step.
    assert fit(loaded, batches)["loss"] == pytest.approx(
        fit(distiller, batches)["loss"], rel=1e-6
    )


def test_weights_of_a_trained_distiller_fit_one_that_was_never_compiled(tmp_path):
    arrays = make_arrays()
    batches = make_batches(arrays)
    distiller = make_distiller()
    fit(distiller, batches)
    distiller.save_weights(tmp_path / "d.weights.h5")
    fresh = Distiller(None, Student(), ListwiseKLDivergence())
    fresh.predict(batches, verbose=0)
    fresh.load_weights(tmp_path / "d.weights.h5")
    np.testing.assert_array_equal(
        fresh.predict(batches, verbose=0), distiller.predict(batches, verbose=0)
    )


def test_a_checkpoint_holds_the_student_alone(tmp_path):
    x, y, _ = make_arrays()
    distiller = make_distiller(Teacher())
    del x["teacher_scores"]
    distiller.compute_loss(x, y)
    checkpoint = tf.train.Checkpoint(model=distiller).save(str(tmp_path / "checkpoint"))
    shapes = [shape for _, shape in tf.train.list_variables(checkpoint)]
    assert [ITEMS, 3] in shapes
    assert [ITEMS, 50] not in shapes


def test_config_round_trip():
    distiller = make_distiller(Teacher(), student_loss_weight=0.3, name="mine")
    config = distiller.get_config()
    assert "teacher" not in config
    copy = Distiller.from_config(config)
    assert copy.get_config() == config
    assert copy.name == "mine"


def test_the_twin_trains_through_the_same_class_without_any_teacher():
    arrays = make_arrays()
    batches = make_batches(arrays, without=["teacher_scores"])
    twin = make_distiller(losses=None, student_loss_weight=1.0)
    history = fit(twin, batches, epochs=2)
    assert set(history) == {"loss", "relevance_loss"}
    np.testing.assert_allclose(history["loss"], history["relevance_loss"], rtol=1e-6)
    assert history["loss"][1] < history["loss"][0]


def test_pure_distillation_needs_no_relevance():
    x, _, _ = make_arrays()
    distiller = Distiller(None, Student(), ListwiseKLDivergence(), None, 0.0)
    distiller.compile("sgd")
    history = fit(distiller, make_batches((x,)), epochs=2)
    assert set(history) == {"loss", "distillation_loss"}
    assert history["loss"][1] < history["loss"][0]


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


def test_metrics_see_the_mask():
    mask = tf.constant([[True, True, True, False]])
    x = {"mask": mask, "teacher_scores": tf.zeros((1, 4))}
    y = {"labels": tf.constant([[0.0, 1.0, 0.0, 1.0]]), "mask": mask}
    distiller = Distiller(None, Fixed([[3.0, 2.0, 1.0, 9.0]]), ListwiseKLDivergence())
    distiller.compile(
        "sgd",
        ListwiseCrossEntropy(),
        metrics=[keras_rs.metrics.MeanReciprocalRank(name="mrr")],
    )
    got = evaluate(distiller, tf.data.Dataset.from_tensors((x, y)))
    assert got["mrr"] == pytest.approx(1 / 2)  # with the padded hit it would be 1


def test_weighted_metrics_see_the_weights_and_metrics_do_not():
    x, y, _ = make_arrays()
    x, y = tf.nest.map_structure(lambda array: array[:2], (x, y))
    y["labels"] = np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0]], "float32")
    student = Fixed(np.tile([[4.0, 3.0, 2.0, 1.0]], (2, 1)))
    distiller = Distiller(None, student, ListwiseKLDivergence())
    distiller.compile(
        "sgd",
        ListwiseCrossEntropy(),
        metrics=[keras_rs.metrics.MeanReciprocalRank(name="plain")],
        weighted_metrics=[keras_rs.metrics.MeanReciprocalRank(name="weighted")],
    )
    weight = np.array([1.0, 3.0], "float32")
    got = evaluate(distiller, make_batches((x, y, weight)))
    assert got["plain"] == pytest.approx((1 + 1 / 2) / 2)
    assert got["weighted"] == pytest.approx((1 + 3 * 1 / 2) / 4)


def test_compiling_again_forgets_the_old_metrics():
    batches = make_batches(make_arrays())
    distiller = make_distiller()
    distiller.compile(
        "sgd", ListwiseCrossEntropy(), metrics=[keras_rs.metrics.NDCG(name="old")]
    )
    fit(distiller, batches)
    distiller.compile(
        "sgd", ListwiseCrossEntropy(), metrics=[keras_rs.metrics.NDCG(name="new")]
    )
    assert set(fit(distiller, batches)) == {
        "loss",
        "relevance_loss",
        "distillation_loss",
        "new",
    }


def test_losses_and_metrics_of_keras_rs_work_inside_ours():
    batches = make_batches(make_arrays())
    distiller = Distiller(
        None,
        Student(),
        [ListwiseKLDivergence(), keras_rs.losses.PairwiseLogisticLoss()],
    )
    distiller.compile(
        keras.optimizers.Adam(0.05),
        loss=keras_rs.losses.ListMLELoss(),
        metrics=[keras_rs.metrics.NDCG(k=3, name="ndcg@3")],
    )
    history = fit(distiller, batches, validation_data=batches, epochs=10)
    assert history["loss"][-1] < history["loss"][0]
    assert history["val_ndcg@3"][-1] > history["val_ndcg@3"][0]


def test_our_losses_work_inside_the_distiller_of_keras():
    inputs = keras.Input((3,))
    identity = keras.Model(inputs, keras.layers.Identity()(inputs))
    teacher = keras.Model(inputs, keras.layers.Rescaling(-2.0)(inputs))
    distiller = keras.distillation.Distiller(
        teacher,
        identity,
        keras.distillation.LogitsDistillation(
            temperature=1.0, loss=ListwiseKLDivergence(temperature=2.0)
        ),
        student_loss_weight=0.0,
    )
    distiller.compile("sgd", loss="mse")
    scores = np.array([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]], "float32")
    got = distiller.evaluate(scores, scores, verbose=0, return_dict=True)["loss"]
    want = []
    for row in scores:
        p, q = (np.exp(row / 2 * factor) for factor in (-2.0, 1.0))
        p, q = p / p.sum(), q / q.sum()
        want.append(2.0**2 * np.sum(p * np.log(p / q)))
    assert got == pytest.approx(np.mean(want), rel=1e-5)


def test_our_losses_work_in_a_plain_model_with_bare_labels():
    model = keras.Sequential([keras.layers.Rescaling(1.0)])
    model.compile("sgd", loss=ListwiseCrossEntropy())
    scores = np.array([[log(3.0), 0.0], [0.0, 0.0]], "float32")
    relevance = np.array([[0.0, 1.0], [1.0, 0.0]], "float32")
    got = model.evaluate(scores, relevance, verbose=0)
    assert got == pytest.approx((log(4.0) + log(2.0)) / 2, rel=1e-5)
    got = model.evaluate(
        scores, relevance, sample_weight=np.array([1.0, 3.0]), verbose=0
    )
    assert got == pytest.approx((log(4.0) + 3 * log(2.0)) / 4, rel=1e-5)


@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_scores_from_nowhere_are_an_error_that_names_both_remedies(method):
    batches = make_batches(make_arrays(), without=["teacher_scores"])
    distiller = make_distiller(None)
    run = {"fit": fit, "evaluate": evaluate}[method]
    message = r"`teacher` must be given.*pass a teacher.*or store.*keys=\['affinity'"
    with pytest.raises(ValueError, match=message):
        run(distiller, batches)


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
        ({"losses": "mse"}, "must be keras.losses.Loss objects .*Received: 'mse'"),
        ({"losses": [ListwiseKLDivergence(reduction=None)]}, "with a reduction"),
    ],
)
def test_bad_arguments_are_named_with_their_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_distiller(**arguments)


def test_compile_says_what_it_needs():
    distiller = Distiller(None, Student(), ListwiseKLDivergence())
    with pytest.raises(ValueError, match=r"`loss` must be given .*loss_weight=0.5"):
        distiller.compile("sgd")
    with pytest.raises(ValueError, match=r"`loss` must be keras.losses.Loss .*'mse'"):
        distiller.compile("sgd", loss="mse")
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
