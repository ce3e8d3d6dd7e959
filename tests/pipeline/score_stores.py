"""A small score store of a teacher with a simple rule."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from recdistill.data.dense_columns import dense_column
from recdistill.pipeline.candidates.retriever import Retriever
from recdistill.pipeline.config import ListsConfig
from recdistill.pipeline.preparation import interaction_sort
from recdistill.pipeline.scores.content_hashes import ContentHashes, hashes_of_ids
from recdistill.pipeline.scores.earlier_scores import write_items
from recdistill.pipeline.scores.score_parts import planned_parts, write_store
from recdistill.pipeline.scores.score_writing import ScoreWriter
from tests import small_pipelines
from tests.pipeline.logs import random_log, run

ITEMS = 14


def prepare_small(folder):
    """Prepared data in several shards; some queries have seen nearly all items."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interaction_sort, "PARTITION_ROWS", 125)
        log = random_log(3, rows=500, users=25, items=ITEMS, moments=9_000)
        settings = {"lists": {"seen": "exclude"}}
        prepared, _ = run(small_pipelines.dataset(log), folder, **settings)
    assert len(prepared.shards("train")) == 4
    assert prepared.catalogue_size == ITEMS
    return prepared


def taste(x):
    """A teacher that scores by the newest history item, with ties at its rank 0."""
    table = np.random.default_rng(8).normal(size=(ITEMS + 2, ITEMS)).astype("float32")
    table[:, :3] = 0.25
    return at_candidates(table[x["query"]["history"][:, 0]], x)


def at_candidates(scores, x):
    """Scores `(lists, items)` of the candidates of a batch."""
    index = x["candidate_index"]
    return np.take_along_axis(scores, index, 1) if index.ndim == 2 else scores


def retrieved(**lists):
    """Settings of small retrieved lists."""
    small = {"size": "retrieved", "retriever_top": 3, "popular": 0, "tail": 4}
    return ListsConfig(**{**small, **lists})


def retriever(prepared, settings, score=taste):
    """A retriever whose baseline has the scores of a function of whole catalogues."""

    def top(lists):
        x = {"query": lists.query, "candidate_index": np.arange(ITEMS)}
        scores = np.array(score(x), "float32")
        gone = lists.excluded
        scores[gone.row_numbers(), gone.values] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, : settings.retriever_top]
        real = np.take_along_axis(scores, order, axis=1) > -np.inf
        return np.where(real, order, -1).astype("int32")

    ids = hashes_of_ids(prepared)
    return Retriever(top, prepared.popularity, settings, 1, ids)


def hashes_of(prepared):
    """Hashes for a teacher that reads looked-up features."""
    ids = hashes_of_ids(prepared)
    return ContentHashes(ids, ids)


def write(prepared, folder, score=taste, *, training_rows=False, seed=1, **lists):
    folder.mkdir(exist_ok=True)
    settings = retrieved(**lists)
    propose = None
    if settings.size == "retrieved":
        propose = retriever(prepared, settings)
    hashes = hashes_of(prepared)
    writer = ScoreWriter(
        score, prepared, settings, seed, hashes, propose, training_rows
    )
    return write_with(writer, folder)


def write_with(writer, folder, progress=small_pipelines.quiet):
    """Writes a store in this process; returns its record."""
    shards, settings = writer.prepared.shards("train"), writer.config
    write_items(folder, writer.hashes.items)
    parts = planned_parts(
        shards, writer.scored, settings.contexts, writer.hashes, writer.seed
    )
    # Planned on another node of a cluster, with another local folder.
    parts = [replace(p, shard=Path("/another", p.shard.name)) for p in parts]
    score = partial(map, lambda part: (part, writer(part)))
    return write_store(folder, parts, score, progress)[0]


def stored(folder):
    """The stored lists, each as a dictionary by column."""
    rows = []
    for file in sorted(folder.glob("scores-*.parquet")):
        table = pq.read_table(file)
        dense = {}
        for name in ("scored_candidates", "teacher_scores"):
            if name in table.column_names:
                dense[name] = dense_column(table, name).tolist()
        rest = table.drop_columns(list(dense)).to_pylist()
        rows += [
            {**row, **{name: each[number] for name, each in dense.items()}}
            for number, row in enumerate(rest)
        ]
    return rows


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def live(row):
    history = np.array([row["query.history"]])
    return taste({"query": {"history": history}, "candidate_index": np.arange(1)})[0]
