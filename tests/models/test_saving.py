"""Models in `.keras` files: scores are the same after saving, loading and cloning."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from recdistill import Distiller, losses
from recdistill.models import (
    LinearTeacher,
    RankingTeacher,
    SequenceRanker,
    TwoTowers,
    TwoTowerStudent,
)
from recdistill.models.linear import Affinity
from tests.small_models import (
    FEW_ITEMS,
    build_batch,
    build_catalogue,
    build_schema,
    shuffled_weights,
)

pytestmark = pytest.mark.slow

BATCH = build_batch()


def affinity():
    rng = np.random.default_rng(0)
    matrix = scipy.sparse.csr_array((rng.random((20, len(FEW_ITEMS))) < 0.4) * 1.0)
    layer = Affinity(len(FEW_ITEMS), decay=0.8, floor=0.1)
    layer.build()
    layer.set_weights(layer.fitted(matrix, l2=2.0))
    return layer


def student(**settings):
    settings = {"dim": 6, "embedding_dim": 4, "hidden": (5, 3), **settings}
    return TwoTowerStudent(build_schema(), build_catalogue(), **settings)


def ranker():
    pairs = {"affinity": affinity()}
    settings = {"dim": 6, "attention_length": 4, "decays": (0.5, 0.9), "blocks": 2}
    return RankingTeacher(build_schema(), build_catalogue(), pairs, **settings)


def sequence():
    settings = {"dim": 6, "attention_length": 4}
    return SequenceRanker(build_schema(), build_catalogue(), **settings)


def linear():
    return LinearTeacher(affinity(), build_catalogue()["item_id"])


def own_towers():
    user = keras.Input((), name="user_id", dtype="int32")
    age = keras.Input((2,), name="Age")
    vector = keras.layers.Embedding(5, 3)(user)
    query = keras.layers.Dense(4)(keras.layers.Concatenate()([vector, age]))
    item = keras.Input((), name="item_id", dtype="int32")
    candidate = keras.layers.Embedding(11, 4)(item)
    return TwoTowers(
        build_schema(),
        build_catalogue(),
        keras.Model([user, age], query),
        keras.Model([item], candidate),
        l2=0.5,
    )


@keras.saving.register_keras_serializable("tests")
class Bag(keras.layers.Layer):
    """A tower that is a layer: the sum of the embeddings of one feature."""

    def __init__(self, feature, **kwargs):
        super().__init__(**kwargs)
        self.feature = feature
        self.table = keras.layers.Embedding(12, 4)

    def build(self, input_shape):
        self.table.build()

    def call(self, features):
        vectors = self.table(features[self.feature])
        return vectors if vectors.shape.rank == 2 else tf.reduce_sum(vectors, axis=1)

    def get_config(self):
        return {**super().get_config(), "feature": self.feature}


def own_layers():
    towers = Bag("history"), Bag("genres")
    return TwoTowers(build_schema(), build_catalogue(), *towers)


MODELS = [student, ranker, sequence, linear, own_towers, own_layers]


def with_weights(build):
    """A model whose weights all matter."""
    model = build()
    model(BATCH)
    return shuffled_weights(model)


def reloaded(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras", safe_mode=True)


@pytest.mark.parametrize("build", MODELS)
class TestEveryModel:
    def test_a_keras_file_restores_the_same_scores(self, build, tmp_path):
        model = with_weights(build)
        copy = reloaded(model, tmp_path)
        assert type(copy) is type(model) and copy.name == model.name
        np.testing.assert_array_equal(copy(BATCH), model(BATCH))
        configs = [json.dumps(each.get_config()) for each in (copy, model)]
        assert configs[0] == configs[1]
        assert copy.count_params() == model.count_params()

    def test_a_keras_file_restores_the_candidate_table(self, build, tmp_path):
        model = with_weights(build)
        want = model(BATCH).numpy()
        model.save(tmp_path / "model.keras")
        table = model.candidate_table
        table._assign({k: v[::-1].copy() for k, v in table._features.items()})
        assert np.abs(model(BATCH) - want).max() > 0.01
        copy = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(copy(BATCH), want)

    def test_a_clone_has_the_same_scores_once_it_has_the_weights(self, build):
        model = with_weights(build)
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        np.testing.assert_array_equal(clone(BATCH), model(BATCH))

    def test_its_config_is_small_json_without_vocabulary_or_catalogue(self, build):
        model = with_weights(build)
        document = json.dumps(keras.saving.serialize_keras_object(model))
        assert len(document) < 15_000
        assert "item-3" not in document and "bob" not in document

    def test_a_weights_file_restores_the_same_scores(self, build, tmp_path):
        model, other = with_weights(build), build()
        other(BATCH)
        model.save_weights(tmp_path / "model.weights.h5")
        shuffled_weights(other, seed=9)
        for weight in other.non_trainable_weights:  # Those of linear models.
            weight.assign(tf.zeros_like(weight))
        assert np.abs(other(BATCH) - model(BATCH)).max() > 0.01
        other.load_weights(tmp_path / "model.weights.h5")
        np.testing.assert_array_equal(other(BATCH), model(BATCH))


FRESH = """
import sys, keras, numpy as np, recdistill.models
model = keras.models.load_model(sys.argv[1], safe_mode=True)
batch = dict(np.load(sys.argv[2]))
index = batch.pop("candidate_index")
print(model({"query": batch, "candidate_index": index}).numpy().tobytes().hex())
"""


@pytest.mark.parametrize("build", [student, ranker])
def test_a_fresh_process_computes_the_same_scores(build, tmp_path):
    model = with_weights(build)
    path, arrays = tmp_path / "model.keras", tmp_path / "batch.npz"
    model.save(path)
    np.savez(arrays, candidate_index=BATCH["candidate_index"], **BATCH["query"])
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(path), str(arrays)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    got = np.frombuffer(bytes.fromhex(done.stdout.split()[-1]), "float32")
    np.testing.assert_allclose(got.reshape(4, 6), model(BATCH), rtol=1e-6, atol=1e-6)


def test_a_student_does_not_keep_features_that_are_teacher_only(tmp_path):
    model = with_weights(student)
    assert "clicks" not in model.candidate_table._features
    config = model.get_config()["schema"]["config"]
    assert list(config["query"]) == ["user_id", "Age"]
    assert list(config["candidate"]) == ["item_id", "genres"]


def batches(count=3):
    y = {"labels": np.eye(4, 6, dtype="float32"), "mask": BATCH["mask"]}
    x = tf.nest.map_structure(tf.constant, BATCH)
    return tf.data.Dataset.from_tensors((x, y)).repeat(count)


def compiled_distiller(build):
    distiller = Distiller(None, build(), student_loss_weight=1.0)
    distiller.compile(keras.optimizers.Adam(0.05), loss=losses.ListwiseCrossEntropy())
    return distiller


@pytest.mark.parametrize("build", [student, own_towers])
class TestDistiller:
    def test_a_keras_file_restores_a_student_that_trains_on(self, build, tmp_path):
        distiller = compiled_distiller(build)
        distiller.fit(batches(), verbose=0, shuffle=False)
        distiller.save(tmp_path / "d.keras")
        loaded = keras.models.load_model(tmp_path / "d.keras")
        want = distiller.student(BATCH).numpy()
        np.testing.assert_array_equal(loaded.student(BATCH), want)
        for model in (distiller, loaded):
            model.fit(batches(), verbose=0, shuffle=False)
        got, want = loaded.student(BATCH), distiller.student(BATCH)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)

    def test_checkpoints_of_fit_have_the_student_of_each_epoch(self, build, tmp_path):
        distiller, scores = compiled_distiller(build), []
        path = str(tmp_path / "{epoch}.keras")
        remember = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda *_: scores.append(distiller.student(BATCH).numpy())
        )
        saving = keras.callbacks.ModelCheckpoint(path)
        distiller.fit(
            batches(), epochs=2, verbose=0, shuffle=False, callbacks=[remember, saving]
        )
        for epoch in (1, 2):
            loaded = keras.models.load_model(tmp_path / f"{epoch}.keras")
            np.testing.assert_array_equal(loaded.student(BATCH), scores[epoch - 1])
        assert np.abs(scores[1] - scores[0]).max() > 0.01
