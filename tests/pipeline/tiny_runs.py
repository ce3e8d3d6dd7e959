"""Helpers for runs of the tiny pipeline."""

from functools import partial

import h5py
import numpy as np
import pandas as pd

from recdistill.data import synthetic
from recdistill.evaluation.report.run_report import Report
from recdistill.pipeline.evaluation.model_comparison import ListRanker
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.steps import STEPS
from tests import small_pipelines

OPTIONAL = ("assistant", "pilot", "closure")
FIRST_ROUND = [step for step in STEPS if step not in OPTIONAL]
"""The steps of a run without an assistant whose lists have no second round."""


def go(folder, *overrides, until="evaluate", warn=lambda message: None):
    """Runs the pipeline and returns the artefacts by step."""
    done = {}
    config = small_pipelines.load(folder, *overrides)
    Pipeline(config, announce=done.__setitem__, warn=warn).run(until)
    return done


def made(done):
    """Names of the steps that were not skipped."""
    return [step for step, artefact in done.items() if not artefact.reused]


def ranking(scorers, prepared, *settings):
    """Ranks parts of the test lists in this process."""
    ranker = ListRanker(scorers, prepared.catalogue_size, *settings)
    return partial(map, lambda lists: (lists, ranker(lists)))


def report_of(folder):
    """The report of the tiny run in a folder."""
    return Report.load(folder / "runs" / "tiny" / "report.json")


def artefact_names(folder):
    """Names of the artefact folders."""
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


def next_day():
    """The tables of the tiny run, and two new items that three new users bought."""
    data = synthetic(n_queries=240, n_items=60, n_interactions=4_000, seed=2)
    log = pd.concat(batch.to_pandas() for batch in data.interactions())
    items, queries = data.items.to_pandas(), data.queries.to_pandas()
    new = items.head(2).assign(item_id=["new1", "new2"])
    users = queries.head(3).assign(user_id=["u-a", "u-b", "u-c"])
    times = log["timestamp"].max() + np.arange(10)
    bought = ["new1", "new2", *items["item_id"][2:10]]
    rows = [
        pd.DataFrame({"user_id": user, "item_id": bought, "timestamp": times})
        for user in users["user_id"]
    ]
    return {
        "interactions": pd.concat([log[["user_id", "item_id", "timestamp"]], *rows]),
        "items": pd.concat([new, items]),
        "queries": pd.concat([users, queries]),
    }
