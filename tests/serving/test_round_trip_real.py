"""Round trip on real data: 1,000 held-out queries of MovieLens with titles as item ids.

Titles have accents, commas, quotes and brackets, as real ids do. "Amélie (2001)" must
be the same in Keras, SavedModel, gRPC and REST.
"""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from recdistill.data import read_tables
from recdistill.data.collation import Collator
from recdistill.data.shard_reading import batches
from recdistill.distillation.distiller import Distiller
from recdistill.export.publishing import ExportSettings
from recdistill.export.student_export import export_student
from recdistill.losses import ListwiseCrossEntropy
from recdistill.pipeline.models.model_building import build_student
from recdistill.pipeline.preparation.preparation import prepare
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.serving import Client
from recdistill.serving.deploy.models_config import Models
from recdistill.serving.load_test.workload import queries_from_columns
from recdistill.serving.server.local_server import LocalServer
from recdistill.serving.server.options import ServerOptions
from tests import small_pipelines
from tests.real_data import real_data
from tests.serving.waiting import LONG_S

pytestmark = [pytest.mark.slow, pytest.mark.real_data]

COLUMNS = {"query": "userId", "item": "title", "time": "timestamp"}
USERS, QUERIES, BATCH, K = 150, 1000, 100, 10
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    data = real_data("ml-latest-small")
    folder = tmp_path_factory.mktemp("titles")
    films = pd.read_csv(data / "movies.csv").drop_duplicates("title")
    log = pd.read_csv(data / "ratings.csv").merge(films, on="movieId")
    log = log[log.userId <= USERS]
    log["userId"] = log.userId.astype(str)
    log[list(COLUMNS.values())].to_parquet(folder / "interactions.parquet")
    films = films[films.title.isin(log.title)]
    films["genres"] = films.genres.str.split("|")
    films[["title", "genres"]].to_parquet(folder / "items.parquet")
    config = small_pipelines.config(
        query={"history": {"kind": "history", "length": 30}},
        candidate={"title": {"kind": "id"}, "genres": {"kind": "categories"}},
    )
    (folder / "prepared").mkdir()
    data = read_tables(folder, COLUMNS)
    prepare(data, config, folder / "prepared", small_pipelines.quiet)
    return Prepared(folder / "prepared"), config


@pytest.fixture(scope="module")
def student(prepared):
    """Trained for 60 steps, so that the scores are spread."""
    data, config = prepared
    keras.utils.set_random_seed(1)
    student = build_student(config.student, data)
    distiller = Distiller(None, student, student_loss_weight=1.0)
    distiller.compile(keras.optimizers.Adam(0.003), loss=ListwiseCrossEntropy())
    lists = batches(data.shards("train"), Collator(data.catalogue_size), 64, seed=1)
    distiller.fit(lists, steps_per_epoch=60, shuffle=False, verbose=0)
    return student


@pytest.fixture(scope="module")
def columns(prepared):
    columns = prepared[0].raw_queries(QUERIES)
    assert len(columns["history"]) == QUERIES
    return columns


@pytest.fixture(scope="module")
def live(prepared, student, columns):
    """The live student's score of each film, in the order of the catalogue."""
    data, _ = prepared
    looked_up = data.schema.for_student().lookup_query(columns)
    queries = student.encode_query(looked_up).numpy()
    return queries @ student.encode_candidates(data.catalogue).numpy().T


@pytest.fixture(scope="module")
def titles(prepared):
    return prepared[0].items["title"].to_pylist()


@pytest.fixture(scope="module")
def candidates(titles):
    rng = np.random.default_rng(3)
    return [list(rng.choice(titles, 1 + n % 40, replace=False)) for n in range(QUERIES)]


@pytest.fixture(scope="module")
def allowed(titles):
    """No limit for every other query; films with accents and a few for the rest."""
    accented = [name for name in titles if not name.isascii()]
    return [None, [*accented, *titles[:20]]] * (QUERIES // 2)


@pytest.fixture(scope="module")
def exported(prepared, student, columns, tmp_path_factory):
    data, _ = prepared
    return export_student(
        student,
        data.schema,
        data.items,
        tmp_path_factory.mktemp("export"),
        name="films",
        rows={name: value[:16] for name, value in columns.items()},
        settings=ExportSettings(top_k=K),
    ).path


def by_client(url, queries, histories, allowed, candidates):
    """Recommendations without seen items, and rankings, of all queries."""
    recommended, ranked = [], []
    with Client(url, "films", deadline_s=LONG_S) as client:
        for start in range(0, QUERIES, BATCH):
            part = slice(start, start + BATCH)
            recommended += client.recommend(
                queries[part], k=K, exclude=histories[part], allow=allowed[part]
            )
            ranked += client.rank(queries[part], candidates[part])
    ids = [each.item_ids for each in recommended]
    return ids, [each.scores for each in recommended], [each.scores for each in ranked]


def padded(lists):
    width = max(1, *map(len, lists))
    return tf.constant([[*each, *[""] * (width - len(each))] for each in lists])


def by_saved_model(path, columns, histories, allowed):
    """The same recommendations from the SavedModel in this process."""
    recommend = tf.saved_model.load(str(path)).signatures["recommend"]
    got = recommend(
        history=tf.constant(columns["history"].tolist()),
        history_length=tf.constant(columns["history_length"]),
        k=tf.fill([QUERIES], K),
        exclude_ids=padded(histories),
        allow_ids=padded(allowed),
    )
    ids = [[name.decode() for name in row] for row in got["item_ids"].numpy()]
    return ids, got["scores"].numpy()


@pytest.fixture(scope="module")
def answers(exported, columns, allowed, candidates, tmp_path_factory):
    """Ids, scores and ranked scores by way to the model."""
    file = tmp_path_factory.mktemp("server") / "models.config"
    Models().with_model("films", str(exported.parent.resolve())).write(file)
    queries = queries_from_columns(columns)
    histories = [
        list(row[:length])
        for row, length in zip(
            columns["history"], columns["history_length"], strict=True
        )
    ]
    asked = queries, histories, allowed, candidates
    with LocalServer(ServerOptions(file, port=0, rest_port=0)) as server:
        return histories, {
            "grpc": by_client(f"grpc://127.0.0.1:{server.port}", *asked),
            "rest": by_client(f"http://127.0.0.1:{server.rest_port}", *asked),
            "saved_model": by_saved_model(
                exported, columns, histories, [ids or [] for ids in allowed]
            ),
        }


@pytest.mark.parametrize("way", ["saved_model", "grpc", "rest"])
def test_items_and_scores_are_those_of_the_live_student(
    answers, live, titles, allowed, way
):
    histories, by_way = answers
    place = {name: row for row, name in enumerate(titles)}
    ids, scores = by_way[way][:2]
    assert len(ids) == QUERIES
    swapped = 0
    for row, (got, values) in enumerate(zip(ids, scores, strict=True)):
        own = live[row].copy()
        if allowed[row]:
            own[[name not in set(allowed[row]) for name in titles]] = -np.inf
        own[[place[name] for name in histories[row]]] = -np.inf
        best = np.argsort(-own, kind="stable")[:K]
        rows = [place[name] for name in got]
        np.testing.assert_allclose(values, own[best], rtol=0, atol=TOLERANCE)
        # Items may only be swapped if their live scores are nearly equal.
        np.testing.assert_allclose(own[rows], own[best], rtol=0, atol=TOLERANCE)
        swapped += rows != best.tolist()
    assert swapped <= QUERIES / 100


@pytest.mark.parametrize("way", ["grpc", "rest"])
def test_ranked_scores_are_those_of_the_live_student(
    answers, live, titles, candidates, way
):
    place = {name: row for row, name in enumerate(titles)}
    for row, got in enumerate(answers[1][way][2]):
        want = live[row][[place[name] for name in candidates[row]]]
        np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE)


def test_all_ways_recommend_the_same_films(answers):
    ids = [way[0] for way in answers[1].values()]
    assert ids[0] == ids[1] == ids[2]


def test_titles_with_accents_are_returned(answers, titles):
    came = {name for row in answers[1]["rest"][0] for name in row}
    assert len([name for name in came & set(titles) if not name.isascii()]) >= 10
