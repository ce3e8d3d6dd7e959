"""TwoTowerStudent and RankingTeacher in the Distiller."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import config as framework_config

from recdistill import Distiller, RankingTeacher, TwoTowerStudent
from recdistill.distillation import layer_outputs
from recdistill.losses import (
    HintMSE,
    ListwiseCrossEntropy,
    ListwiseKLDivergence,
    RelationalDistance,
)
from tests.small_models import (
    build_batch,
    build_catalogue,
    build_schema,
    shuffled_weights,
)

pytestmark = pytest.mark.slow

BATCH = build_batch(lists=6)
SHARED = np.array([3, 0, 9, 5], "int32")
NAMES = ["query_embedding", "candidate_embedding"]


def make_student():
    student = TwoTowerStudent(
        build_schema(), build_catalogue(), dim=6, embedding_dim=4, hidden=(5,)
    )
    student(BATCH)
    return shuffled_weights(student, scale=0.3)


def make_teacher():
    teacher = RankingTeacher(
        build_schema(), build_catalogue(), dim=8, attention_length=8
    )
    teacher(BATCH)
    return shuffled_weights(teacher, scale=0.3)


def shared_batch():
    mask = np.ones((6, len(SHARED)), bool)
    return {**BATCH, "candidate_index": SHARED, "mask": mask}


@pytest.mark.parametrize("shared", [False, True])
def test_the_student_exposes_the_embeddings_it_multiplies(shared):
    student = make_student()
    x = shared_batch() if shared else BATCH
    with layer_outputs.watching(student, [*NAMES, "query_tower/hidden_0"]) as seen:
        scores = student(x)
    queries, candidates = (np.array(seen[name]) for name in NAMES)
    table = student.encode_candidates(build_catalogue()).numpy()
    np.testing.assert_allclose(queries, student.encode_query(BATCH["query"]), rtol=1e-5)
    wanted = table[SHARED][None] if shared else table[BATCH["candidate_index"]]
    np.testing.assert_allclose(candidates, wanted, rtol=1e-5)
    products = np.sum(queries[:, None] * candidates, axis=-1)
    np.testing.assert_allclose(products, scores, rtol=1e-4, atol=1e-5)
    assert seen["query_tower/hidden_0"].shape == (6, 5)


@pytest.mark.parametrize("shared", [False, True])
def test_the_ranker_exposes_one_vector_a_query_and_one_a_candidate(shared):
    teacher = make_teacher()
    with layer_outputs.watching(teacher, NAMES) as seen:
        teacher(shared_batch() if shared else BATCH)
    assert seen["query_embedding"].shape == (6, 8)
    assert seen["candidate_embedding"].shape == ((1, 4, 8) if shared else (6, 6, 8))


@pytest.mark.parametrize("shared", [False, True])
def test_a_student_learns_from_the_rankers_scores_and_embeddings(shared):
    student, teacher = make_student(), make_teacher()
    losses = [
        ListwiseKLDivergence(),
        HintMSE("query_embedding", "query_embedding"),
        RelationalDistance("candidate_embedding", "candidate_embedding"),
    ]
    distiller = Distiller(teacher, student, losses, [1.0, 1.0, 1.0], 0.0)
    distiller.compile(keras.optimizers.Adam(0.01))
    x = tf.nest.map_structure(tf.constant, shared_batch() if shared else BATCH)
    batches = tf.data.Dataset.from_tensors((x,)).repeat(30)
    history = distiller.fit(batches, epochs=2, verbose=0, shuffle=False).history
    for name in ("listwise_kl_divergence", "hint_mse", "relational_distance"):
        first, last = history[f"distillation_loss_{name}"]
        assert last < first
    shapes = [weight.shape for weight in student.weights]
    assert shapes == [weight.shape for weight in make_student().weights]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_our_student_trains_in_mixed_precision(policy):
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(policy)
    try:
        distiller = Distiller(None, make_student(), [ListwiseKLDivergence(), HintMSE()])
        distiller.compile(keras.optimizers.Adam(0.01), ListwiseCrossEntropy())
        x = tf.nest.map_structure(tf.constant, BATCH)
        rng = np.random.default_rng(0)
        x["teacher_scores"] = tf.constant(rng.normal(size=(6, 6)), tf.float32)
        x["teacher_query_embedding"] = tf.constant(rng.normal(size=(6, 8)), tf.float32)
        y = tf.one_hot(rng.integers(0, 6, 6), 6)
        batches = tf.data.Dataset.from_tensors((x, y)).repeat(10)
        history = distiller.fit(batches, epochs=2, verbose=0, shuffle=False).history
    finally:
        keras.mixed_precision.set_dtype_policy(before)
    assert np.isfinite(history["loss"]).all()
    assert history["loss"][1] < history["loss"][0]


@pytest.mark.parametrize("shared", [False, True])
def test_a_distiller_with_our_student_is_saved_loaded_and_cloned(shared, tmp_path):
    student, teacher = make_student(), make_teacher()
    distiller = Distiller(teacher, student, ListwiseKLDivergence())
    distiller.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    x = tf.nest.map_structure(tf.constant, shared_batch() if shared else BATCH)
    y = tf.one_hot(np.arange(6) % 3, x["mask"].shape[1])
    batches = tf.data.Dataset.from_tensors((x, y)).repeat(3)
    keep = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="loss")
    distiller.fit(batches, epochs=2, verbose=0, shuffle=False, callbacks=[keep])
    distiller.save(tmp_path / "last.keras")
    want = distiller.predict(batches.take(1), verbose=0)
    for name in ("best", "last"):
        loaded = keras.models.load_model(tmp_path / f"{name}.keras")
        assert type(loaded.student) is TwoTowerStudent
        np.testing.assert_array_equal(loaded.predict(batches.take(1), verbose=0), want)
    clone = keras.models.clone_model(distiller)
    clone.predict(batches.take(1), verbose=0)
    clone.set_weights(distiller.get_weights())
    np.testing.assert_array_equal(clone.predict(batches.take(1), verbose=0), want)


def test_compile_chooses_no_xla_where_there_is_an_accelerator(monkeypatch):
    # XLA cannot compile the gradient of `tf.unique`, which finds distinct candidates.
    student, teacher = make_student(), make_teacher()
    distiller = Distiller(None, student, ListwiseKLDivergence())
    devices = [SimpleNamespace(device_type="GPU")]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda: devices)
    # Keras refuses XLA where operations must be deterministic, as other tests ask.
    monkeypatch.setattr(framework_config, "is_op_determinism_enabled", lambda: False)
    for model in (student, teacher, distiller):
        model.compile("sgd", ListwiseCrossEntropy())
        assert not model.jit_compile
        model.compile("sgd", ListwiseCrossEntropy(), jit_compile=True)
        assert model.jit_compile
