"""The step score: the score store is shared, and verified before it is read."""

import tomllib
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from recdistill.errors import ArtefactError, GateError, ScoreError
from recdistill.pipeline import run_context
from recdistill.pipeline.config import Config
from recdistill.pipeline.models import model_building
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.steps import score
from tests import small_pipelines
from tests.pipeline.tiny_runs import go, made, next_day

pytestmark = pytest.mark.slow


class TestTheScoreStore:
    @pytest.fixture
    def no_teacher(self, monkeypatch):
        """Makes every use of the teacher fail."""

        def fail(*_, **__):
            raise AssertionError("the teacher was used")

        monkeypatch.setattr(run_context, "load_teacher", fail)
        monkeypatch.setattr(model_building, "TeacherBuilder", fail)

    def test_a_student_with_other_towers_does_not_run_the_teacher(
        self, copied, no_teacher
    ):
        towers = ("student.dim=6", "student.hidden=[4]", "student.decays=[0.5]")
        done = go(copied, *towers, until="distill")
        assert made(done) == ["baseline", "distill"]

    def test_a_pipeline_of_another_name_shares_the_store(self, copied, no_teacher):
        done = go(copied, "name=other", "student.hidden=[4]", until="distill")
        assert made(done) == ["baseline", "distill"]
        assert done["score"].path.parent == copied / "runs" / "tiny"
        assert done["distill"].path.parent == copied / "runs" / "other"

    def test_lists_that_were_scored_before_keep_their_scores(self, copied):
        whole = go(copied, until="score")["score"].record
        done = go(copied, "lists.contexts=100", until="score")
        record = done["score"].record
        assert made(done) == ["score"]
        assert record["lists"] == 100 < whole["lists"]
        assert record["new_scores"] == 0 < record["kept_scores"] < whole["new_scores"]
        assert whole["identity"] == record["identity"]
        share = record["kept_scores"] / whole["new_scores"]
        saved = whole["teacher_seconds"] * share
        assert record["saved_seconds"] == pytest.approx(saved, abs=0.002)

    def test_a_damaged_store_is_an_error_before_training(self, copied):
        path = sorted((copied / "runs" / "tiny").glob("score-*/scores-*.parquet"))[0]
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)
        with pytest.raises(ArtefactError, match=f"{path.name}' is damaged"):
            go(copied, "distill.weight=0.7", until="distill")

    def test_a_teacher_with_nan_scores_is_refused(self, copied, monkeypatch):
        compiled = run_context.compiled

        def broken(model):
            score = compiled(model)
            return lambda x: np.full_like(np.asarray(score(x)), np.nan)

        monkeypatch.setattr(run_context, "compiled", broken)
        teacher = 'teacher={kind="linear", l2=21.0}'
        with pytest.raises(GateError, match=r"gives .* NaN or infinite scores in 300"):
            go(copied, teacher, "distill.gate=stop", until="score")
        with pytest.raises(ScoreError, match="must be finite"):
            go(copied, teacher, until="score")


def test_the_gist_has_the_mean_number_of_candidates_and_not_the_padded_one():
    record = {"lists": 400, "list_size": 120, "candidates": 22_960}
    gist = score.Score().gist({**record, "doctor": {"proposal": None}})
    assert gist == "400 lists of 57 on average; all scores of a list are equal"


def identity_of(folder, files, teacher="linear", settings=None, **lists):
    """The identity of the scores of a run whose teacher has these files."""
    document = tomllib.loads(small_pipelines.CONFIG)
    document["teacher"] = {"kind": teacher, **(settings or {})}
    document["lists"] = {"size": "catalogue", **lists}
    artefact = SimpleNamespace(record={"sha256": files}, key=str(folder))
    run = SimpleNamespace(
        config=Config.model_validate({**document, "workdir": str(folder)}),
        teacher_identity=document["teacher"],
        artefacts={"teacher": artefact},
        prepared=SimpleNamespace(items_digest=str(folder)),
    )
    return score._identity(run)


def test_scores_are_kept_for_the_same_weights_and_type_of_scores_only(tmp_path):
    files = {"model.weights.h5": "a", "valid.parquet": "b"}
    fold = "folds/member-0-without-1/model.weights.h5"
    same = identity_of(tmp_path, files)
    assert identity_of(tmp_path, {**files, "valid.parquet": "c"}) == same
    for other in (
        identity_of(tmp_path, {**files, "model.weights.h5": "c"}),
        identity_of(tmp_path, {**files, "member_weights.json": "c"}),
        identity_of(tmp_path, {**files, fold: "c"}),
        identity_of(tmp_path, files, scores_dtype="float32"),
        identity_of(tmp_path, files, teacher="transition"),
    ):
        assert other != same


SERVER = {"address": "http://ranker:8501", "model": "ranker"}


@pytest.mark.parametrize(
    ("teacher", "settings", "kept"),
    [
        ("linear", {}, True),
        ("sequence", {}, False),  # It reads the items of the history.
        ("remote", {**SERVER, "version": 3}, True),
        ("remote", SERVER, False),  # The server may have another version now.
    ],
)
def test_scores_of_other_data_are_kept_if_they_depend_on_query_and_candidate_only(
    tmp_path, teacher, settings, kept
):
    folders = tmp_path / "one", tmp_path / "two"
    one, two = (identity_of(each, {}, teacher, settings) for each in folders)
    assert (one == two) == kept


class TestTheNextDay:
    """Two new items, and three new users who bought them."""

    @staticmethod
    def scored(folder, name, tables):
        document = tomllib.loads(small_pipelines.CONFIG)
        function = "tests.pipeline.outside:scored"
        document |= {"name": name, "workdir": str(folder)}
        document["dataset"] = {"reader": "frames"}
        document["teacher"] = {"kind": "callable", "function": function}
        return Pipeline(Config.model_validate(document), tables=tables).run("score")

    def test_only_new_lists_and_new_items_are_scored(self, tmp_path):
        second = next_day()
        log, items = second["interactions"], second["items"]
        first = second | {
            "interactions": log[~log["user_id"].str.startswith("u-")],
            "items": items[~items["item_id"].str.startswith("new")],
        }
        monday = self.scored(tmp_path / "runs", "monday", first).record
        tuesday = self.scored(tmp_path / "runs", "tuesday", second)
        fresh = self.scored(tmp_path / "fresh", "tuesday", second)
        record = tuesday.record
        assert monday["kept_scores"] == fresh.record["kept_scores"] == 0
        total = record["kept_scores"] + record["new_scores"]
        assert total == fresh.record["new_scores"]
        assert record["lists"] == 600
        # Nearly all lists of the sample are those of Monday, with two new items.
        assert 600 * 2 < record["new_scores"] < 600 * 2 + 40 * 62
        assert record["saved_seconds"] > 0.0
        for path in tuesday.path.glob("scores-*.parquet"):
            got, want = map(pq.read_table, (path, fresh.path / path.name))
            # The counts of rounding are those of Monday's lists.
            same = [name for name in got.column_names if got[name] == want[name]]
            assert {*got.column_names} - {*same} <= {"rounded"}
