"""export: what a server gets, and that nothing else ever gets a version number.

One export is shared by the tests of its content. `serve` asks it through TensorFlow's
session loader, without any check of shapes, as the C++ server does.
"""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import prediction_log_pb2

from recdistill.errors import BusyError, ExportError
from recdistill.export import fresh_process, publishing
from recdistill.export.parity import Live, check_parity
from recdistill.export.signatures import Servable
from recdistill.export.student_export import StudentTowers
from recdistill.features.encoders import build_encoder
from recdistill.features.specs import CategorySpec
from recdistill.models.two_tower import TwoTowerStudent
from recdistill.retrieval.catalogue import Catalogue
from recdistill.retrieval.exact import LARGEST, LOWEST, ExactIndex
from tests.films import (
    ITEMS,
    build_items,
    build_rows,
    build_schema,
    build_student,
    run_export,
)


@pytest.fixture(scope="module")
def schema():
    return build_schema()


@pytest.fixture(scope="module")
def student(schema):
    return build_student(schema)


@pytest.fixture(scope="module")
def exported(student, tmp_path_factory):
    return run_export(tmp_path_factory.mktemp("export"), student)


@pytest.fixture(scope="module")
def embeddings(schema, student):
    """The live student's embeddings of all queries and items."""
    own, table = schema.for_student(), build_items()
    raw = {e.feature: np.array(table[e.feature].to_pylist()) for e in own.candidate}
    queries = student.encode_query(own.lookup_query(build_rows()))
    items = student.encode_candidates(own.lookup_candidates(raw))
    return queries.numpy(), items.numpy()


@pytest.fixture(scope="module")
def scores(embeddings):
    """What the live student gives each item, for every query."""
    queries, items = embeddings
    return queries @ items.T


@pytest.fixture(scope="module")
def serve(exported):
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(exported.path))
    calls = {}

    def call(signature, inputs):
        contract = graph.signature_def[signature]
        if signature not in calls:
            options = config_pb2.CallableOptions()
            options.feed.extend(info.name for info in contract.inputs.values())
            options.fetch.extend(info.name for info in contract.outputs.values())
            calls[signature] = session._make_callable_from_options(options)
        values = [
            np.asarray(inputs[name]).astype(
                object if info.dtype == 7 else tf.as_dtype(info.dtype).as_numpy_dtype
            )
            for name, info in contract.inputs.items()
        ]
        values = [_as_bytes(v) if v.dtype == object else v for v in values]
        outputs = calls[signature](*values)
        return dict(zip(contract.outputs, outputs, strict=True))

    return call


def _as_bytes(values):
    flat = [v.encode() if isinstance(v, str) else v for v in values.ravel()]
    return np.array([*flat, b""], object)[:-1].reshape(values.shape)


def queries_of(rows):
    chosen = np.atleast_1d(rows)
    raw = build_rows()
    raw.pop("dwell")
    return {name: value[chosen] for name, value in raw.items()}


def as_text(ids):
    return [[each.decode() for each in row] for row in ids]


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
ANY = np.full((1, 1), "", object)
"""One query that excludes nothing, or may get anything."""

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


class TestWhatIsPublished:
    def test_the_first_version_is_1_and_nothing_else_is_left(self, exported):
        assert exported.version == 1
        assert [p.name for p in exported.path.parent.iterdir()] == ["1"]

    def test_the_signatures_are_the_contract(self, exported):
        assert exported.manifest["signatures"] == CONTRACT

    def test_python_programs_find_the_same_input_names(self, exported):
        loaded = tf.saved_model.load(str(exported.path))
        answer = loaded.signatures["encode_candidates"](
            **{n: tf.constant(["new"]) for n in ("item_id", "class", "title")}
        )
        assert answer["embedding"].shape == (1, 6)

    def test_privileged_features_are_nowhere_in_the_model(self, exported):
        content = (exported.path / "saved_model.pb").read_bytes()
        for name in (b"dwell", b"clicks", b"affinity"):
            assert name not in content

    def test_each_weight_is_stored_once_and_no_other(self, exported, student):
        stored = dict(
            tf.train.list_variables(str(exported.path / "variables/variables"))
        )
        stored.pop("_CHECKPOINTABLE_OBJECT_GRAPH")
        want = [tuple(v.shape) for v in student.trainable_variables]
        want += [(len(ITEMS), 6), (len(ITEMS),)]
        assert sorted(map(tuple, stored.values())) == sorted(want)
        [data] = exported.path.glob("variables/variables.data*")
        graph = (exported.path / "saved_model.pb").stat().st_size
        weights = 4 * sum(np.prod(shape) for shape in want[:-1])
        assert weights <= data.stat().st_size <= weights + graph

    def test_the_graph_does_not_know_the_items(self, exported):
        content = (exported.path / "saved_model.pb").read_bytes()
        assert "größe".encode() in content  # In the vocabulary: training saw it.
        assert not any(name.encode() in content for name in ITEMS[58:])

    def test_ops_are_listed_and_none_of_them_calls_python(self, exported):
        assert {"MatMul", "TopKV2", "LookupTableFindV2"} <= set(
            exported.manifest["ops"]
        )
        assert not any("PyFunc" in op for op in exported.manifest["ops"])

    def test_the_manifest_is_what_the_folder_says(self, exported):
        path = exported.path / "assets.extra" / "recdistill.json"
        assert json.loads(path.read_text()) == exported.manifest
        assert exported.manifest["metadata"] == {"ndcg@10": 0.25}
        assert exported.manifest["items"] == len(ITEMS)
        assert exported.manifest["schema"]["query"]["history"]["length"] == 4
        hashes = publishing.hashes(exported.path)
        assert exported.manifest["sha256"] == hashes
        assert "saved_model.pb" in hashes

    def test_parity_is_within_what_is_allowed_and_was_measured(self, exported):
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


class TestWhatIsServed:
    @pytest.mark.parametrize("batch", [1, 7])
    def test_the_plain_call_gives_the_best_items_in_order(self, serve, scores, batch):
        answer = serve("serving_default", queries_of(np.arange(batch)))
        best = np.argsort(-scores[:batch], axis=1)[:, :10]
        assert as_text(answer["item_ids"]) == np.array(ITEMS)[best].tolist()
        want = np.take_along_axis(scores[:batch], best, axis=1)
        np.testing.assert_allclose(answer["scores"], want, atol=1e-5)

    @pytest.mark.parametrize("batch", [1, 7])
    @pytest.mark.parametrize("list_size", [1, 50])
    def test_rank_gives_the_live_scores(self, serve, scores, batch, list_size):
        rng = np.random.default_rng(list_size)
        rows = rng.integers(0, len(ITEMS), (batch, list_size))
        inputs = {"candidate_ids": np.array(ITEMS)[rows]}
        answer = serve("rank", queries_of(np.arange(batch)) | inputs)
        want = np.take_along_axis(scores[:batch], rows, axis=1)
        np.testing.assert_allclose(answer["scores"], want, atol=1e-5)
        assert answer["known"].all()

    def test_unknown_candidates_are_not_known_and_come_last(self, serve):
        inputs = {"candidate_ids": [["never seen", ITEMS[3], ""]]}
        answer = serve("rank", queries_of(0) | inputs)
        assert answer["known"].tolist() == [[False, True, False]]
        lowest = np.float32(LOWEST)
        assert (answer["scores"][0] == lowest).tolist() == [True, False, True]

    def test_embeddings_are_the_live_ones(self, serve, embeddings):
        queries, items = embeddings
        got = serve("encode_query", queries_of(np.arange(12)))["embedding"]
        np.testing.assert_allclose(got, queries, atol=1e-5)
        table = build_items().select(["item_id", "class", "title"]).to_pydict()
        got = serve("encode_candidates", table)["embedding"]
        np.testing.assert_allclose(got, items, atol=1e-5)

    def test_what_stands_behind_the_history_length_is_not_read(self, serve):
        query = queries_of([3])
        assert query["history_length"] == [3]
        plain = serve("encode_query", query)["embedding"]
        junk = np.full((1, 9), ITEMS[7], object)
        junk[:, :3] = query["history"][:, :3]
        wide = serve("encode_query", query | {"history": junk})["embedding"]
        narrow = query | {"history": query["history"][:, :3]}
        np.testing.assert_allclose(wide, plain, atol=1e-6)
        np.testing.assert_allclose(
            serve("encode_query", narrow)["embedding"], plain, atol=1e-6
        )
        longer = query | {"history": junk, "history_length": [4]}
        assert np.abs(serve("encode_query", longer)["embedding"] - plain).max() > 1e-3

    def test_an_empty_history_may_have_no_column(self, serve):
        query = queries_of([0])
        assert query["history_length"] == [0]
        none = query | {"history": np.zeros((1, 0), object)}
        np.testing.assert_array_equal(
            serve("encode_query", none)["embedding"],
            serve("encode_query", query)["embedding"],
        )

    def test_excluded_items_make_room_for_the_next_best(self, serve, scores):
        order = np.array(ITEMS)[np.argsort(-scores[:2], axis=1)]
        exclude = np.array([order[0, :3], ["", "never seen", order[1, 1]]])
        inputs = {"k": [4, 4], "exclude_ids": exclude, "allow_ids": ANY[[0, 0]]}
        got = as_text(serve("recommend", queries_of([0, 1]) | inputs)["item_ids"])
        assert got == [order[0, 3:7].tolist(), order[1, [0, 2, 3, 4]].tolist()]

    def test_k_goes_up_to_the_catalogue_and_the_rest_has_no_item(self, serve):
        inputs = {"k": [60], "exclude_ids": [ITEMS[1:]], "allow_ids": ANY}
        answer = serve("recommend", queries_of(0) | inputs)
        [ids], [got] = as_text(answer["item_ids"]), answer["scores"]
        assert ids == [ITEMS[0]] + [""] * (len(ITEMS) - 1)
        assert np.isfinite(got).all()
        assert (got[1:] == np.float32(LOWEST)).all()

    def test_of_allowed_items_the_best_come_and_no_other(self, serve, scores):
        allow = np.array([[ITEMS[7], ITEMS[3], "never seen", ITEMS[3]], [""] * 4])
        inputs = {"k": [3, 3], "exclude_ids": ANY[[0, 0]], "allow_ids": allow}
        answer = serve("recommend", queries_of([0, 1]) | inputs)
        limited, free = as_text(answer["item_ids"])
        pair = sorted([3, 7], key=lambda row: -scores[0, row])
        assert limited == [ITEMS[pair[0]], ITEMS[pair[1]], ""]
        assert free == np.array(ITEMS)[np.argsort(-scores[1])[:3]].tolist()
        want = [*scores[0, pair], LOWEST]
        np.testing.assert_allclose(answer["scores"][0], want, rtol=1e-5)

    def test_a_query_limited_to_unknown_or_excluded_items_gets_none(self, serve):
        allow = np.array([["never seen", ""], [ITEMS[3], ITEMS[3]]])
        exclude = np.array([[""], [ITEMS[3]]])
        inputs = {"k": [2, 2], "exclude_ids": exclude, "allow_ids": allow}
        answer = serve("recommend", queries_of([0, 1]) | inputs)
        assert as_text(answer["item_ids"]) == [["", ""]] * 2
        assert (answer["scores"] == np.float32(LOWEST)).all()

    def test_every_query_of_a_batch_gets_the_largest_k(self, serve):
        inputs = {"k": [1, 3], "exclude_ids": ANY[[0, 0]], "allow_ids": ANY[[0, 0]]}
        both = serve("recommend", queries_of([4, 5]) | inputs)
        alone = {"k": [3], "exclude_ids": ANY, "allow_ids": ANY}
        first = serve("recommend", queries_of(4) | alone)
        assert both["item_ids"].shape == (2, 3)
        assert as_text(both["item_ids"])[:1] == as_text(first["item_ids"])

    def test_a_request_without_rows_has_an_empty_answer(self, serve):
        inputs = {"k": [], "exclude_ids": ANY[:0], "allow_ids": ANY[:0]}
        answer = serve("recommend", queries_of(np.arange(0)) | inputs)
        assert answer["item_ids"].shape == answer["scores"].shape == (0, 1)

    @pytest.mark.parametrize("age", [np.nan, np.inf, 3e38, -3e38])
    def test_scores_are_finite_whatever_number_comes(self, serve, age):
        query = queries_of(1) | {"Age": [age], "taste": [[age, 3e38]]}
        for signature in ("serving_default", "encode_query"):
            for value in serve(signature, query).values():
                assert value.dtype == object or np.isfinite(value).all()
        entries = serve("encode_query", query)["embedding"]
        assert np.abs(entries).max() <= np.float32(LARGEST)

    @pytest.mark.parametrize(
        ("signature", "inputs", "message"),
        [
            (
                "recommend",
                {"k": [0, 5], "exclude_ids": ANY[[0, 0]], "allow_ids": ANY[[0, 0]]},
                r"`k` must be from 1 to the number of items, 60\. Received:.*0 5",
            ),
            (
                "recommend",
                {"k": [1, 61], "exclude_ids": ANY[[0, 0]], "allow_ids": ANY[[0, 0]]},
                r"`k` must be from 1 to the number of items, 60\. Received:.*1 61",
            ),
            (
                "rank",
                {"candidate_ids": [["a"], ["b"], ["c"]]},
                r"`candidate_ids` must have the batch size of `.+`\. Received:.*3.*2",
            ),
            (
                "serving_default",
                {"Age": [1.0]},
                r"`Age` must have the batch size of `user_id`\. Received:.*1.*2",
            ),
            (
                "encode_query",
                {"history_length": [0, 7]},
                r"`history_length` must be from 0 to the width of `history`\. "
                r"Received:.*0 7.*6",
            ),
            ("encode_query", {"history_length": [-1, 0]}, r"`history_length` must be"),
            (
                "encode_query",
                {"history": ["a", "b"]},
                r"encode_query_history\S* \[2\] is not compatible with "
                r"expected shape \[\?,\?\][\s\S]*input_history",
            ),
            ("rank", {"candidate_ids": ["a", "b"]}, r"input_candidate_ids"),
        ],
    )
    def test_a_wrong_input_is_named(self, serve, signature, inputs, message):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            serve(signature, queries_of([0, 1]) | inputs)


class TestPublishing:
    def test_the_next_export_is_the_next_version(self, exported, student):
        before = publishing.hashes(exported.path)
        second = run_export(exported.path.parents[1], student, top_k=60)
        assert second.path == exported.path.with_name("2")
        assert second.manifest["version"] == second.version == 2
        assert publishing.hashes(exported.path) == before

    def test_a_student_that_changed_since_is_not_published(
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
            run_export(tmp_path, student)
        assert list((tmp_path / "films").iterdir()) == []

    def test_a_full_disk_half_way_leaves_nothing(self, student, tmp_path, monkeypatch):
        def full(module, folder, signatures):
            Path(folder, "saved_model.pb").write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(tf.saved_model, "save", full)
        with pytest.raises(OSError, match="No space left"):
            run_export(tmp_path, student)
        assert list((tmp_path / "films").iterdir()) == []

    def test_a_model_that_does_not_load_is_refused_with_the_reason(
        self, tmp_path, embeddings
    ):
        with pytest.raises(ExportError, match=r"fresh process[\s\S]*saved_model"):
            queries, items = embeddings
            raw = {n: v for n, v in build_rows().items() if n != "dwell"}
            table = build_items().to_pydict()
            candidates = {
                n: np.array(table[n], object) for n in ("item_id", "class", "title")
            }
            live = Live(raw, candidates, ITEMS, queries, items, 3)
            check_parity(tmp_path, live, [1])

    def test_what_a_killed_export_left_is_removed(self, tmp_path):
        killed = tmp_path / ".staging-1" / "variables"
        killed.mkdir(parents=True)
        (killed / "variables.index").write_text("half")
        with publishing.staged(tmp_path) as (staging, version):
            assert list(staging.iterdir()) == []
            (staging / "saved_model.pb").write_text("whole")
        assert version == 1
        assert [p.name for p in tmp_path.iterdir()] == ["1"]
        assert (tmp_path / "1" / "saved_model.pb").read_text() == "whole"

    def test_versions_are_counted_as_numbers(self, tmp_path):
        for name in ("2", "10", "not-a-version"):
            (tmp_path / name).mkdir()
        with publishing.staged(tmp_path) as (staging, version):
            assert (staging.name, version) == (".staging-11", 11)
        assert (tmp_path / "11").is_dir()

    def test_two_exports_to_one_place_at_once_are_refused(self, tmp_path):
        with publishing.staged(tmp_path) as (staging, _):
            with pytest.raises(BusyError, match="Another recdistill process is using"):
                with publishing.staged(tmp_path):
                    pass
            assert staging.is_dir()
        assert (tmp_path / "1").is_dir()


class PythonicStudent(TwoTowerStudent):
    """A student with a step outside TensorFlow."""

    def encode_query(self, query, training=False):
        vector = super().encode_query(query, training)
        doubled = tf.numpy_function(lambda v: 2 * v, [vector], tf.float32)
        return tf.ensure_shape(doubled, vector.shape)


class TestRefused:
    def test_an_op_that_calls_python_by_its_name(self, schema, tmp_path):
        student = build_student(schema, PythonicStudent)
        with pytest.raises(ValueError, match=r"Received: (Eager)?PyFunc, node '"):
            run_export(tmp_path, student)
        assert list((tmp_path / "films").iterdir()) == []

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"name": "../films"}, r"`name` must .*Received: name='../films'"),
            ({"top_k": 0}, r"`top_k` must be from 1 .* 60\. Received: top_k=0"),
            ({"top_k": 61}, r"Received: top_k=61"),
            ({"warm_up_batches": (0, 1)}, r"`warm_up_batches` must be .*\(0, 1\)"),
            ({"warm_up_batches": [1] * 167}, r"at most 1000 .*Received: 1002"),
            ({"metadata": {"ndcg": float("nan")}}, r"`metadata` must be JSON-ready"),
            (
                {"rows": {"user_id": ["ann"]}},
                r"`rows` must have the raw input 'jobs'",
            ),
            (
                {"rows": {k: v[:0] for k, v in build_rows().items()}},
                r"at least one row\. Received: .*'user_id': 0",
            ),
            (
                {"rows": build_rows() | {"Age": np.ones(3)}},
                r"same number of rows .*'Age': 3",
            ),
            (
                {"rows": build_rows() | {"taste": np.ones((12, 3))}},
                r"'taste' with shape \(None, 2\).*Received: shape \(12, 3\)",
            ),
            ({"items": build_items().slice(0, 0)}, r"`items` must hold at least one"),
            (
                {"items": build_items().drop_columns(["title"])},
                r"`items` must have the column 'title' of the feature 'title'",
            ),
            (
                {"items": pa.concat_tables([build_items()] * 2)},
                r"`item_ids` must hold each id once.*Received: 'item-0'",
            ),
        ],
    )
    def test_an_argument_that_does_not_fit(self, student, tmp_path, changes, message):
        with pytest.raises(ValueError, match=message):
            run_export(tmp_path, student, **changes)
        assert list(tmp_path.iterdir()) == []

    def test_a_feature_with_the_name_of_another_input(self, student, tmp_path):
        schema = build_schema()
        taken = build_encoder("k", CategorySpec(), {"vocabulary": []})
        schema.query = (*schema.query, taken)
        catalogue = Catalogue([*"ab"], ExactIndex(np.ones((2, 6))))
        with pytest.raises(ValueError, match=r"must not be called .*Received: 'k'"):
            Servable(StudentTowers(student, schema), catalogue, 1)

    def test_a_student_with_embeddings_that_are_not_finite(self, schema, tmp_path):
        student = build_student(schema)
        student.candidate_tower.linear.bias.assign([np.nan] * 6)
        with pytest.raises(ValueError, match=r"`embeddings` must be finite"):
            run_export(tmp_path, student)


def test_the_fresh_process_can_import_neither_keras_nor_the_library():
    program = f"""
import importlib, runpy, sys
sys.argv = ["fresh_process.py"]
try:
    runpy.run_path({fresh_process.__file__!r}, run_name="__main__")
except TypeError:
    pass  # It was given no files.
print("tensorflow" in sys.modules)
for name in ("keras", "tf_keras", "recdistill", "recdistill.models.two_tower"):
    try:
        importlib.import_module(name)
    except ImportError:
        print("no", name)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    lines = done.stdout.split("\n")
    assert lines[0] == "True"
    assert lines[1:5] == [
        "no keras",
        "no tf_keras",
        "no recdistill",
        "no recdistill.models.two_tower",
    ]
