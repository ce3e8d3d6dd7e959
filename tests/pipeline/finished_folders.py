"""Folders of finished runs, written without training a model."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.data.batches import Lists
from recdistill.data.ragged import Ragged
from recdistill.evaluation.report.page_details import (
    PageDetails,
    TrainingRun,
    save_details,
)
from recdistill.pipeline.artefacts.workspace import Workspace
from recdistill.pipeline.evaluation.evaluated_lists import EvaluatedLists
from recdistill.pipeline.steps.evaluate import DETAILS, LISTS
from tests.evaluation.report.example_reports import report

ITEMS = np.array(["a", "b", "c", "d"])
MODELS = ("popularity", "baseline", "distilled", "teacher")


def lists(number=40, positive=0, relevance=1.0):
    """Lists of 20 queries with one relevant item each."""
    ids = np.arange(number)
    none = Ragged(np.zeros(0, int), np.zeros(number + 1, int))
    return Lists(
        list_id=ids,
        query_id=np.array([f"q{each % 20}" for each in ids]),
        query={},
        positives=Ragged(np.full(number, positive), np.arange(number + 1)),
        relevance=Ragged(np.full(number, relevance, "float32"), np.arange(number + 1)),
        seen=none,
        weight=np.ones(number, "float32"),
        query_row=ids,
    )


def evaluated(some, items=ITEMS):
    """The table of evaluated lists, in two slices of items."""
    table = EvaluatedLists(items)
    table.add(some)
    head = np.arange(len(some)) < len(some) // 2
    return table.table({"item": {"head": head, "tail": ~head}})


def rows(some, values, metric="ndcg@10"):
    """Metrics with one row for each list."""
    ids = pa.array(some.list_id, pa.int64())
    return pa.table({"list_id": ids, "query_id": list(some.query_id), metric: values})


def write_run(folder, values, some=None, *, export=True, metric="ndcg@10", **changes):
    """A run folder whose step `evaluate` has these values of each model."""
    some = lists() if some is None else some
    workspace = Workspace(folder)
    with workspace.produce("evaluate", {"values": str(values)}) as draft:
        for model in MODELS:
            given = np.broadcast_to(values.get(model, 0.5), len(some)).astype(float)
            pq.write_table(rows(some, given, metric), draft.path / f"{model}.parquet")
        pq.write_table(evaluated(some), draft.path / LISTS)
        trained = TrainingRun("learning rate 0.1", [0.1, 0.2], 10, {"step": []})
        save_details(
            PageDetails(training={"distilled": [trained]}), draft.path / DETAILS
        )
        report(name=folder.name, **changes).save(draft.path / "report.json")
    (folder / "report.json").write_bytes((draft.path / "report.json").read_bytes())
    if export:
        with workspace.produce("export", {}) as exported:
            exported.record = {"needs": {"evaluate": draft.key}}
    return folder
