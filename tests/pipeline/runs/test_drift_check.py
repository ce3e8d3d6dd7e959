"""drift_check: no alarm for the run's own data, and one for planted changes."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from recdistill.atomic import write_sealed
from recdistill.data import synthetic
from recdistill.errors import DataError, ReportError
from recdistill.export import layout
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.pipeline.runs import drift_check
from recdistill.pipeline.runs.drift_check import check_drift, run_of
from recdistill.serving.exported_model import ExportedModel
from tests.cli.command_line import call

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def export(tiny_run):
    """The export of the tiny run, which is loaded once."""
    path = tiny_run.folder / "export" / "tiny"
    model = ExportedModel(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drift_check, "ExportedModel", lambda path: model)
        yield path


@pytest.fixture(scope="module")
def log():
    """The interactions of the tiny run."""
    data = synthetic(n_queries=240, n_items=60, n_interactions=4_000, seed=2)
    return pa.Table.from_batches(data.interactions())


def written(folder, table):
    path = folder / "new.parquet"
    pq.write_table(table, path)
    return path


def shown(drift):
    """The reasons for an alarm."""
    return {(c.kind, c.name) for c in drift.worse}


def test_the_run_s_own_lists_have_the_run_s_own_values(export, log, tmp_path, tiny_run):
    found = check_drift(export, written(tmp_path, log))
    assert not found.worse
    assert found.lists == tiny_run.report.protocol.lists
    for change in found.changes:
        if change.part is None:
            assert change.now.value == pytest.approx(change.before.value, abs=1e-6)
    report = tiny_run.report
    values = {c.name: c.before.value for c in found.changes if c.part is None}
    assert values["rbo"] == report.agreement["rbo"].value
    metric = report.models["teacher"].metrics["ndcg@10"].value
    assert values["teacher ndcg@10"] == metric
    assert values["history"] == pytest.approx(
        report.dataset.unknown["test"]["history"], abs=0.01
    )


def test_candidates_are_drawn_where_the_run_did(tiny_run, monkeypatch):
    prepared = Prepared(tiny_run.artefacts["prepare"].path)
    monkeypatch.setattr(drift_check, "open_new_data", lambda *_: None)
    monkeypatch.setattr(drift_check, "prepare_new_lists", lambda *_: prepared)
    evaluate = SimpleNamespace(sampled_candidates=3)
    run = SimpleNamespace(
        config=SimpleNamespace(evaluate=evaluate, seed=1),
        score_tables=[],
        reranks=False,
    )
    for lists in drift_check._new_lists(run, None, 20):
        drawn = np.diff(lists.scored_candidates.offsets)
        assert (drawn <= 3 + np.diff(lists.positives.offsets)).all()
    evaluate.sampled_candidates = None
    for lists in drift_check._new_lists(run, None, 20):
        assert lists.scored_candidates is None


def test_new_items_are_found_as_unknown_values(export, log, tmp_path, capsys):
    number = pc.utf8_slice_codeunits(log["item_id"], 1).cast(pa.int64())
    renamed = pc.if_else(
        pc.less(number, 24),
        pc.binary_join_element_wise(log["item_id"], "new", "-"),
        log["item_id"],
    )
    table = log.set_column(log.column_names.index("item_id"), "item_id", renamed)
    textfile = tmp_path / "drift.prom"
    result = call(
        "drift",
        export,
        "--data",
        written(tmp_path, table),
        "--sample",
        "200",
        "--prometheus",
        textfile,
        "--json",
    )
    assert result.exit_code == 3, result.stderr
    found = json.loads(result.stdout)
    assert found["distil_again"]
    worse = {(c["kind"], c["name"]) for c in found["changes"] if c["worse"]}
    assert {("unknown values", "history"), ("unknown values", "chosen items")} <= worse
    assert any("unknown values of history rose" in each for each in found["reasons"])
    lines = textfile.read_text().splitlines()
    assert 'recdistill_drift_distil_again{model="tiny",version="1"} 1.0' in lines


def test_a_changed_teacher_is_found_by_its_agreement(
    export, log, tmp_path, monkeypatch, tiny_run
):
    (prepared,) = (tiny_run.folder / "runs" / "tiny").glob("prepare-*")
    popularity = Prepared(prepared).popularity

    def teacher_of_rare_items(model):
        return lambda batch: np.broadcast_to(
            -popularity[np.asarray(batch["candidate_index"])].astype("float32"),
            np.shape(batch["mask"]),
        )

    monkeypatch.setattr(drift_check, "compiled", teacher_of_rare_items)
    found = check_drift(export, written(tmp_path, log), sample=150)
    assert {("agreement", "overlap@10"), ("agreement", "rbo")} <= shown(found)
    assert ("quality", "student ndcg@10") not in shown(found)
    assert not [name for kind, name in shown(found) if kind == "unknown values"]


def test_shifted_behaviour_is_found_by_the_quality(export, log, tmp_path):
    """Popular items are rarely chosen now, and rare ones often."""
    counts = Counter(log["item_id"].to_pylist())
    ranked = [item for item, _ in counts.most_common()]
    other = dict(zip(ranked, ranked[::-1], strict=True))
    ids = pa.array([other[item] for item in log["item_id"].to_pylist()])
    table = log.set_column(log.column_names.index("item_id"), "item_id", ids)
    found = check_drift(export, written(tmp_path, table))
    assert ("quality", "teacher ndcg@10") in shown(found)


def test_an_export_of_another_run_and_a_missing_run_are_named(export, tmp_path):
    model = drift_check.ExportedModel(export)
    assert run_of(model).samefile(model.path.parents[2] / "runs" / "tiny")
    with pytest.raises(ReportError, match="is not the folder of a run"):
        check_drift(export, tmp_path, folder=tmp_path)


def test_data_that_does_not_exist_is_named(export, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        check_drift(export, tmp_path / "none.csv")


def test_new_data_without_a_column_of_the_run_is_named(export, log, tmp_path):
    with pytest.raises(DataError, match="timestamp"):
        check_drift(export, written(tmp_path, log.drop_columns(["timestamp"])))


def test_the_version_of_a_run_is_named_if_another_was_given(tmp_path):
    for version, fingerprint in (("1", "f"), ("2", "g")):
        (tmp_path / version / layout.EXTRA).mkdir(parents=True)
        document = {"metadata": {"fingerprint": fingerprint}}
        write_sealed(tmp_path / version / layout.MANIFEST, document)
    evaluated = SimpleNamespace(record={"fingerprint": "f"})
    run = SimpleNamespace(artefacts={"evaluate": evaluated})
    latest = SimpleNamespace(
        path=tmp_path / "2", manifest=layout.read_manifest(tmp_path / "2")
    )
    with pytest.raises(ReportError, match=f"this run is {tmp_path / '1'}: give that"):
        drift_check._check_same_run(latest, run, tmp_path)
    evaluated.record = {"fingerprint": "h"}
    with pytest.raises(ReportError, match="export it again with `recdistill export`"):
        drift_check._check_same_run(latest, run, tmp_path)
