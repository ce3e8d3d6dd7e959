"""Runs of the tiny pipeline: what a whole run writes, and what a change repeats."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from recdistill.atomic import locked_folder, read_sealed
from recdistill.data.dense_columns import dense_column
from recdistill.distillation.score_doctor import Examination
from recdistill.errors import ArtefactError, BusyError, ConfigError
from recdistill.pipeline.artefacts.workspace import Workspace
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.steps import STEPS
from tests import small_pipelines
from tests.pipeline.tiny_runs import FIRST_ROUND, go, made, report_of
from tests.pipeline.tracking.tracked_steps import events

pytestmark = pytest.mark.slow


class TestTheWholeRun:
    def test_every_step_writes_its_artefact_and_nothing_else(self, tiny_run):
        assert list(tiny_run.artefacts) == FIRST_ROUND
        found = {path.name for path in tiny_run.root.iterdir()}
        expected = {artefact.path.name for artefact in tiny_run.artefacts.values()}
        published = {"report.json", "report.html", "MODEL_CARD.md"}
        assert found == expected | published | {"configuration.json", "tracking"}
        for step, artefact in tiny_run.artefacts.items():
            assert artefact.path.name.startswith(f"{step}-")
            record = read_sealed(artefact.path / "record.json")
            assert record == artefact.record
            assert not artefact.reused

    def test_records_hold_the_facts_of_each_step(self, tiny_run):
        record = {step: a.record for step, a in tiny_run.artefacts.items()}
        assert record["prepare"]["interactions"] == 4_000
        assert record["prepare"]["queries"] == 240
        assert record["prepare"]["items"] == 60
        assert record["teacher"]["kind"] == "ensemble"
        (ranker,) = record["teacher"]["trained"]
        assert len(ranker["history"]) == 1
        members = record["teacher"]["members"]
        assert [member["kind"] for member in members] == ["reference", "linear"]
        assert sum(member["weight"] for member in members) == pytest.approx(1.0)
        best_alone = max(member["valid"] for member in members)
        assert record["teacher"]["valid"] >= best_alone - 1e-6
        assert record["score"]["lists"] == 600
        assert record["score"]["list_size"] == 60
        (trial,) = record["baseline"]["trials"]
        assert trial["learning_rate"] == 0.01
        assert record["baseline"]["valid"] == pytest.approx(trial["best"])
        assert record["distill"]["parameters"] == record["baseline"]["parameters"]
        assert record["distill"]["soft_targets"]["transform"] == "z_score"
        faults = {"lists": 300, "constant": 0, "not_finite": 0}
        assert record["teacher"]["faults"] == faults
        files = sorted(p.name for p in tiny_run.artefacts["score"].path.glob("scores*"))
        assert list(record["score"]["sha256"]) == [
            "checksums.sha256",
            "items.npy",
            *files,
        ]
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
        assert report.protocol.split == ("test, the last 10% of each query's lists")
        for part in report.models.values():
            assert list(part.metrics) == ["ndcg@10", "mrr"]
            assert 0 < part.metrics["mrr"].value < 1
            assert {"item", "activity", "segment", "tags"} <= set(part.slices)
            assert sum(each.lists for each in part.slices["item"].values()) == lists
        assert report.models["teacher"].latency_ms == report.speedup == {}
        assert set(report.timings_s) == set(FIRST_ROUND[:5])
        assert report.gate.overridden
        assert report.gate.lists == 300
        assert report.gate.trained_on == {"valid": 0, "test": 0}
        assert report.soft_targets.chosen_by == "configuration"
        assert 2 < report.soft_targets.effective < 60
        assert 0 <= report.agreement["overlap@10"].value <= 1
        for each in report.guard.slices:
            gained = report.slice_differences[each.kind][each.name]
            assert each.difference == gained.metrics["ndcg@10"]

    def test_metrics_of_the_report_are_means_of_the_rows(self, tiny_run):
        for name, part in tiny_run.report.models.items():
            rows = pq.read_table(
                tiny_run.artefacts["evaluate"].path / f"{name}.parquet"
            )
            mean = np.mean(rows["mrr"].to_numpy())
            assert part.metrics["mrr"].value == pytest.approx(mean)

    def test_the_teacher_beats_the_baseline(self, tiny_run):
        models = tiny_run.report.models
        value = {name: part.metrics["ndcg@10"].value for name, part in models.items()}
        assert value["teacher"] > value["baseline"]

    def test_the_export_has_version_1_and_the_fingerprint_of_the_report(self, tiny_run):
        path = Path(tiny_run.artefacts["export"].record["path"])
        assert path == tiny_run.folder / "export" / "tiny" / "1"
        assert (path / "saved_model.pb").exists()
        manifest = read_sealed(path / "assets.extra" / "recdistill.json")
        fingerprint = tiny_run.report.metrics_fingerprint()
        assert manifest["metadata"]["fingerprint"] == fingerprint
        assert tiny_run.artefacts["evaluate"].record["fingerprint"] == fingerprint

    def test_the_report_has_no_paths_of_this_machine(self, tiny_run):
        text = (tiny_run.root / "report.json").read_text()
        assert str(tiny_run.folder) not in text

    def test_the_long_steps_report_their_progress(self, tiny_run):
        # What comes after a comma or a colon says more of the same work.
        said = (label.split(",")[0].split(":")[0] for label, *_ in tiny_run.progress)
        assert list(dict.fromkeys(said)) == [
            "Opening the data",
            "Reading interactions",
            "Partitioning interactions",
            "Building vocabularies",
            "Writing lists",
            "Training the baseline",
            "Opening or fitting the teacher",
            "Training the teacher",
            "Measuring the members' scores",
            "Evaluating the members",
            "Evaluating the teacher",
            "Scoring with the teacher",
            "Examining the scores",
            "Distilling",
            "Ranking the test lists",
            "Measuring latency and intervals",
            "Exporting the student",
            "Checking the export in a fresh process",
        ]

    def test_every_step_is_tracked_with_its_curves_and_the_report(self, tiny_run):
        folder = tiny_run.root / "tracking"
        lines = (folder / "events.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        ends = [each["step"] for each in found if each["event"] == "finished"]
        assert ends == FIRST_ROUND
        (report,) = (each for each in found if each["event"] == "report")
        ndcg = tiny_run.report.models["distilled"].metrics["ndcg@10"].value
        assert report["values"]["distilled/ndcg@10"] == ndcg
        record = tiny_run.artefacts["distill"].record
        (trial,) = record["trials"]
        assert trial["curve"]["step"] == list(range(1, 21))
        curves = {"loss", "relevance_loss", "distillation_loss"}
        assert curves | {"learning_rate", "gradient_norm"} <= set(trial["curve"])
        written = events(folder)
        run = f"{tiny_run.artefacts['distill'].path.name}/learning_rate_0.01"
        for step, loss in enumerate(trial["curve"]["distillation_loss"], 1):
            tracked = written[run, "distillation_loss", step]
            assert tracked == pytest.approx(loss, rel=1e-5)
        for epoch, value in enumerate(trial["history"], 1):
            validation = written[run, "validation", 2 * epoch]
            assert validation == pytest.approx(value, abs=1e-5)

    def test_a_second_run_skips_all_steps(self, tiny_run):
        def times():
            files = [*tiny_run.root.glob("*-*/**/*")]
            files += (tiny_run.folder / "export").rglob("*")
            files += (tiny_run.root / "tracking").rglob("*")
            return {path: path.stat().st_mtime_ns for path in files}

        before = times()
        assert len(before) > 40
        done = go(tiny_run.folder, until="export")
        assert made(done) == []
        assert list(done) == FIRST_ROUND
        assert times() == before


class TestDamagedArtefacts:
    @staticmethod
    def flip(path):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    @pytest.mark.parametrize(
        ("override", "step", "read"),
        [
            ("student.dropout=0.1", "baseline", ["prepare"]),
            ("teacher.weights=[1.0, 2.0]", "teacher", ["prepare"]),
            ("lists.contexts=601", "score", ["prepare", "teacher"]),
            ("distill.weight=0.7", "distill", ["prepare", "score"]),
            (
                "evaluate.bootstrap=51",
                "evaluate",
                ["prepare", "baseline", "teacher", "distill"],
            ),
            ("export.top_k=6", "export", ["prepare", "distill", "evaluate"]),
        ],
    )
    def test_a_step_verifies_each_artefact_that_it_reads(
        self, copied, monkeypatch, override, step, read
    ):
        class Stop(Exception):
            pass

        def stop(*_, **__):
            raise Stop

        monkeypatch.setattr(type(STEPS[step]), "work", stop)
        with pytest.raises(Stop):
            go(copied, override, until="export")
        for name in read:
            [folder] = (copied / "runs" / "tiny").glob(f"{name}-*")
            path = max(folder.rglob("*.*"), key=lambda path: path.stat().st_size)
            self.flip(path)
            with pytest.raises(ArtefactError, match=f"'.*{path.name}' is damaged"):
                go(copied, override, until="export")
            self.flip(path)

    def test_each_file_of_a_run_has_a_checksum(self, tiny_run):
        artefacts = tiny_run.artefacts.values()
        inside = [set(artefact.record["sha256"]) for artefact in artefacts]
        assert sum(map(len, inside)) > 20
        for artefact, names in zip(artefacts, inside, strict=True):
            found = [p for p in artefact.path.rglob("*") if p.is_file()]
            there = {path.relative_to(artefact.path).as_posix() for path in found}
            assert there == names | {"record.json"}

    @pytest.mark.parametrize("step", ["prepare", "teacher", "score", "evaluate"])
    def test_the_artefact_that_a_command_reports_is_verified(self, copied, step):
        [folder] = (copied / "runs" / "tiny").glob(f"{step}-*")
        [*_, path] = folder.rglob("*.parquet")
        self.flip(path)
        with pytest.raises(ArtefactError, match=r"run the step"):
            go(copied, until=step)

    def test_a_finished_run_opens_on_a_disk_that_is_read_only(
        self, copied, monkeypatch
    ):
        def refuse(*_):
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr("os.replace", refuse)
        monkeypatch.setattr("os.rename", refuse)
        assert made(go(copied)) == []


class TestChangedSettings:
    def test_another_student_reuses_data_teacher_and_scores(self, copied):
        done = go(copied, "student.hidden=[4]", until="distill")
        assert made(done) == ["baseline", "distill"]

    def test_another_distillation_reuses_the_baseline_as_well(self, copied):
        done = go(copied, "distill.teacher_temperature=2.0", until="distill")
        assert made(done) == ["distill"]

    @pytest.mark.parametrize(
        ("override", "step"),
        [
            ("split.test=0.2", "prepare"),
            ("query.history.length=9", "prepare"),
            ("lists.per_query=5", "prepare"),
            ("dataset.synthetic.seed=9", "prepare"),
            ("seed=4", "baseline"),
            ("teacher.weights=[1.0, 2.0]", "teacher"),
            ("lists.contexts=601", "score"),
            ("student.dropout=0.1", "baseline"),
            ("distill.weight=0.7", "distill"),
            ("lists.scores_dtype=float32", "score"),
            ("distill.scores=rank", "distill"),
            ("evaluate.latency_candidates=[21]", "evaluate"),
            ("evaluate.bootstrap=51", "evaluate"),
            ("evaluate.metrics=['ndcg@10','mrr@7']", "evaluate"),
            ("evaluate.metrics=['mrr@7']", "baseline"),
            ("export.top_k=6", "export"),
        ],
    )
    def test_a_changed_key_repeats_the_first_step_that_depends_on_it(
        self, copied, monkeypatch, override, step
    ):
        class Stop(Exception):
            pass

        def stop(*_, **__):
            raise Stop

        # What is there is found; the first step that would have to work stops.
        monkeypatch.setattr(
            "recdistill.pipeline.artefacts.workspace.Draft.restart", stop
        )
        monkeypatch.setattr("recdistill.pipeline.steps.score.write_scores", stop)
        monkeypatch.setattr("recdistill.pipeline.steps.teacher.TeacherStep.work", stop)
        done = {}
        settings = small_pipelines.load(
            copied, f"export.path={copied / 'export'}", override
        )
        pipeline = Pipeline(settings, announce=done.__setitem__)
        with pytest.raises(Stop):
            pipeline.run()
        assert list(done) == FIRST_ROUND[: FIRST_ROUND.index(step)]

    def test_numbers_of_retrieved_items_do_not_change_lists_of_the_catalogue(
        self, copied
    ):
        numbers = "lists.tail=7", "lists.popular=3", "lists.student_top=5"
        assert made(go(copied, *numbers, until="distill")) == []

    def test_a_teacher_that_trains_on_lists_depends_on_their_candidates(self, copied):
        def inputs(*overrides):
            pipeline = Pipeline(small_pipelines.load(copied, *overrides))
            pipeline.run("prepare")
            return STEPS["teacher"].inputs(pipeline.context)

        retrieved, linear = "lists.size=retrieved", small_pipelines.LINEAR
        assert inputs(retrieved) != inputs(retrieved, "lists.tail=20")
        assert inputs() == inputs("lists.tail=20")
        assert inputs(retrieved, linear) == inputs(retrieved, linear, "lists.tail=20")

    def test_lists_can_be_retrieved_in_two_rounds(self, copied):
        done = go(copied, "lists.size=retrieved", small_pipelines.REFERENCE)
        # The teacher is trained on lists of drawn candidates.
        rounds = ["baseline", "teacher", "score", "pilot", "closure"]
        assert made(done) == [*rounds, "distill", "evaluate"]
        lists = {}
        for step, size in (("score", 1 + 8 + 4 + 12), ("closure", 1 + 8 + 4 + 12 + 6)):
            record = done[step].record
            assert record["list_size"] == size
            files = sorted(done[step].path.glob("scores-*.parquet"))
            tables = map(pq.read_table, files)
            columns = [dense_column(each, "scored_candidates") for each in tables]
            rows = np.concatenate(columns).tolist()
            lists[step] = [{item for item in row if item >= 0} for row in rows]
            assert record["candidates"] == sum(map(len, lists[step]))
        pairs = zip(lists["score"], lists["closure"], strict=True)
        added = [len(new - old) for old, new in pairs]
        assert 0 < sum(added) == done["closure"].record["added"]
        assert all(old <= new for old, new in zip(*lists.values(), strict=True))
        second = done["distill"].record["second_round"]
        assert second["before"] == done["pilot"].record["valid"]
        assert done["distill"].record["valid"] == max(second["before"], second["after"])
        report = report_of(copied)
        assert report.models["distilled"].metrics["mrr"].value > 0
        # 200 items of each retriever are the whole small catalogue.
        assert report.protocol.candidates == "retrieved:200"
        for name, metrics in report.retrieval.catalogue.items():
            assert metrics["mrr"].value == report.models[name].metrics["mrr"].value
        assert list(report.retrieval.recall) == ["10", "20", "50", "100", "200"]

    def test_a_first_metric_that_the_gate_cannot_use_stops_before_training(
        self, copied
    ):
        settings = ("lists.size=retrieved", "evaluate.metrics=['mrr']")
        with pytest.raises(ConfigError, match="must have a cut-off"):
            go(copied, *settings, until="prepare")

    def test_the_split_can_be_at_one_moment_for_all_queries(self, tmp_path):
        done = go(tmp_path, "split.by=global_time", small_pipelines.LINEAR)
        assert made(done) == FIRST_ROUND[:6]
        report = report_of(tmp_path)
        assert report.protocol.split == "test, the last 10% of all interactions"
        assert report.protocol.lists == pytest.approx(400, abs=20)
        assert report.models["teacher"].metrics["mrr"].value > 0


def test_a_step_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"must be one of .* Received: 'deploy'"):
        Pipeline(small_pipelines.load(tmp_path)).run("deploy")


@pytest.mark.parametrize("key", ["workdir", "export.path"])
@pytest.mark.parametrize("path", ["a_file", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written_is_an_error_before_any_work(
    tmp_path, key, path
):
    (tmp_path / "a_file").touch()
    config = small_pipelines.load(tmp_path, f"{key}={tmp_path / path}")
    with pytest.raises(ConfigError, match=rf"`{key}` must be .* can be written"):
        Pipeline(config).run()
    assert not list(tmp_path.glob("runs/*/prepare-*"))


def test_one_run_at_a_time(tmp_path):
    with (
        locked_folder(Workspace(tmp_path / "runs" / "tiny").root),
        pytest.raises(BusyError, match="use another `name`"),
    ):
        Pipeline(small_pipelines.load(tmp_path)).run("prepare")
