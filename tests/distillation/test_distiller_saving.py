"""Saving a Distiller: student, optimizer and projections, but no teacher."""

import keras
import keras_rs
import numpy as np
import pytest
import tensorflow as tf

from recdistill.distillation.distiller import Distiller
from recdistill.losses import ListwiseCrossEntropy, ListwiseKLDivergence
from tests.small_models import (
    FEW_ITEMS,
    Student,
    Teacher,
    evaluate,
    fit,
    make_arrays,
    make_batches,
    make_distiller,
)

pytestmark = pytest.mark.slow


def test_teacher_is_neither_counted_nor_saved(tmp_path):
    x, y, weight = make_arrays()
    teacher, student = Teacher(), Student()
    distiller = make_distiller(teacher, student)
    batches = make_batches((x, y, weight), without=["teacher_scores"])
    fit(distiller, batches)
    alone = make_distiller(None, student)
    fit(alone, make_batches((x, y, weight)))

    assert len(distiller.variables) == len(student.variables) == 2
    assert (
        distiller.count_params() == student.count_params() == (5 + len(FEW_ITEMS)) * 3
    )
    sizes = {}
    for name, model in {"with": distiller, "without": alone}.items():
        path = tmp_path / f"{name}.weights.h5"
        model.save_weights(path)
        sizes[name] = path.stat().st_size
        assert b"teachers_" not in path.read_bytes()
        model.save(tmp_path / f"{name}.keras")
    assert sizes["with"] == sizes["without"]


def test_a_saved_distiller_is_loaded_without_its_teacher(tmp_path):
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


def test_a_checkpoint_holds_the_student_and_no_teacher(tmp_path):
    x, y, _ = make_arrays()
    distiller = make_distiller(Teacher())
    del x["teacher_scores"]
    distiller.compute_loss(x, y)
    checkpoint = tf.train.Checkpoint(model=distiller).save(str(tmp_path / "checkpoint"))
    shapes = [shape for _, shape in tf.train.list_variables(checkpoint)]
    assert [len(FEW_ITEMS), 3] in shapes
    assert [len(FEW_ITEMS), 50] not in shapes


def test_config_round_trip():
    distiller = make_distiller(Teacher(), student_loss_weight=0.3, name="mine")
    config = distiller.get_config()
    assert "teacher" not in config
    copy = Distiller.from_config(config)
    assert copy.get_config() == config
    assert copy.name == "mine"
