"""earlier_scores: the next day's store equals one that is scored from nothing.

The teacher reads raw features by a fixed rule. The second day has items in another
order, with new ones, without some, and with another price for one.
"""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from recdistill.atomic import write_sealed
from recdistill.pipeline.candidates.retriever import Retriever
from recdistill.pipeline.preparation import interaction_sort
from recdistill.pipeline.scores.content_hashes import ContentHashes, scores_apart
from recdistill.pipeline.scores.earlier_scores import EarlierScores, saved_seconds
from recdistill.pipeline.scores.score_writing import ScoreWriter
from recdistill.teachers import ExternalTeacher
from tests import small_pipelines
from tests.pipeline.logs import random_log, run
from tests.pipeline.score_stores import retrieved, stored, write_with

FIRST = [f"i{k}" for k in range(14)]
SECOND = ["new_a", *reversed(FIRST[1:10]), "new_b", *FIRST[10:]]
"""Without i0, with two items that nobody has bought."""

CHANGED = "i12"
"""The item whose price changes."""

FEATURES = {
    "query": {
        "history": {"kind": "history", "length": 3},
        "hour": {"kind": "number"},
    },
    "candidate": {"item_id": {"kind": "id"}, "price": {"kind": "number"}},
    "teacher": {"kind": "callable", "function": "json:dumps"},
}


class Rule:
    """A teacher with a rule of the newest item, the candidate's id and its price."""

    label, inputs, parameters, size_bytes = "rule", None, None, None

    def __init__(self, factor=1.0):
        self.factor, self.scored = factor, 0

    def predict(self, inputs):
        item = inputs["item_id"]
        self.scored += item.size
        newest = inputs["history"][..., 0]
        newest = newest if newest.ndim == item.ndim else newest[:, None]
        newest = np.broadcast_to(newest, item.shape)
        value = [
            hash_of(a, b) for a, b in zip(newest.ravel(), item.ravel(), strict=True)
        ]
        return self.factor * np.reshape(value, item.shape) + inputs["price"]


def hash_of(newest, item):
    """A number below 1 from two ids."""
    return int.from_bytes(f"{newest}/{item}".encode()[-6:], "big") % 1009 / 1009


def price(item, day):
    return float(len(item)) + (0.5 if item == CHANGED and day == 2 else 0.0)


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """The prepared data of two days, by number."""
    found = {}
    log = random_log(3, rows=300, users=20, items=14, moments=9_000)
    late = [(f"u{k % 30}", f"i{k % 13 + 1}", 10_000 + k) for k in range(60)]
    for day, items, rows in ((1, FIRST, log), (2, SECOND, log + late)):
        user, item, time = zip(*rows, strict=True)
        table = pa.table(
            {
                "user_id": user,
                "item_id": item,
                "timestamp": pa.array(time, pa.int64()),
                "hour": [float(t % 24) for t in time],
            }
        )
        prices = [price(each, day) for each in items]
        offered = pa.table({"item_id": items, "price": prices})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(interaction_sort, "PARTITION_ROWS", 125)
            found[day], _ = run(
                small_pipelines.dataset(table, items=offered),
                tmp_path_factory.mktemp(f"day{day}") / "p",
                lists={"seen": "exclude"},
                **FEATURES,
            )
    return found


def teacher_of(prepared, rule=None, layout="pairs", inputs=None):
    return ExternalTeacher(
        rule or Rule(),
        prepared.query_inputs,
        prepared.raw_candidates,
        inputs=inputs or {k: k for k in ("history", "item_id", "price")},
        layout=layout,
        batch_size=10**6,
    )


def score(prepared, folder, earlier=(), size="catalogue", teacher=None, **lists):
    """Writes the store of a day; returns its record."""
    folder.mkdir()
    teacher = teacher or teacher_of(prepared)
    settings = retrieved(size=size, **lists)
    hashes = ContentHashes.of(prepared, teacher)
    propose = None
    if size == "retrieved":
        best = first_items(prepared, settings.retriever_top)
        popularity = prepared.popularity
        propose = Retriever(best, popularity, settings, 1, hashes.ids)
    writer = ScoreWriter(
        teacher,
        prepared,
        settings,
        1,
        hashes,
        propose,
        identity="same",
        earlier=EarlierScores(earlier, "same", hashes.items),
        apart=scores_apart(teacher),
    )
    return write_with(writer, folder)


def first_items(prepared, count):
    """A baseline whose best items are the first of a list's own order."""

    def top(lists):
        ids = prepared.item_ids
        found = []
        for row, key in enumerate(lists.list_key):
            seen = lists.excluded.take(np.array([row])).values
            order = sorted(range(len(ids)), key=lambda k, key=key: hash_of(key, ids[k]))
            found.append([k for k in order if k not in seen][:count])
        return np.array([each + [-1] * (count - len(each)) for each in found], "int32")

    return top


def by_id(prepared, folder):
    """Each list's scores by the id of the item, from a store."""
    ids, found = prepared.item_ids, {}
    for row in stored(folder):
        chosen = row.get("scored_candidates", range(len(ids)))
        pairs = zip(chosen, row["teacher_scores"], strict=True)
        seen = set(row["seen"])
        scores = {ids[k]: v for k, v in pairs if k >= 0 and k not in seen}
        found[row["list_id"]] = scores
    return found


def expected(prepared, folder, day):
    """The scores of the stored candidates by a plain loop, as float16."""
    raw = {}
    for path in prepared.shards("train"):
        for row in pa.parquet.read_table(path).to_pylist():
            raw[row["list_id"]] = (row["raw.history"] or [""])[0]
    return {
        number: {
            item: float(np.float16(hash_of(raw[number], item) + price(item, day)))
            for item in scores
        }
        for number, scores in by_id(prepared, folder).items()
    }


@pytest.mark.parametrize("size", ["catalogue", "retrieved"])
class TestTheNextDay:
    def test_scores_are_those_of_a_store_without_an_earlier_one(
        self, days, tmp_path, size
    ):
        score(days[1], tmp_path / "one", size=size)
        record = score(days[2], tmp_path / "two", [tmp_path / "one"], size)
        fresh = score(days[2], tmp_path / "fresh", size=size)
        got = by_id(days[2], tmp_path / "two")
        assert got == by_id(days[2], tmp_path / "fresh")
        assert got == expected(days[2], tmp_path / "two", 2)
        total = sum(map(len, got.values()))
        assert record["new_scores"] + record["kept_scores"] == total
        assert fresh["new_scores"] == total
        assert record["kept_scores"] > 0.4 * total

    def test_only_new_and_changed_items_of_known_lists_are_scored(
        self, days, tmp_path, size
    ):
        score(days[1], tmp_path / "one", size=size)
        teacher = teacher_of(days[2])
        record = score(days[2], tmp_path / "two", [tmp_path / "one"], size, teacher)
        before = {}
        first = by_id(days[1], tmp_path / "one")
        for row in stored(tmp_path / "one"):
            known = first[row["list_id"]].keys() - {CHANGED}
            before.setdefault(row["query_hash"], set()).update(known)
        want = 0
        second = by_id(days[2], tmp_path / "two")
        for row in stored(tmp_path / "two"):
            own = second[row["list_id"]].keys()
            want += len(own - before.get(row["query_hash"], set()))
        assert teacher.model.scored == record["new_scores"]
        if size == "retrieved":
            assert record["new_scores"] == want
        else:  # A list with a candidate that was excluded before is scored whole.
            assert want <= record["new_scores"] < 1.3 * want

    def test_a_third_run_of_the_same_data_scores_nothing(self, days, tmp_path, size):
        stores = [tmp_path / "one", tmp_path / "two"]
        score(days[1], stores[0], size=size)
        score(days[2], stores[1], stores[:1], size)
        record = score(days[2], tmp_path / "three", stores, size)
        assert record["new_scores"] == 0
        for path in stores[1].iterdir():
            assert (tmp_path / "three" / path.name).read_bytes() == path.read_bytes()

    def test_a_model_of_whole_lists_scores_a_list_again_unless_it_is_the_same(
        self, days, tmp_path, size
    ):
        score(days[1], tmp_path / "one", size=size, teacher=listwise(days[1]))
        teacher = listwise(days[2])
        record = score(days[2], tmp_path / "two", [tmp_path / "one"], size, teacher)
        score(days[2], tmp_path / "fresh", size=size, teacher=listwise(days[2]))
        got = by_id(days[2], tmp_path / "two")
        assert got == by_id(days[2], tmp_path / "fresh")
        assert record["kept_scores"] <= 0.2 * record["new_scores"]
        again = score(days[2], tmp_path / "again", [tmp_path / "two"], size, teacher)
        assert again["new_scores"] == 0


def test_a_sample_keeps_its_lists_when_lists_are_added(days, tmp_path):
    def lists(day, **settings):
        folder = tmp_path / f"{day}-{settings}"
        score(days[day], folder, **settings)
        ids = days[day].item_ids
        return {(row["query_hash"], *ids[row["candidates"]]) for row in stored(folder)}

    first, second = lists(1), lists(2)
    assert len(first - second) < 0.1 * len(first)  # Positives that are gone.
    one, two = (lists(day, contexts=60) for day in (1, 2))
    # Other lists of the first day come in only for those that are gone.
    assert len((two & first) - one) <= len(one - second)
    assert len(two & one) > 0.6 * len(one)


class Listwise(Rule):
    """Subtracts the mean of the list."""

    def predict(self, inputs):
        scores, mask = super().predict(inputs), inputs["mask"]
        mean = (scores * mask).sum(axis=1) / mask.sum(axis=1)
        return scores - mean[:, None]


def listwise(prepared):
    names = ("history", "item_id", "price", "mask")
    return teacher_of(prepared, Listwise(), "lists", {name: name for name in names})


def test_a_feature_that_the_teacher_does_not_read_does_not_count(days):
    inputs = {name: name for name in ("history", "item_id")}
    blind = [teacher_of(days[day], inputs=inputs) for day in (1, 2)]
    places = [days[day].item_ids.tolist().index(CHANGED) for day in (1, 2)]
    for teachers, same in (
        (blind, True),
        ([teacher_of(days[1]), teacher_of(days[2])], False),
    ):
        one, two = (
            ContentHashes.of(days[day], teacher).items[place]
            for day, teacher, place in zip((1, 2), teachers, places, strict=True)
        )
        assert (one == two) == same


def test_scores_of_another_identity_are_not_kept(days, tmp_path):
    score(days[1], tmp_path / "one")
    hashes = ContentHashes.of(days[2], teacher_of(days[2]))
    earlier = EarlierScores([tmp_path / "one"], "other", hashes.items)
    assert list(earlier.lists(np.arange(5, dtype="uint64"))) == []
    known, _, _ = earlier.pairs(np.arange(2, dtype="uint64"), np.zeros((2, 3), int))
    assert not known.any()


def test_the_time_saved_is_that_of_the_scores_in_earlier_stores(tmp_path):
    def record(name, **values):
        (tmp_path / name).mkdir()
        values = {"key": name, "sha256": {}, **values}
        write_sealed(tmp_path / name / "record.json", json.loads(json.dumps(values)))

    # 3 s for 300 scores, and 1 s for 100 of which another 100 were kept.
    record("a", identity="x", new_scores=300, kept_scores=0, teacher_seconds=3.0,
           saved_seconds=None)  # fmt: skip
    record("b", identity="x", new_scores=100, kept_scores=100, teacher_seconds=2.0,
           saved_seconds=1.0)  # fmt: skip
    record("c", identity="y", new_scores=1, kept_scores=0, teacher_seconds=99.0,
           saved_seconds=None)  # fmt: skip
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "record.json").write_text("damaged")
    folders = sorted(tmp_path.iterdir())
    # 6 s for 500 scores.
    assert saved_seconds(1_000, folders, "x") == pytest.approx(12.0)
    assert saved_seconds(1_000, folders, "z") is None
