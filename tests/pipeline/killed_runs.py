"""Runs a pipeline that is killed once in every step, and then once undisturbed.

    python killed_runs.py CONFIG [ARGUMENTS of `recdistill run`]

Every attempt is a process forked from this one, so that TensorFlow is imported once.
Prints the exit codes as JSON, and then the output of the undisturbed attempt.
"""

import json
import os
import re
import signal
import sys

import pyarrow.parquet as pq

from recdistill.cli import main as cli
from recdistill.evaluation.report.run_report import Report
from recdistill.export import publishing
from recdistill.pipeline.artefacts import workspace
from recdistill.pipeline.scores import score_parts
from recdistill.pipeline.steps.evaluate import Evaluate
from recdistill.pipeline.training import training_checkpoints
from tests import small_pipelines

AFTER, BEFORE = True, False
POINTS = [
    # Function, regular expression of an argument, and whether to kill after the call.
    (pq, "write_table", "/valid-00000.parquet", AFTER),  # prepare
    # The baseline, in training; the next attempt goes on with the epoch after.
    (training_checkpoints, "_write", r"/\.training-baseline-.*\.npz", AFTER),
    (os, "replace", r"/\.partial-baseline-.*/model\.weights\.h5$", AFTER),
    (os, "replace", r"/\.partial-teacher-.*/model\.weights\.h5$", AFTER),
    (os, "replace", "/scores-00001.parquet", BEFORE),  # score
    (pq, "write_table", "distill-", AFTER),
    (Report, "save", "/.partial-evaluate-", BEFORE),
    (Evaluate, "after", "", BEFORE),
    (publishing, "check_parity", "/.staging-1", BEFORE),
    (workspace.Draft, "publish", "/.partial-export-", BEFORE),  # version 1 is out
]


def make_fatal(owner, name, pattern, after):
    """Kills the process at the first call with an argument that has the pattern."""
    original = getattr(owner, name)

    def fatal(*args, **kwargs):
        shown = [str(getattr(argument, "path", argument)) for argument in args]
        if not any(re.search(pattern, each) for each in shown):
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
    score_parts.FILE_LISTS = small_pipelines.FILE_LISTS
    training_checkpoints.SECONDS_BETWEEN_FILES = 0.0
    codes = [attempt(point, sys.argv[1:]) for point in POINTS]
    print(json.dumps(codes), flush=True)
    sys.exit(attempt(None, sys.argv[1:]))
