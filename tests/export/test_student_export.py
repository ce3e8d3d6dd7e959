"""student_export: the files of a published version, and refused arguments."""

import errno
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from recdistill.atomic import folder_checksums, read_sealed
from recdistill.errors import ExportError
from recdistill.export.layout import MANIFEST
from recdistill.export.signatures import Servable
from recdistill.export.student_export import StudentTowers
from recdistill.features.encoders import build_encoder
from recdistill.features.specs import CategorySpec
from recdistill.models.two_tower import TwoTowerStudent
from recdistill.retrieval.catalogue import Catalogue
from recdistill.retrieval.exact import ExactIndex
from tests.small_models import (
    ITEMS,
    export_films,
    films_items,
    films_rows,
    films_schema,
    films_student,
)

pytestmark = pytest.mark.slow

QUERY = {
    "Age": {"dtype": "float32", "shape": [None]},
    "history": {"dtype": "string", "shape": [None, None]},
    "history_length": {"dtype": "int32", "shape": [None]},
    "jobs": {"dtype": "string", "shape": [None, None]},
    "taste": {"dtype": "float32", "shape": [None, 2]},
    "user_id": {"dtype": "string", "shape": [None]},
}
STRINGS = {"dtype": "string", "shape": [None, None]}
SCORES = {"dtype": "float32", "shape": [None, None]}
EMBEDDING = {"embedding": {"dtype": "float32", "shape": [None, 6]}}
CONTRACT = {
    "serving_default": {
        "inputs": QUERY,
        "outputs": {
            "item_ids": {"dtype": "string", "shape": [None, 10]},
            "scores": {"dtype": "float32", "shape": [None, 10]},
        },
    },
    "recommend": {
        "inputs": {
            **QUERY,
            "k": {"dtype": "int32", "shape": [None]},
            "exclude_ids": STRINGS,
            "allow_ids": STRINGS,
        },
        "outputs": {"item_ids": STRINGS, "scores": SCORES},
    },
    "rank": {
        "inputs": {**QUERY, "candidate_ids": STRINGS},
        "outputs": {
            "scores": SCORES,
            "known": {"dtype": "bool", "shape": [None, None]},
        },
    },
    "encode_query": {"inputs": QUERY, "outputs": EMBEDDING},
    "encode_candidates": {
        "inputs": {
            "item_id": {"dtype": "string", "shape": [None]},
            "class": {"dtype": "string", "shape": [None]},
            "title": {"dtype": "string", "shape": [None]},
        },
        "outputs": EMBEDDING,
    },
}


class TestPublishedFiles:
    def test_the_first_version_is_1_and_no_staging_folder_remains(self, exported):
        assert exported.version == 1
        assert [p.name for p in exported.path.parent.iterdir()] == ["1"]

    def test_the_signatures_have_the_documented_inputs_and_outputs(self, exported):
        assert exported.manifest["signatures"] == CONTRACT

    def test_input_names_that_are_not_identifiers_work_in_python_too(self, exported):
        loaded = tf.saved_model.load(str(exported.path))
        answer = loaded.signatures["encode_candidates"](
            **{n: tf.constant(["new"]) for n in ("item_id", "class", "title")}
        )
        assert answer["embedding"].shape == (1, 6)

    def test_privileged_features_are_not_in_the_model(self, exported):
        content = (exported.path / "saved_model.pb").read_bytes()
        for name in (b"dwell", b"clicks", b"affinity"):
            assert name not in content

    def test_each_weight_of_the_towers_is_stored_once(self, exported, student):
        stored = dict(
            tf.train.list_variables(str(exported.path / "variables/variables"))
        )
        stored.pop("_CHECKPOINTABLE_OBJECT_GRAPH")
        # One table has the vectors of a history's items, with all their features.
        left_out = {id(v) for v in student.history_items.projection.weights}
        want = [
            tuple(v.shape) for v in student.trainable_variables if id(v) not in left_out
        ]
        want += [(len(ITEMS), 6), (len(ITEMS),)]
        assert sorted(map(tuple, stored.values())) == sorted(want)
        [data] = exported.path.glob("variables/variables.data*")
        graph = (exported.path / "saved_model.pb").stat().st_size
        weights = 4 * sum(np.prod(shape) for shape in want[:-1])
        assert weights <= data.stat().st_size <= weights + graph

    def test_the_graph_does_not_contain_the_items(self, exported):
        content = (exported.path / "saved_model.pb").read_bytes()
        assert "größe".encode() in content  # In the vocabulary: training saw it.
        assert not any(name.encode() in content for name in ITEMS[58:])

    def test_the_manifest_lists_the_ops_and_none_calls_python(self, exported):
        assert {"MatMul", "TopKV2", "LookupTableFindV2"} <= set(
            exported.manifest["ops"]
        )
        assert not any("PyFunc" in op for op in exported.manifest["ops"])

    def test_the_manifest_in_the_folder_matches_the_files(self, exported):
        path = exported.path / "assets.extra" / "recdistill.json"
        assert read_sealed(path) == exported.manifest
        assert exported.manifest["metadata"] == {"ndcg@10": 0.25}
        assert exported.manifest["items"] == len(ITEMS)
        assert exported.manifest["schema"]["query"]["history"]["length"] == 4
        hashes = folder_checksums(exported.path, [MANIFEST.as_posix()])
        assert exported.manifest["sha256"] == hashes
        assert "saved_model.pb" in hashes

    def test_parity_was_measured_and_is_within_the_tolerance(self, exported):
        assert exported.parity.queries == 12
        # Of `recommend` there are two: some queries are limited to some items.
        assert exported.parity.requests == 3 * (len(CONTRACT) + 1)
        assert exported.parity.recall == 1.0
        assert 0 < exported.parity.max_difference <= exported.parity.tolerance == 1e-5

    def test_warm_up_requests_fit_the_signatures_and_can_be_batched(self, exported):
        path = exported.path / "assets.extra" / "tf_serving_warmup_requests"
        logs = [
            prediction_log_pb2.PredictionLog.FromString(record.numpy())
            for record in tf.data.TFRecordDataset(str(path))
        ]
        assert 0 < len(logs) <= 1000
        asked = set()
        for log in logs:
            request = log.predict_log.request
            name = request.model_spec.signature_name
            inputs = CONTRACT[name]["inputs"]
            assert request.model_spec.name == "films"
            assert request.inputs.keys() == inputs.keys()
            for key, proto in request.inputs.items():
                assert tf.as_dtype(proto.dtype).name == inputs[key]["dtype"]
                assert len(proto.tensor_shape.dim) == len(inputs[key]["shape"])
            [size] = {p.tensor_shape.dim[0].size for p in request.inputs.values()}
            asked.add((name, size))
        assert asked == {(name, size) for name in CONTRACT for size in (1, 8)}


class TestPublishing:
    def test_the_next_export_is_the_next_version(self, exported, student):
        before = folder_checksums(exported.path, [MANIFEST.as_posix()])
        second = export_films(exported.path.parents[1], student, top_k=60)
        assert second.path == exported.path.with_name("2")
        assert second.manifest["version"] == second.version == 2
        assert folder_checksums(exported.path, [MANIFEST.as_posix()]) == before

    def test_an_export_with_other_weights_is_not_published(
        self, student, tmp_path, monkeypatch
    ):
        bias = next(v for v in student.variables if "hidden_0/bias" in v.path)
        start, save = bias.numpy(), Servable.save

        def tampered(servable, folder):
            bias.assign(start + 0.01)
            save(servable, folder)
            bias.assign(start)

        monkeypatch.setattr(Servable, "save", tampered)
        with pytest.raises(
            ExportError, match=r"max \|Δ\| .* where 1e-05|, with live score"
        ):
            export_films(tmp_path, student)
        assert list((tmp_path / "films").iterdir()) == []

    def test_a_full_disk_leaves_no_files(self, student, tmp_path, monkeypatch):
        def full(module, folder, signatures):
            Path(folder, "saved_model.pb").write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(tf.saved_model, "save", full)
        with pytest.raises(OSError, match="No space left"):
            export_films(tmp_path, student)
        assert list((tmp_path / "films").iterdir()) == []


class PythonicStudent(TwoTowerStudent):
    """A student with a step outside TensorFlow."""

    def encode_query(self, query, training=False):
        vector = super().encode_query(query, training)
        doubled = tf.numpy_function(lambda v: 2 * v, [vector], tf.float32)
        return tf.ensure_shape(doubled, vector.shape)


class TestRefused:
    def test_an_op_that_calls_python_is_refused_by_name(self, schema, tmp_path):
        student = films_student(schema, PythonicStudent)
        with pytest.raises(ValueError, match=r"Received: (Eager)?PyFunc, node '"):
            export_films(tmp_path, student)
        assert list((tmp_path / "films").iterdir()) == []

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"name": "../films"}, r"`name` must .*Received: name='../films'"),
            ({"top_k": 0}, r"`top_k` .* must be from 1 .* 60\. Received: top_k=0"),
            ({"top_k": 61}, r"Received: top_k=61"),
            ({"warm_up_batches": (0, 1)}, r"`warm_up_batches` must be .*\(0, 1\)"),
            (
                {"warm_up_batches": (1, 4_097)},
                r"from 1 to 4,096. Received: \(1, 4097\)",
            ),
            ({"warm_up_batches": [1] * 167}, r"at most 1000 .*Received: 1002"),
            ({"metadata": {"ndcg": float("nan")}}, r"`metadata` must be JSON-ready"),
            (
                {"rows": {"user_id": ["ann"]}},
                r"`rows` must have the raw input 'jobs'",
            ),
            (
                {"rows": {k: v[:0] for k, v in films_rows().items()}},
                r"at least one row\. Received: .*'user_id': 0",
            ),
            (
                {"rows": films_rows() | {"Age": np.ones(3)}},
                r"same number of rows .*'Age': 3",
            ),
            (
                {"rows": films_rows() | {"taste": np.ones((12, 3))}},
                r"'taste' with shape \(None, 2\).*Received: shape \(12, 3\)",
            ),
            ({"items": films_items().slice(0, 0)}, r"`items` must hold at least one"),
            (
                {"items": films_items().drop_columns(["title"])},
                r"`items` must have the column 'title' of the feature 'title'",
            ),
            (
                {"items": pa.concat_tables([films_items()] * 2)},
                r"`item_ids` must hold each id once.*Received: 'item-0'",
            ),
        ],
    )
    def test_an_argument_that_does_not_fit_is_refused(
        self, student, tmp_path, changes, message
    ):
        with pytest.raises(ValueError, match=message):
            export_films(tmp_path, student, **changes)
        assert list(tmp_path.iterdir()) == []

    def test_a_feature_with_a_reserved_name_is_refused(self, student, tmp_path):
        schema = films_schema()
        taken = build_encoder("k", CategorySpec(), {"vocabulary": []})
        schema.query = (*schema.query, taken)
        catalogue = Catalogue([*"ab"], ExactIndex(np.ones((2, 6))))
        with pytest.raises(ValueError, match=r"must not be called .*Received: 'k'"):
            Servable(StudentTowers(student, schema), catalogue, 1)

    def test_a_student_with_infinite_embeddings_is_refused(self, schema, tmp_path):
        student = films_student(schema)
        student.candidate_tower.linear.bias.assign([np.nan] * 6)
        with pytest.raises(ValueError, match=r"`embeddings` must be finite"):
            export_films(tmp_path, student)
