"""A small score store of a teacher with a simple rule."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from recdistill.pipeline import interaction_sort
from recdistill.pipeline.config import ListsConfig
from recdistill.pipeline.score_writing import ScoreWriter
from tests import small_pipelines
from tests.pipeline.logs import random_log, run

ITEMS = 14


def prepare_small(folder):
    """Prepared data in several shards; some queries have seen nearly all items."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interaction_sort, "PARTITION_ROWS", 125)
        log = random_log(3, rows=500, users=25, items=ITEMS, moments=60)
        settings = {"lists": {"seen": "exclude"}}
        prepared, _ = run(small_pipelines.dataset(log), folder, **settings)
    assert len(prepared.shards("train")) == 4
    assert prepared.catalogue_size == ITEMS
    return prepared


def taste(x):
    """A teacher that scores by the newest history item, with ties at its rank 0."""
    table = np.random.default_rng(8).normal(size=(ITEMS + 2, ITEMS)).astype("float32")
    table[:, :3] = 0.25
    return table[x["query"]["history"][:, 0]]


def write(prepared, folder, score=taste, *, training_rows=False, seed=1, **lists):
    folder.mkdir(exist_ok=True)
    settings = ListsConfig(**{"size": "sampled", "teacher_top": 3, "tail": 4, **lists})
    writer = ScoreWriter(
        score, prepared, settings, seed, small_pipelines.quiet, training_rows
    )
    return writer.write(folder)


def stored(folder):
    files = sorted(folder.glob("scores-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def live(row):
    history = np.array([row["query.history"]])
    return taste({"query": {"history": history}})[0]
