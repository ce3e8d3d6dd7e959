"""requests: TensorFlow Serving's rules for requests, over both protocols."""

import contextlib
import http.client
import json
import socket
import threading

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import classification_pb2

from recdistill.errors import ServeError
from tests.serving.calls import Client, predict_request, refused
from tests.serving.waiting import wait_until

pytestmark = pytest.mark.slow


class TestRules:
    def test_defaults_work_over_grpc_only(self, shared):
        outputs, _ = shared.client.predict("optional", a=[1.0, 2.0])
        assert outputs["sum"].tolist() == [11.0, 12.0]
        both, _ = shared.client.predict("optional", a=[1.0], b=[2.0])
        assert both["sum"].tolist() == [3.0]
        with refused("INVALID_ARGUMENT") as error:
            shared.client.predict("optional", b=[2.0])
        assert error["details"] == (
            "input size does not match signature: 1!=2. Sent extra: {}. "
            "Missing but required: {a}."
        )
        body = {"signature_name": "optional", "inputs": {"a": [1.0]}}
        assert shared.client.rest(body)[0] == 400

    def test_outputs_of_different_lengths_need_the_columnar_format(self, shared):
        body = {"signature_name": "uneven"}
        status, document = shared.client.rest({**body, "inputs": [1.0, 2.0]})
        assert (status, document["outputs"]["sum"]) == (200, [3.0])
        status, document = shared.client.rest({**body, "instances": [1.0, 2.0]})
        assert (status, "inconsistent batch size" in document["error"]) == (400, True)

    def test_scalars_need_the_columnar_format(self, shared):
        body = {"signature_name": "scalar"}
        assert shared.client.rest({**body, "inputs": 3}) == (200, {"outputs": 6})
        status, document = shared.client.rest({**body, "instances": [3]})
        assert (
            status == 200
        )  # A row makes a list of the scalar, which the graph accepts.
        assert document == {"predictions": [6]}

    def test_a_signature_without_inputs_needs_grpc(self, shared):
        assert shared.client.predict("constant")[0]["seven"].tolist() == [7]
        body = {"signature_name": "constant", "inputs": {}}
        status, document = shared.client.rest(body)
        assert (status, "Failed to get input map" in document["error"]) == (400, True)

    def test_scores_that_are_not_finite_are_invalid_json(self, shared):
        body = {"signature_name": "extreme", "instances": [1.0]}
        status, text = shared.client.http("POST", "/v1/models/toy:predict", body)
        want = '{"predictions": [[Infinity, -Infinity, NaN, 0.1, 1.0, 1e-09]]}'
        assert (status, text) == (200, want)

    @pytest.mark.parametrize("name", ["half", "brain"])
    def test_small_floats_need_grpc(self, shared, name):
        outputs, _ = shared.client.predict(name, x=[1.5])
        assert outputs[name].astype("float32").tolist() == [1.5]
        body = {"signature_name": name, "inputs": [1.5]}
        assert shared.client.rest(body)[0] == 400

    def test_strings_are_base64_if_the_name_ends_in_bytes(self, shared):
        body = {"signature_name": "described"}
        body["instances"] = [{"ids": ["größe", {"b64": "/w=="}], "scale": 2}]
        status, text = shared.client.http("POST", "/v1/models/toy:predict", body)
        row = json.loads(text)["predictions"][0]
        assert status == 200
        assert row["ids"] == ["größe", "\udcff"]
        assert row["raw_bytes"] == [{"b64": "Z3LDtsOfZQ=="}, {"b64": "/w=="}]
        assert row["wide"] == [14.0, 2.0]

    def test_types_are_unchanged(self, shared):
        values = {
            "i": np.array([2**40], "int64"),
            "b": np.array([True]),
            "d": np.array([0.1], "float64"),
        }
        outputs, _ = shared.client.predict("typed", **values)
        assert all(outputs[name].dtype == v.dtype for name, v in values.items())
        columns = {name: value.tolist() for name, value in values.items()}
        body = {"signature_name": "typed", "inputs": columns}
        assert shared.client.rest(body) == (200, {"outputs": columns})

    def test_errors_of_the_graph_have_its_message(self, shared):
        with refused("INVALID_ARGUMENT") as error:
            shared.client.predict("checked", n=[1, -1])
        assert "`n` must be at least 0" in error["details"]
        body = {"signature_name": "checked", "inputs": [-1]}
        status, document = shared.client.rest(body)
        assert (status, "`n` must be" in document["error"]) == (400, True)

    def test_an_output_filter_selects_outputs(self, shared):
        ids = [["a"]]
        outputs, _ = shared.client.predict(
            "described", output_filter=["wide", "ids"], ids=ids, scale=[1.0]
        )
        assert set(outputs) == {"wide", "ids"}

    def test_other_methods_are_unimplemented(self, shared):
        with refused("UNIMPLEMENTED"):
            shared.client.prediction.Classify(
                classification_pb2.ClassificationRequest(), timeout=30
            )
        assert shared.client.rest({}, method="classify")[0] == 501


class TestTimeouts:
    def test_a_slow_rest_request_is_a_504(self, serve):
        serving = serve(rest_timeout_s=2)
        body = {"signature_name": "slow", "inputs": [10_000_000]}
        assert serving.client.rest(body)[0] == 504
        body["inputs"] = [1]
        wait_until(lambda: serving.client.rest(body)[0] == 200)

    def test_a_deadline_ends_a_grpc_call(self, shared):
        with refused("DEADLINE_EXCEEDED"):
            shared.client.predict("slow", timeout=0.05, n=[50_000])

    def test_shutdown_finishes_running_requests_and_rejects_new_ones(
        self, serve, monkeypatch
    ):
        serving = serve()
        version = serving.server.models._models["toy"].versions[1]
        running, proceed = threading.Barrier(3), threading.Event()
        answer, answers = version.answer, []

        def paused(*arguments):
            running.wait()
            proceed.wait()
            return answer(*arguments)

        monkeypatch.setattr(version, "answer", paused)
        calls = [
            lambda: answers.append(serving.client.predict(x=[0.0])[1]),
            lambda: answers.append(serving.client.rest({"inputs": [0.0]})[0]),
        ]
        threads = [threading.Thread(target=call) for call in calls]
        threads.append(threading.Thread(target=serving.server.stop))
        for thread in threads[:2]:
            thread.start()
        running.wait()
        threads[2].start()
        wait_until(lambda: serving.server._rest._server.draining)
        proceed.set()
        for thread in threads:
            thread.join()
        assert sorted(answers) == [1, 200]
        with refused("UNAVAILABLE"):
            serving.client.predict(x=[1.0])
        with pytest.raises(OSError):
            serving.client.rest({"inputs": [1.0]})


class TestLimits:
    def test_a_large_message_is_rejected_and_the_next_one_answered(self, shared):
        with refused("RESOURCE_EXHAUSTED"):
            shared.client.predict(x=np.zeros(30_000, "float32"))
        body = {"inputs": [0.0] * 30_000}
        assert shared.client.rest(body)[0] == 413
        assert shared.client.rest({"inputs": [1.0]}) == (200, {"outputs": [2.0]})

    def test_a_missing_or_invalid_length_is_rejected(self, shared):
        head = b"POST /v1/models/toy:predict HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n"
        for line, status in (
            (b"Transfer-Encoding: chunked", b"411"),
            (b"Content-Length: 1e3", b"400"),
            (b"Content-Length: -5", b"400"),
            (b"Content-Length: 3\r\nTransfer-Encoding: chunked", b"411"),
        ):
            with socket.create_connection(("127.0.0.1", shared.client.rest_port)) as c:
                c.sendall(head % line)
                answer = b"".join(iter(lambda c=c: c.recv(4096), b""))
            assert answer.startswith(b"HTTP/1.1 " + status)

    def test_connections_above_the_limit_are_closed(self, serve):
        serving = serve(rest_connections=1)
        port = serving.client.rest_port
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as one:
            one.request("GET", "/v1/models/toy")
            assert one.getresponse().status == 200
            with pytest.raises((http.client.HTTPException, OSError)):
                serving.client.http("GET", "/v1/models/toy")

    def test_it_listens_on_the_loopback_address(self, shared):
        listening = shared.server._rest._server.server_address[0]
        assert listening == shared.server.options.address == "127.0.0.1"
        with contextlib.closing(socket.socket()) as other:
            other.settimeout(2)
            with pytest.raises(OSError):
                other.connect(("127.0.0.2", shared.client.port))


def test_no_request_fails_while_versions_are_swapped(serve):
    serving = serve(grpc_threads=4)
    problems, seen, done = [], set(), threading.Event()

    def ask():
        # A connection for each client.
        options = [("grpc.use_local_subchannel_pool", 1)]
        client = Client(serving.client.port, serving.client.rest_port, options=options)
        try:
            while not done.is_set():
                outputs, version = client.predict(x=[0.0])
                seen.add(version)
                if outputs["y"].tolist() != [float(version)]:
                    problems.append((outputs, version))
                status, document = client.rest({"inputs": [0.0]})
                if status != 200 or document["outputs"][0] not in (1.0, 2.0, 3.0):
                    problems.append((status, document))
        except grpc.RpcError as error:
            problems.append(error)
        finally:
            client.close()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for number in (2, 3):
        serving.publish(number)
        serving.wait_for(number - 1, "END")
        wait_until(lambda number=number: problems or number in seen)
    done.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert {2, 3} <= seen <= {1, 2, 3}


def test_a_port_in_use_is_an_error(serve, shared):
    with pytest.raises(ServeError, match=r"cannot listen for gRPC at 127\.0\.0\.1:"):
        serve(port=shared.client.port)
    with pytest.raises(ServeError, match=r"cannot listen for REST at 127\.0\.0\.1:"):
        serve(rest_port=shared.client.rest_port)


def test_a_set_of_outputs_is_prepared_once(shared):
    for names in (["ids", "wide"], ["wide", "ids"]):
        request = predict_request("described", ids=[["a"]], scale=[1.0])
        request.output_filter.extend(names)
        shared.client.send(request)
    model = shared.server.models._models["toy"].versions[1].model
    kept = [key for key in model._calls if len(key[1]) == 2 and key[0] == "described"]
    assert len(kept) == 1
