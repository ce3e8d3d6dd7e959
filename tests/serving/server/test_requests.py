"""requests: TensorFlow Serving's rules for requests, over both protocols."""

import contextlib
import ctypes
import gc
import http.client
import socket
import threading

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import model_pb2

from recdistill.errors import ServeError
from recdistill.serving.server.loaded_model import LoadedModel
from recdistill.serving.server.request_errors import RequestError
from tests.serving.calls import Client, predict_request, refused
from tests.serving.waiting import wait_until

pytestmark = pytest.mark.slow


class TestTimeouts:
    def test_a_slow_rest_request_is_a_504_and_keeps_its_slot(self, serve, monkeypatch):
        proceed, run = threading.Event(), LoadedModel.run

        def held(*arguments):
            proceed.wait()
            return run(*arguments)

        monkeypatch.setattr(LoadedModel, "run", held)
        serving = serve(rest_timeout_s=0.1, rest_threads=1, waiting=1)
        try:
            status, document = serving.client.rest({"inputs": [1.0]})
            assert (status, list(document)) == (504, ["error"])
            assert serving.client.rest({"inputs": [1.0]})[0] == 504
        finally:
            proceed.set()
        wait_until(lambda: serving.client.rest({"inputs": [1.0]})[0] == 200)

    def test_a_run_that_ends_after_the_deadline_is_counted_as_late(self, serve):
        serving = serve()
        requests = serving.server._rest._requests
        spec = model_pb2.ModelSpec(name="toy")
        prediction = [predict_request(x=[1.0])]
        with pytest.raises(RequestError, match="passed while it ran"):
            requests.run(spec, lambda version: version.prediction(*prediction), 0.0)

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
        wait_until(lambda: serving.server._rest._listener.draining)
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

    def test_connections_above_the_limit_are_refused(self, serve):
        serving = serve(rest_connections=1)
        port = serving.client.rest_port
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as one:
            one.request("GET", "/v1/models/toy")
            assert one.getresponse().status == 200
            status, text = serving.client.http("GET", "/v1/models/toy")
            assert (status, "too many connections" in text) == (503, True)

    def test_it_listens_on_the_loopback_address(self, shared):
        listening = shared.server._rest._listener.server_address[0]
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


class MallocInfo(ctypes.Structure):
    """The C library's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks "
            "keepcost"
        ).split()
    ]


def test_a_request_that_the_graph_refuses_leaves_no_memory_behind(shared):
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        pytest.skip("The C library does not count its memory")
    library.mallinfo2.restype = MallocInfo
    requests, number = shared.server._rest._requests, 3_000
    spec = model_pb2.ModelSpec(name="toy")
    request = predict_request("checked", n=[-1])

    def allocated_after(number):
        for _ in range(number):
            with pytest.raises(RequestError, match="must be at least 0"):
                requests.run(spec, lambda version: version.prediction(request), 60.0)
        gc.collect()
        return library.mallinfo2().uordblks

    before = allocated_after(300)
    # TensorFlow's timeouts left 665 bytes a request.
    assert allocated_after(number) - before < 100 * number
