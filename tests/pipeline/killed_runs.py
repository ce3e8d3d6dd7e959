"""Runs a pipeline that is killed once in every step, then lets it end.

    python killed_runs.py CONFIG [ARGUMENTS of `recdistill run`]

Every attempt is a process of its own, forked from this one, which only imports: so
TensorFlow is imported once. Prints the exit codes as JSON, and then what the attempt
that was let alone printed.
"""

import json
import os
import signal
import sys

import pyarrow.parquet as pq

from recdistill.cli import main as cli
from recdistill.evaluation.report.run_report import Report
from recdistill.export import publishing
from recdistill.models.ensemble import EnsembleTeacher
from recdistill.models.two_tower import TwoTowerStudent
from recdistill.pipeline import pipeline, score_store, training, workspace
from tests import tiny

AFTER, BEFORE = True, False
POINTS = [
    # What is called, what one of its arguments looks like, and when it is fatal.
    (pq, "write_table", "/valid-00000.parquet", AFTER),  # prepare
    (EnsembleTeacher, "save_weights", "/.partial-teacher-", AFTER),
    (os, "replace", "/scores-00001.parquet", BEFORE),  # score
    (training.BestCheckpoint, "on_epoch_end", "4", AFTER),  # student, in training
    (TwoTowerStudent, "save_weights", "/.partial-student-", AFTER),
    (pq, "write_table", "distill-", AFTER),
    (Report, "save", "/.partial-evaluate-", BEFORE),
    (pipeline.Pipeline, "_publish_report", "", BEFORE),
    (publishing, "check_parity", "/.staging-1", BEFORE),
    (workspace.Draft, "publish", "/.partial-export-", BEFORE),  # version 1 is out
]


def make_fatal(owner, name, pattern, after):
    """The first call with such an argument is the last thing that the process does."""
    original = getattr(owner, name)

    def fatal(*args, **kwargs):
        shown = [str(getattr(argument, "path", argument)) for argument in args]
        if not any(pattern in each for each in shown):
            return original(*args, **kwargs)
        if after:
            original(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, fatal)


def attempt(point, arguments):
    """The exit code, or minus the signal, of one attempt."""
    process = os.fork()
    if not process:
        if point is not None:
            make_fatal(*point)
        sys.argv = ["recdistill", "run", *arguments]
        cli.main()  # raises SystemExit
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


if __name__ == "__main__":
    score_store.FILE_LISTS = tiny.FILE_LISTS
    codes = [attempt(point, sys.argv[1:]) for point in POINTS]
    print(json.dumps(codes), flush=True)
    sys.exit(attempt(None, sys.argv[1:]))
