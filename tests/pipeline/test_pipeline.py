"""steps: the whole pipeline on a tiny data set, undisturbed and disturbed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pyarrow.parquet as pq
import pytest

from recdistill.atomic import locked_folder
from recdistill.distillation.score_doctor import Examination
from recdistill.errors import BusyError, DataError, GateError, ScoreError
from recdistill.evaluation.report.run_report import Report
from recdistill.export import publishing
from recdistill.export.parity import Parity
from recdistill.pipeline import pipeline as pipeline_module
from recdistill.pipeline.config import DatasetConfig
from recdistill.pipeline.dataset_loading import load_dataset
from recdistill.pipeline.pipeline import STEPS, Pipeline
from recdistill.pipeline.training import Trainer
from recdistill.pipeline.workspace import Workspace
from tests import tiny

pytestmark = pytest.mark.filterwarnings(tiny.KERAS_ON_NUMPY_2)


@pytest.fixture
def copied(tiny_run, tmp_path):
    """A folder with all artefacts of the tiny run, to go on from."""
    shutil.copytree(tiny_run.folder / "runs", tmp_path / "runs")
    return tmp_path


def go(folder, *overrides, until="evaluate", warn=lambda message: None):
    """Runs, and says of each step whether it was there already."""
    done = {}
    pipeline = Pipeline(
        tiny.load(folder, *overrides), announce=done.__setitem__, warn=warn
    )
    pipeline.run(until)
    return done


def made(done):
    return [step for step, artefact in done.items() if not artefact.reused]


def artefact_names(folder):
    names = [path.name for path in (folder / "runs" / "tiny").iterdir()]
    return sorted(name for name in names if name.split("-")[0] in STEPS)


def weights(folder):
    """All arrays of a weights file by their path in it."""
    arrays = {}

    def visit(name, node):
        if isinstance(node, h5py.Dataset):
            arrays[name] = node[()]

    with h5py.File(folder / "model.weights.h5") as file:
        file.visititems(visit)
    return arrays


class TestTheWholeRun:
    def test_every_step_leaves_its_artefact_and_nothing_else(self, tiny_run):
        assert list(tiny_run.artefacts) == list(STEPS)
        found = {path.name for path in tiny_run.root.iterdir()}
        expected = {artefact.path.name for artefact in tiny_run.artefacts.values()}
        assert found == expected | {"report.json"}
        for step, artefact in tiny_run.artefacts.items():
            assert artefact.path.name.startswith(f"{step}-")
            record = json.loads((artefact.path / "record.json").read_text())
            assert record == artefact.record
            assert not artefact.reused

    def test_the_records_say_what_was_done(self, tiny_run):
        record = {step: a.record for step, a in tiny_run.artefacts.items()}
        assert record["prepare"]["interactions"] == 4_000
        assert record["prepare"]["queries"] == 240
        assert record["prepare"]["items"] == 60
        assert record["teacher"]["kind"] == "ensemble"
        (trained,) = record["teacher"]["trained"]
        assert len(trained["history"]) == 1
        assert record["score"]["lists"] == 600
        assert record["score"]["list_size"] == 60
        (trial,) = record["student"]["trials"]
        assert trial["learning_rate"] == 0.01
        assert record["student"]["valid"] == pytest.approx(trial["best"])
        assert record["distill"]["parameters"] == record["student"]["parameters"]
        assert record["distill"]["soft_targets"]["transform"] == "z_score"
        faults = {"lists": 300, "constant": 0, "not_finite": 0}
        assert record["teacher"]["faults"] == faults
        files = sorted(p.name for p in tiny_run.artefacts["score"].path.glob("scores*"))
        assert list(record["score"]["sha256"]) == files
        found = Examination.model_validate(record["score"]["doctor"])
        assert found.lists == 600
        assert found.proposal.transform == "z_score"

    def test_the_report_is_valid_and_complete(self, tiny_run):
        report = tiny_run.report
        assert (report.name, report.seed) == ("tiny", 3)
        assert set(report.models) == {
            "popularity",
            "baseline",
            "distilled",
            "teacher",
        }
        lists = tiny_run.artefacts["prepare"].record["lists"]["test"]
        assert report.protocol.lists == lists
        assert report.protocol.split == (
            "test, the last 10% of each query's interactions"
        )
        for part in report.models.values():
            assert list(part.metrics) == ["ndcg@10", "mrr"]
            assert 0 < part.metrics["mrr"].value < 1
            slices = part.slices["item"]
            assert slices["head"].lists + slices["tail"].lists == lists
        assert set(report.models["teacher"].latency_ms) == {"20"}
        assert set(report.speedup) == {"20"}
        assert set(report.timings_s) == set(STEPS[:5])
        assert report.gate.overridden
        assert report.gate.lists == 300
        assert report.gate.trained_on == {"valid": 0, "test": 0}
        assert report.soft_targets.chosen_by == "configuration"
        assert 2 < report.soft_targets.effective < 60
        assert 0 <= report.agreement["overlap@10"].value <= 1

    def test_the_reports_means_are_those_of_its_rows(self, tiny_run):
        for name, part in tiny_run.report.models.items():
            rows = pq.read_table(
                tiny_run.artefacts["evaluate"].path / f"{name}.parquet"
            )
            mean = np.mean(rows["mrr"].to_numpy())
            assert part.metrics["mrr"].value == pytest.approx(mean)

    def test_the_teacher_is_better_than_the_twin_here(self, tiny_run):
        models = tiny_run.report.models
        value = {name: part.metrics["ndcg@10"].value for name, part in models.items()}
        assert value["teacher"] > value["baseline"]

    def test_the_export_stands_under_its_version_with_its_fingerprint(self, tiny_run):
        path = Path(tiny_run.artefacts["export"].record["path"])
        assert path == tiny_run.folder / "export" / "tiny" / "1"
        assert (path / "saved_model.pb").exists()
        manifest = json.loads((path / "assets.extra" / "recdistill.json").read_text())
        fingerprint = tiny_run.report.metrics_fingerprint()
        assert manifest["metadata"]["fingerprint"] == fingerprint
        assert tiny_run.artefacts["evaluate"].record["fingerprint"] == fingerprint

    def test_the_report_does_not_say_where_it_was_made(self, tiny_run):
        text = (tiny_run.root / "report.json").read_text()
        assert str(tiny_run.folder) not in text

    def test_the_long_steps_report_their_progress(self, tiny_run):
        # What comes after a comma or a colon says more of the same work.
        said = (label.split(",")[0].split(":")[0] for label, _, _ in tiny_run.progress)
        assert list(dict.fromkeys(said)) == [
            "Reading interactions",
            "Dealing out to partitions",
            "Learning from the training part",
            "Writing lists",
            "Training the teacher",
            "Scoring with the teacher",
            "Training the baseline (no distillation)",
            "Distilling",
            "Ranking the test lists",
        ]

    def test_a_second_run_makes_nothing_again(self, tiny_run):
        def times():
            files = [*tiny_run.root.glob("*-*/**/*")]
            files += (tiny_run.folder / "export").rglob("*")
            return {path: path.stat().st_mtime_ns for path in files}

        before = times()
        assert len(before) > 40
        done = go(tiny_run.folder, until="export")
        assert made(done) == []
        assert list(done) == list(STEPS)
        assert times() == before


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The same pipeline elsewhere, killed in every step; and its exit codes."""
    folder = tmp_path_factory.mktemp("killed")
    root = Path(__file__).parents[2]
    arguments = [str(tiny.write_config(folder))]
    for place in tiny.places(folder):
        arguments += ["--set", place]
    script = Path(__file__).with_name("killed_runs.py")
    process = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=root,
        env={"PYTHONPATH": str(root), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    codes, _, receipt = process.stdout.partition("\n")
    return folder, json.loads(codes), receipt


class TestDisturbed:
    def test_it_was_killed_at_every_point_and_then_ended_well(self, killed):
        _, codes, receipt = killed
        assert codes == [-9] * 10
        assert "Distillation receipt" in receipt

    def test_it_ends_in_the_metrics_of_the_undisturbed_run(self, killed, tiny_run):
        report = Report.load(killed[0] / "runs" / "tiny" / "report.json")
        fingerprint = tiny_run.report.metrics_fingerprint()
        assert report.metrics_fingerprint() == fingerprint

    def test_it_ends_in_the_same_artefacts(self, killed, tiny_run):
        root = killed[0] / "runs" / "tiny"
        for step in STEPS[:6]:
            name = tiny_run.artefacts[step].path.name
            ours, theirs = tiny_run.root / name, root / name
            files = {p.relative_to(ours) for p in ours.rglob("*") if p.is_file()}
            assert files == {
                p.relative_to(theirs) for p in theirs.rglob("*") if p.is_file()
            }
            for file in files:
                if file.suffix == ".parquet":
                    same = (ours / file).read_bytes() == (theirs / file).read_bytes()
                    assert same, file

    @pytest.mark.parametrize("step", ["teacher", "student", "distill"])
    def test_it_ends_in_the_same_weights(self, killed, tiny_run, step):
        name = tiny_run.artefacts[step].path.name
        ours = weights(tiny_run.root / name)
        theirs = weights(killed[0] / "runs" / "tiny" / name)
        assert ours.keys() == theirs.keys()
        assert len(ours) > 5
        for key, value in ours.items():
            np.testing.assert_array_equal(theirs[key], value, err_msg=key)

    def test_nothing_half_written_is_left_and_one_version_is_out(self, killed):
        folder, _, receipt = killed
        names = [path.name for path in (folder / "runs" / "tiny").iterdir()]
        assert [name for name in names if "partial" in name] == []
        assert len(artefact_names(folder)) == len(STEPS)
        versions = folder / "export" / "tiny"
        assert [path.name for path in versions.iterdir()] == ["1"]
        assert f"SavedModel  {versions / '1'}\n" in receipt

    def test_a_full_disk_leaves_nothing_half_written(self, copied, monkeypatch):
        before = artefact_names(copied)

        def fail(model, path, *args, **kwargs):
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(keras.Model, "save_weights", fail)
            with pytest.raises(OSError, match="No space left"):
                go(copied, "student.steps=10", until="student")
        assert artefact_names(copied) == before
        done = go(copied, "student.steps=10", until="student")
        assert made(done) == ["student"]
        assert len(weights(done["student"].path)) > 5

    def test_a_report_that_cannot_be_written_leaves_the_old_one(
        self, copied, monkeypatch
    ):
        before = artefact_names(copied)
        report = (copied / "runs" / "tiny" / "report.json").read_bytes()

        def fail(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("recdistill.atomic.os.fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            go(copied, "evaluate.latency_candidates=[21]")
        assert artefact_names(copied) == before
        assert (copied / "runs" / "tiny" / "report.json").read_bytes() == report


class TestChangedSettings:
    def test_another_student_keeps_the_data_the_teacher_and_its_scores(self, copied):
        done = go(copied, "student.hidden=[4]", until="distill")
        assert made(done) == ["student", "distill"]

    def test_another_distillation_keeps_the_twin_too(self, copied):
        done = go(copied, "distill.temperature=2.0", until="distill")
        assert made(done) == ["distill"]

    @pytest.mark.parametrize(
        ("override", "step"),
        [
            ("split.test=0.2", "prepare"),
            ("query.history.length=9", "prepare"),
            ("lists.per_query=5", "prepare"),
            ("dataset.synthetic.seed=9", "prepare"),
            ("seed=4", "teacher"),
            ("teacher.weights=[1.0, 2.0]", "teacher"),
            ("lists.contexts=601", "score"),
            ("student.dropout=0.1", "student"),
            ("distill.weight=0.7", "distill"),
            ("lists.scores_dtype=float32", "score"),
            ("distill.scores=rank", "distill"),
            ("evaluate.latency_candidates=[21]", "evaluate"),
            ("evaluate.bootstrap=51", "evaluate"),
            ("export.top_k=6", "export"),
        ],
    )
    def test_a_change_is_noticed_first_by_the_step_that_it_concerns(
        self, copied, monkeypatch, override, step
    ):
        class Stop(Exception):
            pass

        def stop(*_, **__):
            raise Stop

        # What is there is found; the first step that would have to work stops.
        monkeypatch.setattr("recdistill.pipeline.workspace.Draft.restart", stop)
        monkeypatch.setattr(pipeline_module, "write_scores", stop)
        done = {}
        settings = tiny.load(copied, f"export.path={copied / 'export'}", override)
        pipeline = Pipeline(settings, announce=done.__setitem__)
        with pytest.raises(Stop):
            pipeline.run()
        assert list(done) == list(STEPS[: STEPS.index(step)])

    def test_lists_can_be_sampled(self, copied):
        done = go(copied, "lists.size=sampled")
        assert made(done) == ["score", "student", "distill", "evaluate"]
        assert done["score"].record["list_size"] == 1 + 8 + 12
        for file in done["score"].path.glob("scores-*.parquet"):
            column = pq.read_table(file)["scored_candidates"]
            assert column.type.list_size == 21
        report = Report.load(copied / "runs" / "tiny" / "report.json")
        assert report.models["distilled"].metrics["mrr"].value > 0

    def test_the_split_can_be_at_one_moment_for_all(self, tmp_path):
        teacher = 'teacher={kind="linear", l2=20.0}'
        done = go(tmp_path, "split.by=global_time", teacher)
        assert made(done) == list(STEPS[:6])
        report = Report.load(tmp_path / "runs" / "tiny" / "report.json")
        assert report.protocol.split == "test, the last 10% of all interactions"
        assert report.protocol.lists == pytest.approx(400, abs=20)
        assert report.models["teacher"].metrics["mrr"].value > 0


class TestTheGate:
    def test_a_closed_gate_stops_the_run_with_the_figures_and_the_way_on(self, copied):
        before = artefact_names(copied)
        with pytest.raises(GateError) as caught:
            go(copied, "distill.gate=stop")
        said = str(caught.value)
        assert "does not beat" in said
        assert "beyond noise: ndcg@10 on validation, teacher minus popularity" in said
        assert "--set distill.gate=warn" in said
        assert artefact_names(copied) == before

    def test_a_closed_gate_stops_a_run_that_once_went_past_it(
        self, copied, monkeypatch
    ):
        monkeypatch.setattr(Trainer, "student", None)  # nobody trains
        with pytest.raises(GateError):
            go(copied, "distill.gate=stop", until="distill")
        assert made(go(copied, until="distill")) == []

    def test_a_stopped_run_goes_on_with_the_way_that_it_was_told(self, copied):
        other, notes = "distill.weight=0.7", []
        with pytest.raises(GateError):
            go(copied, other, "distill.gate=stop", until="distill")
        notes = []
        done = go(
            copied, other, "distill.gate=warn", until="distill", warn=notes.append
        )
        assert made(done) == ["distill"]
        assert "does not beat" in notes[-1]
        assert notes[-1].endswith("The run goes on: distill.gate=warn.")

    def test_an_open_gate_lets_the_run_go_on(self, copied, monkeypatch):
        judge = pipeline_module.judge_teacher

        def open_gate(*args):
            part = judge(*args)
            return part.model_copy(update={"passed": True, "overridden": False})

        monkeypatch.setattr(pipeline_module, "judge_teacher", open_gate)
        done = go(copied, "distill.gate=stop")
        # The student was no other; what the report says of the gate is.
        assert made(done) == ["evaluate"]
        report = Report.load(copied / "runs" / "tiny" / "report.json")
        assert (report.gate.passed, report.gate.overridden) == (True, False)

    @pytest.mark.parametrize("gate", ["stop", "warn"])
    def test_a_teacher_that_has_seen_what_judges_it_stops_before_the_scoring(
        self, copied, monkeypatch, gate
    ):
        leak = {"valid": 3, "test": 4}
        monkeypatch.setattr(pipeline_module, "lists_trained_on", lambda *_: leak)
        monkeypatch.setattr(pipeline_module, "write_scores", None)  # nobody scores
        if gate == "stop":
            with pytest.raises(GateError, match="trained on 3 of the validation lists"):
                go(copied, "lists.contexts=599", "distill.gate=stop", until="score")
            return
        assert made(go(copied)) == ["evaluate"]
        report = Report.load(copied / "runs" / "tiny" / "report.json")
        assert report.gate.trained_on == leak
        assert "trained on 3 of the validation lists" in report.gate.message


class TestTheScoreStore:
    @pytest.fixture
    def no_teacher(self, monkeypatch):
        """Whoever wants to ask the teacher fails."""

        def fail(*_, **__):
            raise AssertionError("the teacher was asked")

        monkeypatch.setattr(pipeline_module, "load_teacher", fail)
        monkeypatch.setattr(pipeline_module, "TeacherBuilder", fail)

    def test_a_student_with_other_towers_never_asks_the_teacher(
        self, copied, no_teacher
    ):
        towers = ("student.dim=6", "student.hidden=[4]", "student.decays=[0.5]")
        done = go(copied, *towers, until="distill")
        assert made(done) == ["student", "distill"]

    def test_a_pipeline_of_another_name_shares_the_store(self, copied, no_teacher):
        done = go(copied, "name=other", "student.hidden=[4]", until="distill")
        assert made(done) == ["student", "distill"]
        assert done["score"].path.parent == copied / "runs" / "tiny"
        assert done["distill"].path.parent == copied / "runs" / "other"

    def test_nobody_trains_on_a_damaged_store(self, copied):
        path = sorted((copied / "runs" / "tiny").glob("score-*/scores-*.parquet"))[0]
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(content)
        with pytest.raises(ScoreError, match=f"{path.name} is not what was written"):
            go(copied, "distill.weight=0.7", until="distill")

    def test_a_teacher_of_nan_is_told_and_refused(self, copied, monkeypatch):
        compiled = pipeline_module.compiled

        def broken(model):
            score = compiled(model)
            return lambda x: np.full_like(np.asarray(score(x)), np.nan)

        monkeypatch.setattr(pipeline_module, "compiled", broken)
        teacher = 'teacher={kind="linear", l2=21.0}'
        with pytest.raises(GateError, match=r"gives .* NaN or infinite scores in 300"):
            go(copied, teacher, "distill.gate=stop", until="score")
        with pytest.raises(ScoreError, match="must be finite"):
            go(copied, teacher, until="score")


class TestTheDoctor:
    def test_what_is_left_to_the_doctor_it_decides_and_the_report_says(self, copied):
        auto = "distill.scores=auto", "distill.temperature=auto"
        notes = []
        done = go(copied, *auto, warn=notes.append)
        assert made(done) == ["distill", "evaluate"]
        report = Report.load(copied / "runs" / "tiny" / "report.json")
        chosen = report.soft_targets
        proposal = done["score"].record["doctor"]["proposal"]
        assert chosen.chosen_by == "doctor"
        assert chosen.transform == proposal["transform"]
        assert chosen.temperature == proposal["temperature"]
        assert not any("soft targets" in note for note in notes)

    def test_a_temperature_that_leaves_one_candidate_is_warned_of(self, copied):
        notes = []
        go(copied, "distill.temperature=0.01", until="score", warn=notes.append)
        (note,) = notes
        assert "nearly one-hot" in note


class TestTheExport:
    @pytest.fixture
    def unchecked(self, monkeypatch):
        """Without the fresh process, which the tests of the export have."""
        parity = Parity(
            queries=1,
            requests=1,
            tolerance=1e-5,
            max_difference=0.0,
            swapped=0,
            recall=1.0,
        )
        monkeypatch.setattr(publishing, "check_parity", lambda *_: parity)

    def test_a_removed_export_is_made_again(self, copied, unchecked):
        first = go(copied, until="export")
        assert made(first) == ["export"]
        path = Path(first["export"].record["path"])
        assert path == copied / "export" / "tiny" / "1"
        assert made(go(copied, until="export")) == []
        shutil.rmtree(path)
        again = go(copied, until="export")
        assert made(again) == ["export"]
        assert Path(again["export"].record["path"]).is_dir()

    def test_another_student_becomes_another_version(self, copied, unchecked):
        go(copied, until="export")
        done = go(copied, "distill.temperature=3.0", until="export")
        assert Path(done["export"].record["path"]).name == "2"
        versions = copied / "export" / "tiny"
        assert sorted(path.name for path in versions.iterdir()) == ["1", "2"]


def test_a_step_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"must be one of .* Received: 'deploy'"):
        Pipeline(tiny.load(tmp_path)).run("deploy")


def test_one_run_at_a_time(tmp_path):
    with (
        locked_folder(Workspace(tmp_path / "runs" / "tiny").root),
        pytest.raises(BusyError, match="use another `name`"),
    ):
        Pipeline(tiny.load(tmp_path)).run("prepare")


class TestLoadDataset:
    def write(self, folder):
        text = "who,what,when\n" + "".join(f"{k % 3},{k},{k}\n" for k in range(9))
        (folder / "interactions.csv").write_text(text)

    def test_tables_with_their_roles(self, tmp_path):
        self.write(tmp_path)
        columns = {"query": "who", "item": "what", "time": "when"}
        settings = DatasetConfig(reader="tables", path=tmp_path, columns=columns)
        data = load_dataset(settings, tiny.quiet)
        assert data.columns.query == "who"
        assert sum(batch.num_rows for batch in data.interactions()) == 9

    def test_a_folder_that_is_not_there_is_an_error(self, tmp_path):
        settings = DatasetConfig(reader="recbole", path=tmp_path / "no")
        with pytest.raises(DataError, match="no"):
            load_dataset(settings, tiny.quiet)

    def test_a_download_is_reported_and_read_from_where_it_went(
        self, tmp_path, monkeypatch
    ):
        def fetched(name, progress):
            progress(3, 10)
            (tmp_path / "ratings.csv").write_text(
                "userId,movieId,rating,timestamp\n1,2,3.5,10\n1,3,4.0,11\n"
            )
            (tmp_path / "movies.csv").write_text(
                "movieId,title,genres\n2,Two (1999),Drama\n3,Three (2001),Comedy\n"
            )
            return tmp_path

        monkeypatch.setattr("recdistill.pipeline.dataset_loading.fetch", fetched)
        calls = []
        settings = DatasetConfig(reader="movielens", fetch="ml-latest-small")
        data = load_dataset(settings, lambda *call: calls.append(call))
        assert calls == [("Downloading ml-latest-small", 3, 10)]
        assert sum(batch.num_rows for batch in data.interactions()) == 2
