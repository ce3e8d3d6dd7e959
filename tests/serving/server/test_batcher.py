"""batcher: TensorFlow Serving's batching rules, alone and over the protocols."""

import shutil
import threading
import time

import numpy as np
import pytest
from grpc import StatusCode

from recdistill.serving.deploy.batching_config import Batching
from recdistill.serving.server.batcher import WIDEST_SHARED, Batcher
from recdistill.serving.server.loaded_model import LoadedModel, LoadedSignature
from recdistill.serving.server.request_errors import RequestError
from recdistill.serving.server.server_metrics import ServerMetrics
from tests.serving.calls import predict_request, refused
from tests.small_models import saved_toy

pytestmark = pytest.mark.slow

IDS = LoadedSignature("ids", {"ids": None}, {"out": None}, {})
BATCHING = ":tensorflow:serving:batching_session"


class Gate:
    """Runs batches when it is open, and records them."""

    def __init__(self, answer=lambda value: value):
        self.batches, self.answer = [], answer
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self, signature, values, outputs):
        self.entered.set()
        self.open.wait()
        self.batches.append(values[0])
        return [self.answer(values[0])]


@pytest.fixture
def batcher():
    made = []

    def make(run, rows=4, timeout_s=0.0, queue=8, threads=1, **more):
        parameters = Batching(rows, int(timeout_s * 1e6), queue, threads, **more)
        made.append((Batcher(run, parameters, ServerMetrics()), run))
        return made[-1][0]

    yield make
    for each, run in made:
        run.open.set()
        each.close()


def texts(*rows):
    return np.array([[each.encode() for each in row] for row in rows], object)


class Asking:
    """Concurrent requests, each in a thread."""

    def __init__(self, batcher, *values, signature=IDS, timeout_s=None):
        self.results = [None] * len(values)

        def ask(place, value):
            try:
                [answer] = batcher.submit(signature, [value], ("out",), timeout_s)
                self.results[place] = answer.tolist()
            except RequestError as error:
                self.results[place] = error

        self.threads = []
        for place, value in enumerate(values):
            before = waiting(batcher)
            thread = threading.Thread(target=ask, args=(place, value))
            thread.start()
            self.threads.append(thread)
            # One after the other, so that the batches are known.
            while waiting(batcher) == before and thread.is_alive():
                time.sleep(0.001)

    def finish(self):
        for thread in self.threads:
            thread.join()
        return self.results


def waiting(batcher):
    return sum(len(batch.tasks) for batch in batcher._waiting)


def blocked(batcher, gate):
    """Occupies the only thread with a full batch of zeros."""
    zeros = [np.zeros(4, "int32")]
    ask = threading.Thread(target=lambda: batcher.submit(IDS, zeros, ("out",)))
    ask.start()
    assert gate.entered.wait()


class TestFormingBatches:
    def test_waiting_requests_share_a_batch_and_each_gets_its_rows(self, batcher):
        gate = Gate(lambda value: value * 10)
        collected = batcher(gate)
        blocked(collected, gate)
        asking = Asking(collected, np.int32([1]), np.int32([2, 3]), np.int32([4]))
        gate.open.set()
        assert asking.finish() == [[10], [20, 30], [40]]
        assert [batch.tolist() for batch in gate.batches[1:]] == [[1, 2, 3, 4]]

    def test_a_request_that_does_not_fit_starts_the_next_batch(self, batcher):
        gate = Gate()
        collected = batcher(gate)
        blocked(collected, gate)
        asking = Asking(collected, np.int32([1, 2, 3]), np.int32([4, 5]), np.int32([6]))
        gate.open.set()
        assert asking.finish() == [[1, 2, 3], [4, 5], [6]]
        assert [b.tolist() for b in gate.batches[1:]] == [[1, 2, 3], [4, 5, 6]]

    def test_a_full_batch_does_not_wait_for_the_timeout(self, batcher):
        gate = Gate()
        gate.open.set()
        collected = batcher(gate, timeout_s=1_000)
        asking = Asking(collected, np.int32([1, 2]), np.int32([3, 4]))
        assert asking.finish() == [[1, 2], [3, 4]]
        assert len(gate.batches) == 1

    def test_a_timeout_may_be_longer_than_a_thread_can_wait(self, batcher):
        gate = Gate()
        gate.open.set()
        collected = batcher(gate, timeout_s=1e12)
        asking = Asking(collected, np.int32([1]))
        time.sleep(0.05)  # The thread of the batcher waits.
        rest = Asking(collected, np.int32([2, 3, 4]))
        assert [*asking.finish(), *rest.finish()] == [[1], [2, 3, 4]]

    def test_a_batch_that_is_not_full_runs_after_the_timeout(self, batcher):
        gate = Gate()
        gate.open.set()
        collected = batcher(gate, timeout_s=0.05)
        assert Asking(collected, np.int32([1])).finish() == [[1]]
        assert [b.tolist() for b in gate.batches] == [[1]]

    def test_each_signature_has_its_own_batches(self, batcher):
        gate = Gate()
        collected = batcher(gate)
        blocked(collected, gate)
        other = LoadedSignature("other", {"ids": None}, {"out": None}, {})
        first = Asking(collected, np.int32([1]))
        second = Asking(collected, np.int32([2]), signature=other)
        gate.open.set()
        assert first.finish() + second.finish() == [[1], [2]]
        assert [b.tolist() for b in gate.batches[1:]] == [[1], [2]]

    def test_a_batch_is_filled_up_with_rows_of_its_requests(self, batcher):
        gate = Gate()
        gate.open.set()
        sizes = {"allowed_batch_sizes": (1, 3, 4)}
        assert Asking(batcher(gate, **sizes), np.int32([5, 6])).finish() == [[5, 6]]
        assert gate.batches[0].tolist() == [5, 6, 5]

    def test_metrics_have_sizes_and_waiting_times(self, batcher):
        gate = Gate()
        gate.open.set()
        collected = batcher(gate, allowed_batch_sizes=(3, 4))
        Asking(collected, np.int32([5, 6])).finish()
        page = collected._metrics.render()
        assert f"{BATCHING}:wrapped_run_count{{}} 1" in page
        assert f"{BATCHING}:input_batch_size_sum{{}} 2" in page
        assert f"{BATCHING}:processed_batch_size_sum{{}} 3" in page
        assert f"{BATCHING}:padding_size_sum{{}} 1" in page
        assert f'{BATCHING}:queuing_latency_count{{thread_pool_name="' in page


class TestWidths:
    NARROW, WIDE = texts(["a"], ["b"]), texts(["c", "d"])

    def test_without_padding_different_widths_do_not_share_a_batch(self, batcher):
        gate = Gate()
        collected = batcher(gate)
        blocked(collected, gate)
        asking = Asking(collected, self.NARROW, self.WIDE, self.NARROW)
        gate.open.set()
        a, b, c, d = (each.encode() for each in "abcd")
        assert asking.finish() == [[[a], [b]], [[c, d]], [[a], [b]]]
        assert [len(batch) for batch in gate.batches[1:]] == [4, 1]

    @pytest.mark.parametrize("padding", [True, False])
    def test_different_ranks_do_not_share_a_batch(self, batcher, padding):
        gate = Gate()
        collected = batcher(gate, pad_variable_length_inputs=padding)
        blocked(collected, gate)
        asking = Asking(collected, np.int32([1]), np.int32([[2]]))
        gate.open.set()
        assert asking.finish() == [[1], [[2]]]

    def test_a_very_wide_request_does_not_widen_others(self, batcher):
        gate = Gate()
        collected = batcher(gate, pad_variable_length_inputs=True)
        blocked(collected, gate)
        wide = np.zeros((1, WIDEST_SHARED + 1), "int32")
        asking = Asking(collected, np.int32([[2]]), wide)
        gate.open.set()
        assert asking.finish()[0] == [[2]]

    def test_padding_repeats_the_first_element_and_not_an_empty_string(self, batcher):
        gate = Gate()
        collected = batcher(gate, pad_variable_length_inputs=True)
        blocked(collected, gate)
        asking = Asking(collected, self.NARROW, self.WIDE)
        gate.open.set()
        # The first element of the whole array: that of another row, for the second.
        a, b, c, d = (each.encode() for each in "abcd")
        assert asking.finish() == [[[a, a], [b, a]], [[c, d]]]


class TestRejections:
    def refused(self, batcher, *values, code=StatusCode.INVALID_ARGUMENT):
        names = {f"v{k}": None for k in range(len(values))}
        shapes = {"v1": (None,)}
        signature = LoadedSignature("any", names, {"out": None}, {}, shapes)
        with pytest.raises(RequestError) as caught:
            batcher.submit(signature, values, ("out",))
        assert caught.value.code == code
        return caught.value.message

    def test_a_request_that_cannot_be_batched_is_rejected_at_once(self, batcher):
        collected = batcher(Gate())
        one = np.int32([1])
        for values, message in [
            ([], "at least one input tensor"),
            ([np.int32(3)], "`v0` must have an axis for the rows. Received: a scalar"),
            (
                [one, np.int32([1, 2])],
                "`v1` must have as many rows as",
            ),
            ([one, np.int32([[1]])], "`v1` must have the shape (n). Received: [1, 1]"),
            ([np.zeros((0, 3))], "`v0` must have at least one row"),
            ([np.zeros((2, 0))], "`v0` must have at least one entry in each row"),
            ([np.zeros(5)], "Task size 5 is larger than maximum input batch size 4"),
        ]:
            assert message in self.refused(collected, *values)

    def test_a_full_queue_is_unavailable(self, batcher):
        gate = Gate()
        collected = batcher(gate, queue=2)
        blocked(collected, gate)
        asking = Asking(collected, np.zeros(4), np.zeros(3))
        message = self.refused_by_queue(collected)
        assert message.endswith("is full")
        gate.open.set()
        assert asking.finish() == [[0.0] * 4, [0.0] * 3]

    def refused_by_queue(self, collected):
        with pytest.raises(RequestError) as caught:
            collected.submit(IDS, [np.zeros(2)], ("out",))
        assert caught.value.code == StatusCode.UNAVAILABLE
        return caught.value.message

    def test_a_request_that_times_out_is_not_computed(self, batcher):
        gate = Gate()
        collected = batcher(gate)
        blocked(collected, gate)
        [error] = Asking(collected, np.int32([7]), timeout_s=0.01).finish()
        assert error.code == StatusCode.DEADLINE_EXCEEDED
        gate.open.set()
        assert Asking(collected, np.int32([8])).finish() == [[8]]
        assert 7 not in np.concatenate(gate.batches)

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (lambda value: np.float32(1), "has 0 dimensions"),
            (lambda value: value[:0], "does not equal the sum"),
            (lambda value: 1 / 0, "Batch failed: ZeroDivisionError"),
        ],
    )
    def test_a_request_that_fails_does_not_fail_the_others_of_its_batch(
        self, batcher, answer, message
    ):
        gate = Gate()
        collected = batcher(gate)
        blocked(collected, gate)
        asking = Asking(collected, np.int32([1]), np.int32([2]), np.int32([3]))
        gate.answer = lambda value: answer(value) if 2 in value else value
        gate.open.set()
        first, error, last = asking.finish()
        assert (first, last) == ([1], [3])
        assert message in str(error)
        gate.answer = lambda value: value
        assert Asking(collected, np.int32([3])).finish() == [[3]]


class TestOverTheProtocols:
    """The same codes and statuses as TensorFlow Serving."""

    @pytest.fixture
    def batched(self, serve):
        parameters = Batching(4, 0, 4, 2, allowed_batch_sizes=(2, 4))
        return serve(batching=parameters)

    def test_an_answer_has_the_rows_of_its_request(self, batched):
        outputs, version = batched.client.predict(x=[1.0, 2.0, 3.0])
        assert (outputs["y"].tolist(), version) == ([2.0, 3.0, 4.0], 1)
        assert batched.client.rest({"instances": [1]}) == (200, {"predictions": [2.0]})

    def test_a_request_that_cannot_be_batched_is_a_400(self, batched):
        client = batched.client
        for signature, inputs in [
            ("scalar", {"n": 3}),
            ("uneven", {"x": [1.0, 2.0]}),
            ("shifted", {"x": [1.0] * 5}),
            ("shifted", {"x": []}),
            ("optional", {"a": [1.0], "b": [1.0, 2.0]}),
        ]:
            name = "" if signature == "shifted" else signature
            body = {"signature_name": name or "serving_default", "inputs": inputs}
            assert client.rest(body)[0] == 400, signature
        with refused("INVALID_ARGUMENT"):
            client.predict("scalar", n=3)
        with refused("FAILED_PRECONDITION"):
            client.predict("uneven", x=[1.0, 2.0])

    def test_without_batching_these_requests_succeed(self, shared):
        client = shared.client
        assert client.predict("scalar", n=3)[0]["twice"] == 6
        assert client.predict("uneven", x=[1.0, 2.0])[0]["sum"].tolist() == [3.0]
        assert client.predict(x=np.zeros(0, "float32"))[0]["y"].shape == (0,)

    def test_a_full_queue_is_a_503_and_a_timeout_a_504(self, serve, monkeypatch):
        entered, proceed, run = threading.Event(), threading.Event(), LoadedModel.run

        def held(*arguments):
            entered.set()
            proceed.wait()
            return run(*arguments)

        monkeypatch.setattr(LoadedModel, "run", held)
        batched = serve(batching=Batching(1, 0, 1, 1), rest_timeout_s=0.2)
        # One request occupies the thread, the next one waits in the queue.
        running = threading.Thread(target=lambda: batched.client.predict(x=[0.0]))
        running.start()
        entered.wait()
        try:
            statuses = [batched.client.rest({"inputs": [0.0]})[0] for _ in range(2)]
        finally:
            proceed.set()
            running.join()
        assert statuses == [504, 503]

    def test_the_warm_up_runs_through_the_batcher(self, serve):
        batched = serve(batching=Batching(4, 0, 4, 1), load_retries=0)
        batched.publish(2, warm_up=[predict_request(x=[1.0] * 5)])
        assert "larger than maximum" in batched.wait_for_error(2).message
        batched.publish(3, warm_up=[predict_request("scalar", n=1)])
        assert "an axis for the rows" in batched.wait_for_error(3).message
        assert batched.client.predict(x=[0.0])[1] == 1

    def test_a_version_can_have_its_own_parameters(self, serve):
        batched = serve(batching=Batching(4, 0, 4, 1), per_model_batching=True)
        assert batched.client.predict(x=[0.0] * 4)[1] == 1
        staging = batched.base / ".own"
        shutil.copytree(saved_toy(2), staging)
        Batching(2, 0, 4, 1).write(staging / "batching_params.pbtxt")
        staging.rename(batched.base / "2")
        batched.wait_for(1, "END")
        with refused("INVALID_ARGUMENT"):
            batched.client.predict(x=[0.0] * 4)

    def test_a_version_with_broken_parameters_is_not_loaded(self, serve):
        batched = serve(per_model_batching=True, load_retries=0)
        staging = batched.base / ".own"
        shutil.copytree(saved_toy(2), staging)
        (staging / "batching_params.pbtxt").write_text("nothing { of the kind }")
        staging.rename(batched.base / "2")
        assert "BatchingParameters" in batched.wait_for_error(2).message
        assert batched.client.predict(x=[0.0])[1] == 1


def test_a_request_without_a_deadline_waits_for_its_answer(batcher):
    gate = Gate()
    gate.open.set()
    # gRPC gives such a request 9.2e18 seconds, more than a thread can wait.
    values = [np.zeros(1, "int32")]
    [answer] = batcher(gate).submit(IDS, values, ("out",), timeout_s=9.2e18)
    assert answer.tolist() == [0]
