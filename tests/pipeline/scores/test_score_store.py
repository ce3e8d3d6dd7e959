"""The score store: rounding is counted, and files are verified before they are read."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest

from recdistill.data.collation import Collator
from recdistill.data.shard_reading import read_lists
from recdistill.pipeline.config import ListsConfig
from recdistill.pipeline.scores import score_store
from recdistill.pipeline.scores.earlier_scores import ITEMS as ITEM_FILE
from recdistill.pipeline.scores.score_store import (
    examine_stored,
    lists_in_words,
    rounding_warning,
    stored_files,
)
from tests.pipeline.score_stores import (
    ITEMS,
    content,
    prepare_small,
    stored,
    taste,
    write,
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare_small(tmp_path_factory.mktemp("prepared") / "p")


class TestRounding:
    @staticmethod
    def nearly_certain(x):
        """Ten scores just below 1, of which half precision tells few apart."""
        scores = 0.1 * taste(x)
        scores[:, 4:] = 1.0 - np.arange(ITEMS - 4, dtype="float32") * 1e-4
        return scores

    def written(self, prepared, folder):
        return write(prepared, folder / "s", self.nearly_certain, size="catalogue")

    def test_neighbours_in_the_top_that_become_equal_are_counted(
        self, prepared, tmp_path
    ):
        record = self.written(prepared, tmp_path)
        lost = differ = 0
        for row in stored(tmp_path / "s"):
            real = set(range(ITEMS)) - set(row["seen"]) | set(row["candidates"])
            x = {"query": {"history": np.array([row["query.history"]])}}
            own = self.nearly_certain({**x, "candidate_index": np.arange(ITEMS)})[0]
            best = sorted((own[k] for k in real), reverse=True)[:10]
            for high, low in pairwise(best):
                differ += high > low
                lost += bool(high > low and np.float16(high) == np.float16(low))
        assert record["rounded_ties"] == pytest.approx(lost / differ)
        assert 0.3 < record["rounded_ties"] < 1

    def test_rounding_is_known_after_a_restart(self, prepared, tmp_path):
        record = self.written(prepared, tmp_path)
        stored_files(tmp_path / "s")[1].unlink()
        again = self.written(prepared, tmp_path)
        assert again["rounded_ties"] == record["rounded_ties"]

    def test_much_rounding_gives_a_warning(self, prepared, tmp_path):
        record = {**self.written(prepared, tmp_path), "doctor": {"proposal": None}}
        said = rounding_warning(ListsConfig(), record)
        share = f"{record['rounded_ties']:.1%}"
        assert said.startswith(
            f"Storing the teacher's scores as float16 made {share} of adjacent scores"
        )
        assert "lists.scores_dtype=float32" in said
        few = {"rounded_ties": 0.0099, "doctor": {"proposal": None}}
        assert rounding_warning(ListsConfig(), few) is None

    def test_probabilities_in_float16_give_a_warning(self):
        record = {"rounded_ties": 0.0, "doctor": {"proposal": {"transform": "logit"}}}
        said = rounding_warning(ListsConfig(), record)
        assert "lists.scores_dtype=float32" in said and "log-odds" in said
        assert rounding_warning(ListsConfig(scores_dtype="float32"), record) is None

    def test_float32_loses_nothing(self, prepared, tmp_path):
        record = write(
            prepared,
            tmp_path / "s",
            self.nearly_certain,
            scores_dtype="float32",
            size="catalogue",
        )
        assert record["rounded_ties"] == 0.0
        record["doctor"] = {"proposal": None}
        assert rounding_warning(ListsConfig(), record) is None


class TestContinuing:
    """A store that was killed continues with the files that are intact."""

    @pytest.mark.parametrize(
        "damage",
        [
            lambda path, content: path.write_bytes(content[:-9]),
            lambda path, content: path.write_bytes(b""),
            lambda path, content: path.write_bytes(content.replace(b"PAR1", b"PAR2")),
            lambda path, content: path.unlink(),
        ],
    )
    def test_a_damaged_file_is_written_again(self, prepared, tmp_path, damage):
        write(prepared, tmp_path / "s", contexts=60)
        whole = content(tmp_path / "s")
        path = stored_files(tmp_path / "s")[1]
        damage(path, path.read_bytes())
        scored = []
        write(
            prepared,
            tmp_path / "s",
            lambda x: scored.append(x) or taste(x),
            contexts=60,
        )
        assert len(scored) == 1
        assert content(tmp_path / "s") == whole

    @pytest.mark.parametrize("text", [b"", b"\xff\n", b"one two three\n"])
    def test_without_its_checksum_a_file_is_written_again(
        self, prepared, tmp_path, text
    ):
        write(prepared, tmp_path / "s", contexts=60)
        whole = content(tmp_path / "s")
        (tmp_path / "s" / "checksums.sha256").write_bytes(text)
        write(prepared, tmp_path / "s", contexts=60)
        assert content(tmp_path / "s") == whole

    def test_the_checksums_are_those_of_sha256sum(self, prepared, tmp_path):
        write(prepared, tmp_path / "s", contexts=60)
        lines = (tmp_path / "s" / "checksums.sha256").read_text().splitlines()
        assert lines == [
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}"
            for path in [tmp_path / "s" / ITEM_FILE, *stored_files(tmp_path / "s")]
        ]


@pytest.mark.parametrize("size", ["catalogue", "retrieved"])
def test_the_doctor_examines_the_scores_that_the_student_trains_on(
    prepared, tmp_path, size, monkeypatch
):
    write(prepared, tmp_path / "s", size=size)
    seen = []
    monkeypatch.setattr(score_store, "examine", lambda s, m, w: seen.append((s, m, w)))
    examine_stored(tmp_path / "s", ITEMS)
    ((scores, mask, weight),) = seen
    collate = Collator(ITEMS, with_teacher=True)
    rng = np.random.default_rng(0)
    shown = [collate(read_lists(path), rng)[0] for path in stored_files(tmp_path / "s")]
    for got, name in ((scores, "teacher_scores"), (mask, "mask")):
        np.testing.assert_array_equal(got, np.concatenate([x[name] for x in shown]))
    if size == "catalogue":
        assert weight is None
    else:
        want = np.concatenate([x["item_weight"] for x in shown])
        np.testing.assert_array_equal(weight, want)


def test_the_doctor_examines_a_sample_of_many_lists(prepared, tmp_path, monkeypatch):
    write(prepared, tmp_path / "s")
    chosen = np.array([0, 7, 90, 130])
    monkeypatch.setattr(score_store, "sample", lambda lists, size: chosen)
    seen = []
    monkeypatch.setattr(score_store, "examine", lambda s, *_: seen.append(s))
    examine_stored(tmp_path / "s", ITEMS)
    rows = stored(tmp_path / "s")
    want = [rows[k]["teacher_scores"] for k in chosen]
    np.testing.assert_array_equal(seen[0], want)


@pytest.mark.parametrize("size", ["catalogue", "retrieved"])
def test_the_number_of_candidates_in_words_is_without_padding(prepared, tmp_path, size):
    record = write(prepared, tmp_path / "s", size=size)
    files = stored_files(tmp_path / "s")
    real = [
        ITEMS - len(lists.excluded.distinct().values) / len(lists)
        if lists.candidates is None
        else np.sum(lists.candidates >= 0) / len(lists)
        for lists in map(read_lists, files)
    ]
    said = lists_in_words(record)
    number = float(said.removesuffix(" on average").split(" lists of ")[1])
    assert min(real) - 0.5 <= number <= max(real) + 0.5
    assert number <= ITEMS
    assert said.endswith("on average")
