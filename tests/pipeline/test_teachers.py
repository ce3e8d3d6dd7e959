"""Every kind of external teacher, from the configuration to the report.

Some go on to the SavedModel, which does not depend on the kind.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from recdistill.data.batches import raw_inputs
from recdistill.data.shard_reading import in_order, read_lists
from recdistill.errors import DataError, TeacherError
from recdistill.evaluation.report.run_report import Report
from recdistill.export import publishing
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.pipeline.runner import Pipeline
from tests import small_pipelines
from tests.pipeline import outside
from tests.pipeline.tiny_runs import FIRST_ROUND
from tests.real_data import SHARED

pytestmark = pytest.mark.slow

CALLABLE = "teacher={kind='callable', function='tests.pipeline.outside:scored'}"
SMALL = (
    "lists.size=retrieved",
    "lists.student_top=0",
    "student.steps=2",
    small_pipelines.TIMED,
)
ALL_SCORED = "lists.size=auto"  # Lists of a teacher with partial scores.
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def unchecked(request, monkeypatch):
    """Skips the parity check in a fresh process, except for one run."""
    if "tfrs_ranking_model" not in request.node.name:
        monkeypatch.setattr(publishing, "check_parity", small_pipelines.no_parity_check)


def go(folder, *overrides, until="export"):
    """Runs the pipeline and returns the artefacts by step."""
    done = {}
    if (folder / "data").is_dir():
        overrides = (
            f"dataset={{reader='tables', path='{folder / 'data'}'}}",
            *overrides,
        )
    config = small_pipelines.load(folder, *SMALL, *overrides)
    Pipeline(config, announce=done.__setitem__).run(until)
    return done


@pytest.fixture(
    scope="module",
    params=["synthetic", pytest.param("movielens", marks=pytest.mark.real_data)],
)
def first(request, tmp_path_factory):
    """A run up to the baseline, shared by all teachers that read raw features."""
    folder = tmp_path_factory.mktemp("teachers")
    if request.param == "movielens":
        if not MOVIELENS.exists():
            pytest.skip(f"{MOVIELENS} is not there")
        sample_movielens(folder / "data")
    go(folder, CALLABLE, until="baseline")
    return folder


# What does not depend on the data is tested on one data set.
on_synthetic_data = pytest.mark.parametrize("first", ["synthetic"], indirect=True)


@pytest.fixture
def shared(first, tmp_path):
    shutil.copytree(first, tmp_path, dirs_exist_ok=True)
    return tmp_path


def distilled(folder, *overrides, until="export"):
    """A run with another teacher, which reuses data and baseline."""
    done = go(folder, *overrides, until=until)
    # An external teacher is opened before the baseline is trained.
    assert [*done][:3] == ["prepare", "teacher", "baseline"]
    assert {*done} == {*FIRST_ROUND[: FIRST_ROUND.index(until) + 1]}
    assert done["prepare"].reused
    assert done["baseline"].reused
    assert not done["score"].reused
    return done


def stored(done):
    """The stored lists with their raw query inputs, and the prepared data."""
    prepared = Prepared(done["prepare"].path)
    raw = {}
    for lists in in_order(prepared.shards("train"), 10_000):
        values = raw_inputs(lists)
        for row, number in enumerate(lists.list_id):
            raw[number] = {name: value[row] for name, value in values.items()}
    files = sorted(done["score"].path.glob("scores-*.parquet"))
    return [read_lists(path) for path in files], raw, prepared


def assert_scores_are(done, expected, tolerance=2e-3):
    """Compares stored scores with a function of (raw query, raw items)."""
    files, raw, prepared = stored(done)
    compared = 0
    for lists in files:
        assert not lists.raw
        for row, number in enumerate(lists.list_id):
            real = lists.candidates[row] >= 0
            candidates = lists.candidates[row][real]
            items = {k: v[candidates] for k, v in prepared.raw_candidates.items()}
            want = expected(raw[number], items)
            got = lists.teacher_scores[row][real]
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
            compared += len(candidates)
    assert compared > 5_000


def by_rule(query, items):
    segment = [query["segment"]] * len(items["quality"])
    return outside.rule(items["quality"], segment, items["category"])


def assert_is_measured(folder):
    """Checks that the report has the teacher's quality and latency."""
    report = Report.load(folder / "runs" / "tiny" / "report.json")
    assert report.models["teacher"].metrics["ndcg@10"].value > 0
    assert set(report.models["teacher"].latency_ms) == {"20"}
    assert set(report.speedup) == {"20"}
    return report


def assert_is_served(done, folder):
    """Checks that the SavedModel answers and has no feature of the teacher only."""
    path = Path(done["export"].record["path"])
    loaded = tf.saved_model.load(str(path))
    answer = loaded.signatures["serving_default"](
        user_id=tf.constant(["u1"]),
        history=tf.constant([["i1"]]),
        history_length=tf.constant([1]),
        segment=tf.constant(["s01"]),
        budget=tf.constant([1.0]),
    )
    assert answer["item_ids"].shape == (1, 5)
    manifest = json.loads((path / "assets.extra" / "recdistill.json").read_text())
    assert "quality" not in manifest["schema"]["candidate"]
    return assert_is_measured(folder)


@on_synthetic_data
def test_callable(shared):
    done = distilled(shared, CALLABLE)
    assert_scores_are(done, by_rule)
    report = assert_is_served(done, shared)
    assert report.models["teacher"].parameters is None
    assert report.protocol.candidates == "retrieved:200"


@on_synthetic_data
def test_callable_of_whole_lists_with_other_input_names(shared):
    inputs = "inputs={q='quality', group='segment', kind='category', real='mask'}"
    done = go(
        shared,
        "teacher={kind='callable', function='tests.pipeline.outside:in_lists', "
        f"layout='lists', batch_size=200, {inputs}}}",
        until="score",
    )
    assert_scores_are(done, by_rule)


@on_synthetic_data
def test_keras_file(shared):
    outside.save_keras(shared / "ranker.keras")
    done = distilled(
        shared,
        f"teacher={{kind='keras', path='{shared / 'ranker.keras'}', "
        "inputs={segment='segment', kind='category', quality='quality'}}",
        until="evaluate",
    )
    assert_scores_are(done, by_rule)
    report = assert_is_measured(shared)
    assert report.models["teacher"].parameters == 33 * 33
    assert report.dataset.unknown["teacher"] == {"segment": 0.0, "kind": 0.0}
    size = (shared / "ranker.keras").stat().st_size
    assert report.models["teacher"].size_bytes == size


def saved_model(path):
    return (
        f"teacher={{kind='saved_model', path='{path}', signature='rank', "
        "output='score', inputs={segment='segment', category='category', q='quality'}}"
    )


@on_synthetic_data
def test_saved_model(shared):
    outside.save_saved_model(shared / "1")
    done = distilled(shared, saved_model(shared / "1"), until="evaluate")
    assert_scores_are(done, by_rule)
    report = assert_is_measured(shared)
    # Its function has no lookup table that could be examined.
    assert report.dataset.uncounted == ["category", "segment"]
    # A moved file is the same teacher, and a changed one is another.
    (shared / "1").rename(shared / "2")
    again = go(shared, saved_model(shared / "2"), until="score")
    assert again["teacher"].reused and again["score"].reused
    (shared / "2" / "assets" / "note").write_text("changed")
    changed = go(shared, saved_model(shared / "2"), until="score")
    assert changed["prepare"].reused
    assert not changed["teacher"].reused and not changed["score"].reused


@on_synthetic_data
def test_remote_over_grpc(shared):
    with outside.grpc_server() as server:
        done = distilled(
            shared,
            f"teacher={{kind='remote', address='grpc://{server.address}', "
            "model='ranker', version=3, batch_size=20000, inputs={segment='segment', "
            "category='category', q='quality'}}",
            until="evaluate",
        )
    assert_scores_are(done, by_rule)
    assert_is_measured(shared)


def test_lightgbm(shared, first, request):
    lightgbm = pytest.importorskip("lightgbm")
    booster = train_booster(lightgbm, first, shared / "model.txt")
    done = distilled(
        shared,
        f"teacher={{kind='lightgbm', path='{shared / 'model.txt'}', "
        "categorical=['segment', 'category'], inputs={segment='segment', "
        "category='category', worth='quality', purse='budget'}}",
        # Real data go on to the SavedModel.
        until="export" if "movielens" in request.node.name else "score",
    )

    def expected(query, items):
        segment = booster.pandas_categorical[0].index(query["segment"])
        category = [booster.pandas_categorical[1].index(c) for c in items["category"]]
        budget = query["budget"]
        rows = [
            [segment, code, quality, budget]
            for code, quality in zip(category, items["quality"], strict=True)
        ]
        return booster.predict(np.array(rows, "float64"))

    assert_scores_are(done, expected)
    if "export" in done:
        assert_is_served(done, shared)


def train_booster(lightgbm, folder, path):
    """Trains a lambdarank booster on the positives and nine random items per list."""
    import pandas as pd

    (prepare,) = (folder / "runs").glob("**/prepare-*/schema.json")
    prepared = Prepared(prepare.parent)
    rng, rows, group = np.random.default_rng(1), [], []
    for lists in in_order(prepared.shards("train"), 400, 400):
        values = raw_inputs(lists)
        for row in range(len(lists)):
            positive = lists.positives.take(np.array([row])).values
            items = [*positive, *rng.choice(prepared.catalogue_size, 9)]
            group.append(len(items))
            for place, item in enumerate(items):
                rows.append(
                    {
                        "segment": values["segment"][row],
                        "category": prepared.raw_candidates["category"][item],
                        "worth": prepared.raw_candidates["quality"][item],
                        "purse": values["budget"][row],
                        "label": int(place < len(positive)),
                    }
                )
    frame = pd.DataFrame(rows)
    every = {
        "segment": [f"s{k:02d}" for k in range(32)],
        "category": [f"c{k:02d}" for k in range(32)],
    }
    for name, values in every.items():
        frame[name] = pd.Categorical(frame[name], categories=values)
    label = frame.pop("label")
    data = lightgbm.Dataset(frame, label, group=group)
    settings = {
        **{"objective": "lambdarank", "verbose": -1, "num_threads": 1, "seed": 1},
        **{"num_leaves": 7, "min_data_in_leaf": 5, "min_data_per_group": 5},
    }
    booster = lightgbm.train(settings, data, num_boost_round=20)
    booster.save_model(path)
    return lightgbm.Booster(model_file=path)


def test_a_real_tfrs_ranking_model(tmp_path, tfrs):
    shutil.copytree(tfrs / "runs", tmp_path / "runs")
    done = go(
        tmp_path, *FEATURES, f"teacher={{kind='tf_keras', path='{tfrs / 'model'}'}}"
    )
    assert done["prepare"].reused
    loaded = tf.saved_model.load(str(tfrs / "model")).signatures["serving_default"]

    def expected(query, items):
        users = [query["user_id"]] * len(items["item_id"])
        (scores,) = loaded(
            user_id=tf.constant(users),
            item_id=tf.constant(items["item_id"].tolist()),
            genre=tf.constant(items["genre"].tolist()),
        ).values()
        return scores[:, 0]

    files, raw, prepared = stored(done)
    lists = files[0]
    for row in range(20):
        real = lists.candidates[row] >= 0
        chosen = lists.candidates[row][real]
        items = {k: v[chosen] for k, v in prepared.raw_candidates.items()}
        want = expected(raw[lists.list_id[row]], items)
        got = lists.teacher_scores[row][real]
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3)
    report = Report.load(tmp_path / "runs" / "tiny" / "report.json")
    teacher = report.models["teacher"]
    assert teacher.parameters > 1_000
    assert teacher.latency_ms["20"].p50 > 0
    assert teacher.metrics["ndcg@10"].value > 0
    manifest = Path(done["export"].record["path"]) / "assets.extra/recdistill.json"
    parity = json.loads(manifest.read_text())["parity"]
    assert parity["max_difference"] < 1e-5
    assert parity["queries"] > 1


MOVIELENS = SHARED / "ml-latest-small"
FEATURES = (
    "query={user_id={kind='id'}, history={kind='history', length=8}}",
    "candidate={item_id={kind='id'}, genre={kind='category', optional=true, "
    "column='category', teacher_only=true}}",
    "lists.per_query=20",
)


@pytest.fixture(scope="module")
def tfrs(tmp_path_factory):
    """A run with the data, and a TFRS model trained on its training lists."""
    if importlib.util.find_spec("tensorflow_recommenders") is None:
        pytest.skip("needs the extra `tfrs`")
    folder = tmp_path_factory.mktemp("tfrs")
    done = go(folder, *FEATURES, CALLABLE, until="prepare")
    write_pairs(Prepared(done["prepare"].path), folder / "pairs.npz")
    script = ROOT / "tests" / "teachers" / "train_tfrs.py"
    process = subprocess.run(
        [sys.executable, script, folder / "pairs.npz", folder],
        env={"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return folder


def sample_movielens(folder):
    """The hundred users with the most ratings, and the films that most of them saw.

    With the columns of the synthetic data: the first genre is a film's category, the
    one that a user rated most often the user's segment, the mean rating the quality.
    """
    import pandas as pd

    folder.mkdir()
    log = pd.read_csv(MOVIELENS / "ratings.csv")
    log = log[log.userId.isin(log.userId.value_counts().index[:100])]
    log = log[log.movieId.isin(log.movieId.value_counts().index[:200])]
    films = pd.read_csv(MOVIELENS / "movies.csv")
    films = films[films.movieId.isin(log.movieId)]
    films["tags"] = films.genres.str.split("|")
    films["number"] = pd.factorize(films.tags.str[0])[0]
    log = log.merge(films, on="movieId")
    stars = np.linspace(0.25, 5.25, 9)
    shares = log.groupby("movieId").rating.agg(
        lambda each: (np.histogram(each, stars)[0] / len(each)).tolist()
    )
    segments = log.groupby("userId").number.agg(lambda each: each.mode()[0])
    log = log.astype({"userId": str, "movieId": str})
    tables = {
        "interactions": {
            "user_id": log.userId,
            "item_id": log.movieId,
            "timestamp": log.timestamp,
        },
        "items": {
            "item_id": films.movieId.astype(str),
            "category": [f"c{number:02d}" for number in films.number],
            "tags": films.tags,
            "vector": shares[films.movieId].to_list(),
            "quality": log.groupby("movieId").rating.mean()[films.movieId.astype(str)],
        },
        "queries": {
            "user_id": segments.index.astype(str),
            "segment": [f"s{number:02d}" for number in segments],
            "budget": log.userId.value_counts()[segments.index.astype(str)],
        },
    }
    for name, columns in tables.items():
        columns = {key: np.asarray(value).tolist() for key, value in columns.items()}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")


def write_pairs(prepared, path):
    """Writes each training positive and two random items."""
    rng, pairs = np.random.default_rng(1), []
    items = prepared.raw_candidates
    for lists in in_order(prepared.shards("train"), 10_000):
        positives = lists.positives.values
        drawn = rng.choice(prepared.catalogue_size, (len(positives), 2))
        for user, chosen in zip(
            lists.query_id[lists.positives.row_numbers()],
            np.column_stack([positives, drawn]),
            strict=True,
        ):
            for place, item in enumerate(chosen):
                name, genre = items["item_id"][item], items["genre"][item]
                pairs.append((user, name, genre, float(place == 0)))
    user, item, genre, label = zip(*pairs, strict=True)
    texts = {"user_id": user, "item_id": item, "genre": genre}
    arrays = {k: np.char.encode(np.array(v, str)) for k, v in texts.items()}
    np.savez(path, label=np.array(label), **arrays)


@on_synthetic_data
def test_an_ensemble_of_built_in_and_external_teachers(shared):
    outside.save_saved_model(shared / "1")
    theirs = saved_model(shared / "1").removeprefix("teacher=")
    members = f"[{{kind='linear', l2=20.0}}, {theirs}]"
    done = distilled(
        shared,
        f"teacher={{kind='ensemble', weights=[1.0, 2.0], members={members}}}",
        until="evaluate",
    )
    assert (done["teacher"].path / "model.weights.h5").exists()
    report = assert_is_measured(shared)
    linear = report.config["teacher"]["members"][0]
    assert linear["kind"] == "linear"


@on_synthetic_data
def test_a_failing_teacher_leaves_no_artefact_and_gives_the_reason(shared):
    said = "must be one of our features"
    with pytest.raises(TeacherError, match=said):
        go(
            shared,
            "teacher={kind='lightgbm', path='" + str(booster_file(shared)) + "'}",
            until="teacher",
        )
    names = [path.name for path in (shared / "runs").glob("**/teacher-*")]
    assert not any("partial" in name for name in names)


def booster_file(folder):
    lightgbm = pytest.importorskip("lightgbm")
    data = lightgbm.Dataset(np.eye(8), np.arange(8), feature_name=list("abcdefgh"))
    settings = {"verbose": -1, "min_data_in_leaf": 1, "num_threads": 1}
    lightgbm.train(settings, data, num_boost_round=1).save_model(folder / "other.txt")
    return folder / "other.txt"


@pytest.fixture(scope="module")
def pairs(first, tmp_path_factory):
    """Scores by the rule for half of all pairs."""
    (prepare,) = (first / "runs").glob("**/prepare-*/schema.json")
    prepared = Prepared(prepare.parent)
    rng, rows = np.random.default_rng(5), []
    seen = {}
    for split in ("train", "valid", "test"):
        for lists in in_order(prepared.shards(split), 10_000):
            values = raw_inputs(lists)
            segments = values["segment"]
            seen.update(zip(lists.query_id, segments, strict=True))
    items = prepared.raw_candidates
    for user, segment in seen.items():
        for item in np.flatnonzero(rng.random(prepared.catalogue_size) < 0.5):
            quality, category = items["quality"][item], items["category"][item]
            (score,) = outside.rule([quality], [segment], [category])
            rows.append((user, items["item_id"][item], float(score)))
    user, item, score = zip(*rows, strict=True)
    table = pa.table({"who": user, "item_id": item, "score": score})
    path = tmp_path_factory.mktemp("scores") / "scores.parquet"
    pq.write_table(table, path)
    return path, {(u, i): s for u, i, s in rows}


class TestScores:
    """A teacher with partial scores."""

    @on_synthetic_data
    def test_a_table_of_pairs(self, shared, pairs):
        path, table = pairs
        teacher = f"teacher={{kind='scores', path='{path}', columns={{query='who'}}}}"
        done = go(shared, teacher, ALL_SCORED, until="evaluate")
        ids = Prepared(done["prepare"].path).raw_candidates["item_id"]
        files, _, _ = stored(done)
        (lists,) = files if len(files) == 1 else [files[0]]
        scored = {}
        for user, item in table:
            scored.setdefault(user, set()).add(item)
        for row, user in enumerate(lists.query_id):
            real = lists.candidates[row] >= 0
            chosen = ids[lists.candidates[row][real]]
            want = [table[user, item] for item in chosen]
            got = lists.teacher_scores[row][real]
            np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3)
            before = set(ids[lists.seen.take(np.array([row])).values])
            positive = set(ids[lists.positives.take(np.array([row])).values])
            assert set(chosen) == scored[user] - (before - positive)
        report = Report.load(shared / "runs" / "tiny" / "report.json")
        assert report.protocol.candidates == "listed"
        lists = done["prepare"].record["lists"]["test"]
        assert 0 < report.protocol.lists < lists
        teacher = report.models["teacher"]
        assert teacher.latency_ms == {} and report.speedup == {}
        assert teacher.latency_reason == "the teacher has partial scores only"
        assert report.models["distilled"].latency_ms["20"].p50 > 0
        assert teacher.metrics["ndcg@10"].value > 0
        assert report.gate.differences["teacher_minus_popularity"].value is not None

    @on_synthetic_data
    def test_scores_of_training_lists_only_cannot_be_evaluated(
        self, shared, tmp_path, pairs
    ):
        _, table = pairs
        user = next(iter(table))[0]
        rows = [(u, i, s) for (u, i), s in table.items() if u == user][:2]
        user, item, score = zip(*rows, strict=True)
        path = tmp_path / "few.parquet"
        names = {"user_id": user, "item_id": item, "score": score}
        pq.write_table(pa.table(names), path)
        with pytest.raises(TeacherError, match="must have scores for valid lists"):
            teacher = f"teacher={{kind='scores', path='{path}'}}"
            go(shared, teacher, ALL_SCORED, until="teacher")

    def test_a_listwise_table(self, tmp_path):
        rng, rows = np.random.default_rng(2), []
        for number in range(900):
            user = int(rng.integers(60))
            liked = rng.integers(1, 3)
            chosen = rng.choice(40, 8, replace=False)
            score = np.where(chosen % 5 == user % 5, 1.0, 0.0) + rng.normal(0, 0.2, 8)
            order = np.argsort(-score)
            for place, k in enumerate(order):
                rows.append(
                    {
                        "list_id": f"L{number}",
                        "user_id": f"u{user}",
                        "item_id": f"i{chosen[k]}",
                        "timestamp": number,
                        "relevance": float(place < liked),
                        "thinks": None if place == 7 else float(score[k]),
                    }
                )
        (tmp_path / "data").mkdir()
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / "lists.parquet")
        done = go(
            tmp_path,
            f"dataset={{reader='listwise', path='{tmp_path / 'data'}', "
            "columns={score='thinks'}}",
            "query={history={kind='history', length=5}}",
            "candidate={item_id={kind='id'}}",
            "teacher={kind='scores'}",
            ALL_SCORED,
            until="evaluate",
        )
        by_list = {}
        for row in rows:
            by_list.setdefault(row["list_id"], {})[row["item_id"]] = row
        files, _, prepared = stored(done)
        ids, compared = prepared.raw_candidates["item_id"], 0
        for lists in files:
            for row, name in enumerate(lists.source_list):
                source = by_list[name]
                mine = np.array([row])
                real = lists.candidates[row] >= 0
                chosen = ids[lists.candidates[row][real]]
                positives = {i for i, r in source.items() if r["relevance"] > 0}
                assert set(ids[lists.positives.take(mine).values]) == positives
                given = {i for i, r in source.items() if r["thinks"] is not None}
                # Many choices are repeats, so items that were seen are candidates.
                assert set(chosen) == given
                want = [source[item]["thinks"] for item in chosen]
                got = lists.teacher_scores[row][real]
                np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3)
                compared += 1
        assert compared > 300
        counts = done["prepare"].record["lists"]
        assert sum(counts.values()) == 900
        report = Report.load(tmp_path / "runs" / "tiny" / "report.json")
        assert report.protocol.candidates == "listed"
        assert report.models["teacher"].metrics["ndcg@10"].value > 0.9


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ("{kind='keras', path='missing.keras'}", "missing.keras"),
        ("{kind='callable', function='tests.pipeline.outside:missing'}", "missing"),
        (f"{CALLABLE.removeprefix('teacher=')[:-1]}, trained_on='a.csv'}}", "a.csv"),
    ],
)
def test_a_wrong_external_teacher_stops_the_run_before_any_training(
    tmp_path, teacher, said
):
    done = {}
    config = small_pipelines.load(tmp_path, *SMALL, f"teacher={teacher}")
    with pytest.raises((TeacherError, DataError), match=said):
        Pipeline(config, announce=done.__setitem__).run("export")
    assert list(done) == ["prepare"]
