"""Writing of the score store: lists equal plain loops, and a stopped step continues."""

import os
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from recdistill.errors import ScoreError
from recdistill.pipeline.config import ListsConfig
from recdistill.pipeline.scores import score_parts
from recdistill.pipeline.scores.earlier_scores import ROUNDED, EarlierScores
from recdistill.pipeline.scores.score_store import stored_files
from recdistill.pipeline.scores.score_writing import ScoreWriter
from tests.pipeline.logs import rows_of
from tests.pipeline.score_stores import (
    ITEMS,
    content,
    hashes_of,
    live,
    prepare_small,
    retrieved,
    retriever,
    stored,
    taste,
    write,
    write_with,
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare_small(tmp_path_factory.mktemp("prepared") / "p")


@pytest.mark.parametrize(("top", "tail"), [(3, 4), (1, 1), (5, 100), (13, 5)])
def test_a_list_holds_the_positive_then_the_baselines_best_then_a_tail(
    prepared, tmp_path, top, tail
):
    record = write(prepared, tmp_path / "s", retriever_top=top, tail=tail)
    rows = stored(tmp_path / "s")
    head = min(1 + top, ITEMS)
    size = head + min(tail, ITEMS)
    assert (record["lists"], record["list_size"]) == (len(rows), size)
    real = 0
    for row in rows:
        (positive,), chosen = row["candidates"], row["scored_candidates"]
        assert len(chosen) == len(row["teacher_scores"]) == size
        scores = live(row)
        free = sorted(set(range(ITEMS)) - set(row["seen"]) - {positive})
        by_score = sorted(free, key=lambda item: (-scores[item], item))
        # The baseline's best may have the positive among them, which is there already.
        best = [item for item in chosen[1:head] if item >= 0]
        assert chosen[0] == positive
        assert best == by_score[: len(best)]
        assert len(best) >= min(top - 1, len(free))
        left, drawn = set(free) - set(best), chosen[head:]
        count = min(tail, len(left))
        assert drawn[count:] == [-1] * (len(drawn) - count)
        assert drawn[:count] == sorted(set(drawn[:count]))
        assert set(drawn[:count]) <= left
        weight = len(left) / count if count else 1.0
        assert row["drawn_weight"] == pytest.approx(weight)
        real += sum(item >= 0 for item in chosen)
    assert len(rows) == len(rows_of(prepared, "train"))
    assert record["candidates"] == real


def test_stored_scores_are_the_live_scores_as_float16(prepared, tmp_path):
    write(prepared, tmp_path / "s")
    for row in stored(tmp_path / "s"):
        real = np.array(row["scored_candidates"]) >= 0
        expected = live(row).astype("float16")[np.array(row["scored_candidates"])]
        got = np.array(row["teacher_scores"], "float16")
        np.testing.assert_array_equal(got[real], expected[real])


def test_lists_of_the_catalogue_store_the_scores_of_all_unseen_items(
    prepared, tmp_path
):
    record = write(prepared, tmp_path / "s", size="catalogue")
    assert record["list_size"] == ITEMS
    for row in stored(tmp_path / "s"):
        assert "scored_candidates" not in row
        expected = live(row).astype("float16")
        expected[sorted(set(row["seen"]) - set(row["candidates"]))] = 0.0
        np.testing.assert_array_equal(np.array(row["teacher_scores"]), expected)


def test_the_sample_is_random_and_seeded(prepared, tmp_path):
    samples = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        record = write(prepared, tmp_path / name, seed=seed, contexts=60)
        assert record["lists"] == 60
        samples.append([row["list_id"] for row in stored(tmp_path / name)])
    assert samples[0] == samples[1] != samples[2]
    assert len(set(samples[0])) == 60
    assert set(samples[0]) < rows_of(prepared, "train").keys()
    assert content(tmp_path / "a") == content(tmp_path / "b")
    files = [pq.read_metadata(p).num_rows for p in stored_files(tmp_path / "a")]
    assert len(files) == 4  # every shard gave some
    assert min(files) > 5


def test_all_columns_of_a_list_are_stored_with_its_scores(prepared, tmp_path):
    write(prepared, tmp_path / "s", contexts=30)
    lists = rows_of(prepared, "train")
    for row in stored(tmp_path / "s"):
        kept = {k: v for k, v in row.items() if k in lists[row["list_id"]]}
        assert kept == lists[row["list_id"]]


def test_a_stopped_step_continues_and_writes_the_same_files(
    prepared, tmp_path, monkeypatch
):
    monkeypatch.setattr(score_parts, "FILE_LISTS", 30)
    write(prepared, tmp_path / "whole")
    whole = content(tmp_path / "whole")
    assert len(whole) > 6
    replace, moved = os.replace, []

    def full(source, target):
        if len(moved) == 6:  # the items and two files, each with its checksum
            raise OSError(28, "No space left on device")
        moved.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write(prepared, tmp_path / "s")
    monkeypatch.setattr(os, "replace", replace)
    left = content(tmp_path / "s")
    finished = ["scores-00000.parquet", "scores-00001.parquet"]
    assert sorted(left) == ["checksums.sha256", "items.npy", *finished]
    (tmp_path / "s" / ".scores-00002.parquet.partial").write_bytes(b"half")

    scored = []

    def counted(x):
        scored.append(len(x["mask"]))
        return taste(x)

    record = write(prepared, tmp_path / "s", counted)
    assert content(tmp_path / "s") == whole
    kept = sum(pq.read_metadata(tmp_path / "s" / name).num_rows for name in finished)
    assert sum(scored) == record["lists"] - kept < record["lists"]


def test_a_removed_file_is_written_again_unchanged(prepared, tmp_path):
    write(prepared, tmp_path / "s")
    before = content(tmp_path / "s")
    (tmp_path / "s" / "scores-00001.parquet").unlink()
    write(prepared, tmp_path / "s")
    assert content(tmp_path / "s") == before


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (np.nan, "must be finite. Received: 1 NaN or infinite scores"),
        (-np.inf, "must be finite. Received: 1 NaN or infinite scores"),
        (-7e4, "must lie within ±65504 to be stored as float16. Received: 70000"),
    ],
)
def test_a_score_that_cannot_be_stored_is_an_error(prepared, tmp_path, bad, said):
    def broken(x):
        scores = taste(x).copy()
        scores[0, np.flatnonzero(x["mask"][0])[0]] = bad
        scores[~x["mask"]] = np.nan  # what no list holds does not matter
        return scores

    with pytest.raises(ScoreError, match=said):
        write(prepared, tmp_path / "s", broken)
    assert stored_files(tmp_path / "s") == []


@pytest.mark.parametrize("training_rows", [True, False])
def test_batches_have_the_training_row_if_the_teacher_needs_it(
    prepared, tmp_path, training_rows
):
    seen = []

    def watching(x):
        if training_rows:
            seen.extend(
                zip(
                    x["query"]["history"].tolist(),
                    x["training_row"].tolist(),
                    strict=True,
                )
            )
        assert training_rows == ("training_row" in x)
        return taste(x)

    write(prepared, tmp_path / "s", watching, training_rows=training_rows)
    if training_rows:
        vocabulary = prepared.schema.items.vocabulary
        train = rows_of(prepared, "train").values()
        catalogue = prepared.items["item_id"].to_pylist()
        for row, (history, training_row) in zip(
            stored(tmp_path / "s"), seen, strict=True
        ):
            assert history == row["query.history"]
            own = {
                catalogue[other["candidates"][0]]
                for other in train
                if other["query_id"] == row["query_id"]
            }
            assert {vocabulary[k - 2] for k in training_row if k} == own


def test_progress_is_reported(prepared, tmp_path):
    calls = []
    (tmp_path / "s").mkdir()
    settings = ListsConfig(contexts=60)

    def progress(*call):
        calls.append(call)

    writer = ScoreWriter(taste, prepared, settings, 1, hashes_of(prepared))
    write_with(writer, tmp_path / "s", progress)
    assert {(label, total) for label, _, total in calls} == {
        ("Scoring with the teacher", 60)
    }
    done = [done for _, done, _ in calls]
    assert done == sorted(done)
    assert done[-1] == 60


@pytest.mark.parametrize("size", ["catalogue", "retrieved"])
def test_float32_scores_are_stored_unchanged(prepared, tmp_path, size):
    def fine(x):
        return taste(x) * 1e5  # too large for float16

    write(prepared, tmp_path / "s", fine, size=size, scores_dtype="float32")
    for row in stored(tmp_path / "s"):
        chosen = np.array(row.get("scored_candidates", range(ITEMS)))
        expected = (live(row) * 1e5)[np.maximum(chosen, 0)]
        got = np.array(row["teacher_scores"], "float32")
        mask = (chosen >= 0) & ~np.isin(chosen, row["seen"])
        np.testing.assert_array_equal(got[mask], expected[mask])


class TestScoresOfAnEarlierStore:
    @staticmethod
    def again(prepared, folder, earlier, identity="same", apart=True, **lists):
        """Writes a store on top of an earlier one; returns what the teacher scored."""
        scored = []

        def counted(x):
            scored.append(np.count_nonzero(x["mask"]))
            return taste(x)

        folder.mkdir()
        settings, hashes = retrieved(**lists), hashes_of(prepared)
        whole = settings.size == "catalogue"
        writer = ScoreWriter(
            counted,
            prepared,
            settings,
            1,
            hashes,
            None if whole else retriever(prepared, settings),
            identity=identity,
            earlier=EarlierScores(earlier, "same", hashes.items),
            apart=apart,
        )
        return write_with(writer, folder), sum(scored)

    @pytest.mark.parametrize("size", ["catalogue", "retrieved"])
    def test_lists_that_did_not_change_keep_them(self, prepared, tmp_path, size):
        few, _ = self.again(prepared, tmp_path / "few", [], contexts=60, size=size)
        whole, scored = self.again(prepared, tmp_path / "whole", [], size=size)
        assert whole["kept_scores"] == 0
        assert scored == whole["new_scores"]
        record, scored = self.again(
            prepared, tmp_path / "more", [tmp_path / "few"], size=size
        )
        # A list with the content of another one has its scores, too.
        assert record["kept_scores"] >= few["new_scores"]
        assert scored == record["new_scores"]
        assert scored + record["kept_scores"] == whole["new_scores"]
        assert content(tmp_path / "more") == content(tmp_path / "whole")
        record, scored = self.again(
            prepared, tmp_path / "again", [tmp_path / "whole"], size=size
        )
        assert (record["kept_scores"], scored) == (whole["new_scores"], 0)
        assert content(tmp_path / "again") == content(tmp_path / "whole")

    def test_a_damaged_file_and_another_identity_are_not_used(self, prepared, tmp_path):
        whole, _ = self.again(prepared, tmp_path / "a", [])
        self.again(prepared, tmp_path / "other", [], identity="other")
        path = stored_files(tmp_path / "a")[0]
        path.write_bytes(path.read_bytes()[:-1])
        record, scored = self.again(
            prepared, tmp_path / "b", [tmp_path / "a", tmp_path / "other"]
        )
        lost = pq.read_metadata(stored_files(tmp_path / "b")[0]).num_rows
        assert 0 < scored <= lost * record["list_size"]
        assert record["kept_scores"] == whole["new_scores"] - scored

    @pytest.mark.parametrize("size", ["catalogue", "retrieved"])
    def test_a_store_whose_items_are_damaged_is_not_used(
        self, prepared, tmp_path, size
    ):
        self.again(prepared, tmp_path / "a", [], size=size)
        (tmp_path / "a" / "items.npy").write_bytes(b"")
        record, _ = self.again(prepared, tmp_path / "b", [tmp_path / "a"], size=size)
        assert record["kept_scores"] == 0

    @pytest.mark.parametrize("apart", [True, False])
    def test_only_new_candidates_are_scored_if_scores_do_not_depend_on_the_list(
        self, prepared, tmp_path, apart
    ):
        self.again(prepared, tmp_path / "few", [])
        record, scored = self.again(
            prepared,
            tmp_path / "more",
            [tmp_path / "few"],
            apart=apart,
            retriever_top=6,
        )
        known = {row["list_id"]: row for row in stored(tmp_path / "few")}
        new = whole = 0
        for row in stored(tmp_path / "more"):
            before = {*known[row["list_id"]]["scored_candidates"], -1}
            added = set(row["scored_candidates"]) - before
            new += len(added)
            if added:
                whole += sum(item >= 0 for item in row["scored_candidates"])
            for item, score in zip(
                row["scored_candidates"], row["teacher_scores"], strict=True
            ):
                want = np.float16(live(row)[item]) if item >= 0 else 0.0
                assert score == want
        if apart:
            # Some other list of the same query may have had a new candidate.
            assert 0 < scored <= new
        else:
            assert scored >= whole
        assert 0 < new < whole <= record["candidates"]


def test_kept_scores_of_a_catalogue_that_lost_its_last_items_are_cut():
    scores, rounded = np.arange(6.0).reshape(2, 3), np.zeros((2, 2), "int8")
    stored_scores = {"teacher_scores": scores, ROUNDED: rounded}
    earlier = SimpleNamespace(lists=lambda hashes: [(np.arange(2), stored_scores)])
    of = {"earlier": earlier, "apart": False}
    for items in (2, 4):
        writer = SimpleNamespace(**of, prepared=SimpleNamespace(catalogue_size=items))
        [kept] = ScoreWriter._kept_columns(writer, np.zeros(2), None, None)
        assert kept.items.tolist() == [0, 1, 2][:items]
        np.testing.assert_array_equal(kept.scores, scores[:, :items])
