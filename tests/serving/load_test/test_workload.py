"""workload: real queries become messages, without TensorFlow."""

import json

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from recdistill.errors import NotAnExportError
from recdistill.export.layout import WARM_UP
from recdistill.serving.client.contract import SignatureContract, TensorContract
from recdistill.serving.client.protocols import GRPC, REST, Target
from recdistill.serving.client.serving_errors import QueryError
from recdistill.serving.load_test.workload import (
    Workload,
    queries_from_columns,
    queries_from_lines,
    recorded_rows,
    rows_of,
)

TEXTS = TensorContract("string", (None, None))
CONTRACT = SignatureContract(
    {
        "age": TensorContract("float32", (None,)),
        "history": TEXTS,
        "history_length": TensorContract("int32", (None,)),
        "k": TensorContract("int32", (None,)),
        "exclude_ids": TEXTS,
        "candidate_ids": TEXTS,
    },
    {},
)


def log(signature, **inputs):
    record = prediction_log_pb2.PredictionLog()
    request = record.predict_log.request
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return record


@pytest.fixture
def export(tmp_path):
    """An export with versions 2 and 10, the newer one with warm-up requests."""
    (tmp_path / "films" / "2").mkdir(parents=True)
    (tmp_path / "films" / ".staging-11").mkdir()
    (tmp_path / "films" / "10").mkdir()
    (tmp_path / "films" / "10" / "saved_model.pb").touch()
    file = tmp_path / "films" / "10" / WARM_UP
    file.parent.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for record in (
            log("rank", age=[1.0], history=[["größe"]]),
            log("rank", age=[1.0, 2.0], history=[["größe"], [""]]),
            log("encode_query", age=[5.0]),
            prediction_log_pb2.PredictionLog(),
        ):
            writer.write(record.SerializeToString())
    return tmp_path / "films"


class TestRecordedRows:
    def test_each_query_of_the_latest_version_occurs_once(self, export):
        rows = recorded_rows(export, "rank")
        assert [row["age"].tolist() for row in rows] == [[1.0], [2.0]]
        assert [row["history"].tolist() for row in rows] == [[["größe"]], [[""]]]

    def test_the_export_may_be_given_as_the_folder_of_one_version(self, export):
        assert len(recorded_rows(export / "10", "encode_query")) == 1

    def test_a_signature_without_requests_is_refused(self, export):
        with pytest.raises(QueryError, match=r"\['', 'encode_query', 'rank'\]"):
            recorded_rows(export, "recommend")

    def test_a_folder_without_versions_is_refused(self, tmp_path):
        with pytest.raises(NotAnExportError, match="numbered versions"):
            recorded_rows(tmp_path, "rank")


class TestQueries:
    def test_queries_in_json_lines_may_have_k_and_lists_of_ids(self, tmp_path):
        lines = [
            {"age": 3, "history": ["größe"], "k": 4, "candidate_ids": ["a"], "x": 1},
            {"age": None, "history": [], "exclude_ids": ["b"], "candidate_ids": []},
        ]
        file = tmp_path / "queries.jsonl"
        text = "\n\n".join(json.dumps(each, ensure_ascii=False) for each in lines)
        file.write_text(text, encoding="utf-8")
        rows = rows_of(queries_from_lines(file), CONTRACT, k=10)
        assert [row["k"].tolist() for row in rows] == [[4], [10]]
        assert rows[0]["history"].tolist() == [["größe"]]
        assert [row["exclude_ids"].tolist() for row in rows] == [[[""]], [["", "b"]]]
        assert [row["candidate_ids"].tolist() for row in rows] == [[["a"]], [[""]]]

    @pytest.mark.parametrize("k", [0, -1, True, 2.0, "ten", [1], 2**31])
    def test_a_k_that_is_no_positive_int32_is_refused(self, k):
        query = {"age": 1, "history": [], "candidate_ids": [], "k": k}
        with pytest.raises(QueryError, match=r"2,147,483,647 as 'k'.*in query 0"):
            rows_of([query], CONTRACT, k=1)
        [row] = rows_of([{**query, "k": None}], CONTRACT, k=7)
        assert row["k"].tolist() == [7]

    @pytest.mark.parametrize("line", ["{", "[1]", "3"])
    def test_a_line_that_is_not_an_object_is_refused(self, tmp_path, line):
        file = tmp_path / "queries.jsonl"
        file.write_text(f"{{}}\n{line}\n")
        with pytest.raises(QueryError, match=r"one JSON object per line.*line 2 of"):
            queries_from_lines(file)

    def test_a_query_to_rank_without_candidates_is_refused(self):
        with pytest.raises(QueryError, match=r"list of 'candidate_ids'.*in query 0"):
            rows_of([{"age": 1, "history": []}], CONTRACT, k=1)

    def test_columns_of_prepared_data_become_queries(self):
        columns = {
            "age": np.float32([1.5, np.nan]),
            "history": np.array([["a", "b"], ["c", ""]], object),
            "history_length": np.int32([2, 1]),
            "user_id": np.array([b"ann", b"bob"], object),
        }
        queries = queries_from_columns(columns)
        assert queries[0]["user_id"] == "ann"
        rows = rows_of([{**q, "candidate_ids": ["x"]} for q in queries], CONTRACT, 1)
        assert [row["history"].tolist() for row in rows] == [[["a", "b"]], [["c"]]]
        assert rows[0]["age"].dtype == "float32"


class TestMessages:
    ROWS = rows_of(
        [{"age": n, "history": ["a"] * n, "candidate_ids": ["x"]} for n in range(1, 4)],
        CONTRACT,
        k=2,
    )

    def workload(self, protocol, batch_size, rows=ROWS):
        target = Target("films", version=3)
        return Workload.of_rows(rows, protocol, target, "rank", batch_size)

    def test_a_batch_has_queries_in_turn_padded_to_the_widest(self):
        work = self.workload(GRPC, 2)
        requests = [
            predict_pb2.PredictRequest.FromString(each.body) for each in work.messages
        ]
        ages = [tf.make_ndarray(each.inputs["age"]).tolist() for each in requests]
        assert ages == [[1.0, 2.0], [3.0, 1.0], [2.0, 3.0]]
        assert tf.make_ndarray(requests[1].inputs["history"]).tolist() == [
            [b"a", b"a", b"a"],
            [b"a", b"", b""],
        ]
        lengths = tf.make_ndarray(requests[1].inputs["history_length"])
        assert lengths.tolist() == [3, 1]
        assert requests[0].model_spec.version.value == 3
        assert (work.queries, work.batch_size) == (3, 2)

    def test_a_rest_message_is_json_in_columnar_form(self):
        message = self.workload(REST, 1).messages[0]
        assert message.path == "/v1/models/films/versions/3:predict"
        content = json.loads(message.body)
        assert content["signature_name"] == "rank"
        assert content["inputs"]["history"] == [["a"]]

    def test_no_queries_or_an_empty_batch_are_refused(self):
        with pytest.raises(QueryError, match="at least one query"):
            self.workload(GRPC, 1, [])
        with pytest.raises(QueryError, match="batch_size=0"):
            self.workload(GRPC, 0)
