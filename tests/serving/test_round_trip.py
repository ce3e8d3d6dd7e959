"""Round trip: Keras, SavedModel, gRPC and REST give the same items and scores.

A thousand queries, some with unknown, missing and non-ASCII values, against the
embedded server. The live student is built again from its seed.
"""

import asyncio

import numpy as np
import pytest
import tensorflow as tf

from recdistill.serving import AsyncClient, Client
from recdistill.serving.deploy.models_config import Models
from recdistill.serving.load_test.workload import queries_from_columns
from recdistill.serving.server.local_server import LocalServer
from recdistill.serving.server.options import ServerOptions
from tests.serving.waiting import LONG_S
from tests.small_models import (
    ITEMS,
    films_items,
    films_rows,
    films_schema,
    films_student,
)

pytestmark = pytest.mark.slow

QUERIES, BATCH, K = 1000, 100, 10
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def columns():
    rows = films_rows(QUERIES)
    rows.pop("dwell")  # Only for the teacher.
    return rows


@pytest.fixture(scope="module")
def queries(columns):
    return queries_from_columns(columns)


@pytest.fixture(scope="module")
def exclude():
    """Exclusions of each query: one to four films and one unknown id."""
    rng = np.random.default_rng(9)
    return [
        [*rng.choice(ITEMS, rng.integers(1, 5), replace=False), "unbekannt"]
        for _ in range(QUERIES)
    ]


@pytest.fixture(scope="module")
def allow():
    """No limit for half of the queries; some films and an unknown id for the rest."""
    half = QUERIES // 2
    return [None] * half + [[*ITEMS[40:], "nobody knows"]] * half


@pytest.fixture(scope="module")
def candidates():
    rng = np.random.default_rng(10)
    named = [*ITEMS, "nobody knows", "größer"]
    return [list(rng.permutation(named)[: 1 + n % 30]) for n in range(QUERIES)]


@pytest.fixture(scope="module")
def live(columns):
    """The live student's query embeddings, and its score of each film, float32."""
    schema = films_schema()
    student, own = films_student(schema), schema.for_student()
    table = films_items()
    raw = {e.feature: np.array(table[e.feature].to_pylist()) for e in own.candidate}
    embeddings = student.encode_query(own.lookup_query(columns)).numpy()
    items = student.encode_candidates(own.lookup_candidates(raw)).numpy()
    return embeddings, embeddings @ items.T


@pytest.fixture(scope="module")
def server(exported, tmp_path_factory):
    file = tmp_path_factory.mktemp("round_trip") / "models.config"
    Models().with_model("films", str(exported.resolve())).write(file)
    with LocalServer(ServerOptions(file, port=0, rest_port=0)) as server:
        yield server


@pytest.fixture(scope="module")
def clients(server):
    grpc = Client(f"grpc://127.0.0.1:{server.port}", "films", deadline_s=LONG_S)
    rest = Client(f"http://127.0.0.1:{server.rest_port}", "films", deadline_s=LONG_S)
    with grpc, rest:
        yield {"grpc": grpc, "rest": rest}


@pytest.fixture(scope="module")
def served(clients, queries, exclude, allow, candidates):
    """Answers to all queries, in batches, by protocol."""
    answers = {}
    for protocol, client in clients.items():
        recommended, ranked, embedded = [], [], []
        for start in range(0, QUERIES, BATCH):
            part = slice(start, start + BATCH)
            recommended += client.recommend(
                queries[part], k=K, exclude=exclude[part], allow=allow[part]
            )
            ranked += client.rank(queries[part], candidates[part])
            embedded.append(client.encode_query(queries[part]).values)
        answers[protocol] = recommended, ranked, np.concatenate(embedded)
    return answers


def close(got, want):
    """Equal within the tolerance, relative to the largest value of the row above 1."""
    scale = np.maximum(np.abs(want).max(axis=-1, keepdims=True, initial=0), 1)
    np.testing.assert_array_less(np.abs(got - want) / scale, TOLERANCE)


def padded(lists):
    width = max(map(len, lists))
    return np.array([[*each, *[""] * (width - len(each))] for each in lists], object)


@pytest.fixture(scope="module")
def saved_model(exported):
    return tf.saved_model.load(str(exported / "1"))


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
class TestAgainstKeras:
    def test_embeddings_are_equal(self, served, live, protocol):
        _, _, embedded = served[protocol]
        assert embedded.dtype == "float32"
        close(embedded, live[0])

    def test_recommended_items_are_the_top_items_that_may_come(
        self, served, live, exclude, allow, protocol
    ):
        place = {name: k for k, name in enumerate(ITEMS)}
        recommended, _, _ = served[protocol]
        swapped = 0
        for row, got in enumerate(recommended):
            scores = live[1][row].copy()
            if allow[row] is not None:
                scores[[name not in allow[row] for name in ITEMS]] = -np.inf
            scores[[place[name] for name in exclude[row] if name in place]] = -np.inf
            best = np.argsort(-scores, kind="stable")[:K]
            assert len(got.item_ids) == len(set(got.item_ids)) == K
            close(got.scores, scores[best])
            rows = [place[name] for name in got.item_ids]
            # Items may only be swapped if their live scores are nearly equal.
            close(scores[rows], scores[best])
            swapped += rows != best.tolist()
        assert swapped <= QUERIES / 100

    def test_ranked_scores_are_equal_and_unknown_ids_are_marked(
        self, served, live, candidates, protocol
    ):
        place = {name: k for k, name in enumerate(ITEMS)}
        _, ranked, _ = served[protocol]
        for row, got in enumerate(ranked):
            rows = np.array([place.get(name, -1) for name in candidates[row]])
            assert got.known.tolist() == (rows >= 0).tolist()
            close(got.scores[rows >= 0], live[1][row][rows[rows >= 0]])
            assert (got.scores[rows < 0] == np.finfo("float32").min).all()


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
class TestAgainstTheSavedModel:
    """The same graph on the same batches gives identical bits."""

    def inputs(self, columns, part, **more):
        text = {"user_id", "jobs", "history", "exclude_ids", "allow_ids"}
        text.add("candidate_ids")
        given = {n: v[part] for n, v in columns.items()} | more
        return {
            name: tf.constant(
                value.tolist() if name in text else value,
                tf.string
                if name in text
                else tf.int32
                if name in ("k", "history_length")
                else tf.float32,
            )
            for name, value in given.items()
        }

    def test_recommended_ids_and_scores_are_identical(
        self, served, saved_model, columns, exclude, allow, protocol
    ):
        call = saved_model.signatures["recommend"]
        for start in range(0, QUERIES, BATCH):
            part = slice(start, start + BATCH)
            want = call(
                **self.inputs(
                    columns,
                    part,
                    k=np.full(BATCH, K),
                    exclude_ids=padded(exclude[part]),
                    allow_ids=padded([ids or [] for ids in allow[part]]),
                )
            )
            got = served[protocol][0][part]
            ids = [[name.decode() for name in row] for row in want["item_ids"].numpy()]
            assert [each.item_ids for each in got] == ids
            scores = np.stack([each.scores for each in got])
            if allow[start] is None:
                np.testing.assert_array_equal(scores, want["scores"].numpy())
            # Scores of a few items are sums in another order.
            close(scores, want["scores"].numpy())

    def test_ranked_scores_are_identical(
        self, served, saved_model, columns, candidates, protocol
    ):
        call = saved_model.signatures["rank"]
        for start in range(0, QUERIES, BATCH):
            part = slice(start, start + BATCH)
            ids = padded(candidates[part])
            want = call(**self.inputs(columns, part, candidate_ids=ids))
            for row, got in enumerate(served[protocol][1][part]):
                width = len(got.scores)
                np.testing.assert_array_equal(
                    got.scores, want["scores"].numpy()[row, :width]
                )
                np.testing.assert_array_equal(
                    got.known, want["known"].numpy()[row, :width]
                )


def test_non_ascii_ids_are_returned_unchanged(served):
    seen = {name for got in served["rest"][0] for name in got.item_ids}
    assert {'"Léon", [1994]', "größe", "映画", "новинка"} <= seen
    assert [each.item_ids for each in served["grpc"][0]] == [
        each.item_ids for each in served["rest"][0]
    ]


def test_single_queries_give_the_same_embeddings(clients, queries, served):
    for protocol, client in clients.items():
        for row in range(0, QUERIES, 40):
            got = client.encode_query([queries[row]]).values[0]
            close(got, served[protocol][2][row])


def test_the_async_client_gives_the_same_items(server, queries, exclude, allow, served):
    async def ask(endpoint):
        async with AsyncClient(endpoint, "films", deadline_s=LONG_S) as client:
            starts = range(0, 300, BATCH)
            parts = [slice(start, start + BATCH) for start in starts]
            answers = await asyncio.gather(
                *(
                    client.recommend(
                        queries[p], k=K, exclude=exclude[p], allow=allow[p]
                    )
                    for p in parts
                )
            )
        return [got.item_ids for part in answers for got in part]

    want = [got.item_ids for got in served["grpc"][0][:300]]
    assert asyncio.run(ask(f"grpc://127.0.0.1:{server.port}")) == want
    assert asyncio.run(ask(f"http://127.0.0.1:{server.rest_port}")) == want


def test_results_have_the_version(served):
    assert {got.version for got in served["grpc"][0]} == {1}


def test_each_query_has_its_own_k_up_to_the_whole_catalogue(clients, queries):
    for client in clients.values():
        got = client.recommend(queries[:3], k=[1, len(ITEMS), 7])
        assert [len(each.item_ids) for each in got] == [1, len(ITEMS), 7]
        [some] = client.recommend(queries[:1], k=9, allow=[["映画", "größe", "nobody"]])
        assert sorted(some.item_ids) == ["größe", "映画"]
        everything = [ITEMS] * 2
        assert [
            each.item_ids for each in client.recommend(queries[:2], exclude=everything)
        ] == [[], []]
