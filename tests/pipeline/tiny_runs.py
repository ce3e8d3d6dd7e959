"""Helpers for runs of the tiny pipeline."""

from functools import partial

import h5py

from recdistill.evaluation.report.run_report import Report
from recdistill.pipeline.model_comparison import ListRanker
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
