"""A sample of the evaluated test lists, as requests to the exported model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from recdistill.data.batches import Lists, raw_inputs
from recdistill.data.ragged import Ragged
from recdistill.evaluation.rows import cut_off, measure
from recdistill.export.judged_metric import JudgedBatch, JudgedLists
from recdistill.export.layout import MOST_ITEMS
from recdistill.features.encoders import HistoryEncoder
from recdistill.features.schema import Schema
from recdistill.pipeline.candidates.sampled_candidates import SampledCandidates
from recdistill.pipeline.candidates.scored_candidates import lists_to_evaluate
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.teachers import ScoreTable

BATCH = 64
"""Test lists in one request."""


def history_inputs(schema: Schema) -> tuple[str, ...]:
    """Names of the student's query inputs with items that the query has seen."""
    encoders = schema.for_student().query
    return tuple(e.feature for e in encoders if isinstance(e, HistoryEncoder))


def judged_lists(
    prepared: Prepared,
    rows: Path,
    metrics: Sequence[str],
    limit: int,
    tables: Sequence[ScoreTable] = (),
    sampled: SampledCandidates | None = None,
    *,
    retrieved: bool = False,
) -> JudgedLists | None:
    """A sample of the test lists with the metric of each.

    If seen items were excluded, a query sends all of them as its history; a query
    without a history feature sends them as `exclude_ids`.

    Args:
        prepared: The prepared data.
        rows: Table with the metrics of the distilled student, one row per test list.
        metrics: Names of the report's metrics.
        limit: Largest number of lists.
        tables: Partial scores of the teacher, whose candidates were ranked.
        sampled: Random candidates that were ranked, if evaluation was sampled.
        retrieved: Whether retrieved candidates were ranked. Only metrics with a cut-off
            are then those of the whole catalogue, which the export ranks.

    Returns:
        The lists; None if no metric can be computed from the items that one answer may
        have, or no list has one.
    """
    found = _metric_of(metrics, prepared.catalogue_size, retrieved)
    if found is None:
        return None
    metric, k = found
    table = pq.read_table(rows, columns=["list_id", metric])
    value = dict(zip(*(table[n].to_pylist() for n in table.column_names), strict=True))
    batches = []
    for lists in _pieces(prepared, limit, tables, sampled):
        reported = np.array([value[name] for name in lists.list_id.tolist()], float)
        known = np.flatnonzero(np.isfinite(reported))
        if len(known):
            batches.append(_batch(prepared, lists.take(known), metric, reported[known]))
    return JudgedLists(metric, k, batches) if batches else None


def _metric_of(
    metrics: Sequence[str], size: int, retrieved: bool
) -> tuple[str, int] | None:
    """The first metric that an answer determines, and the length of the answer.

    Those with a cut-off are first: they need short answers.
    """
    lengths = [(name, cut_off(name)) for name in metrics]
    found = [(name, min(k, size)) for name, k in lengths if k is not None]
    if not retrieved:
        found += [(name, size) for name, k in lengths if k is None]
    return next((each for each in found if each[1] <= MOST_ITEMS), None)


def _pieces(
    prepared: Prepared,
    limit: int,
    tables: Sequence[ScoreTable],
    sampled: SampledCandidates | None,
) -> Iterator[Lists]:
    """At most `limit` test lists, a few at a time."""
    for piece in lists_to_evaluate(prepared, "test", tables, limit, sampled=sampled):
        for start in range(0, min(len(piece), limit), BATCH):
            rows = np.arange(start, min(start + BATCH, len(piece), limit))
            yield piece.take(rows)
        limit -= len(piece)
        if limit <= 0:
            return


def _batch(
    prepared: Prepared, lists: Lists, metric: str, reported: np.ndarray
) -> JudgedBatch:
    ids = prepared.item_ids
    none = np.full((len(lists), 1), "", object)
    queries, exclude = raw_inputs(lists), none
    histories = history_inputs(prepared.schema)
    if lists.seen_excluded:
        for name in histories:
            sent = _whole_history(lists, name, ids)
            queries[name] = sent.padded("")
            queries[f"{name}_length"] = np.diff(sent.offsets).astype("int32")
        if not histories:
            exclude = _ids_of(lists.seen, ids)
    scored = lists.scored_candidates

    def measured(answer: np.ndarray) -> np.ndarray:
        return measure_answer(lists, answer, ids, metric)

    return JudgedBatch(
        queries,
        exclude,
        none if scored is None else _ids_of(scored, ids),
        reported,
        measured,
    )


def measure_answer(
    lists: Lists, answer: np.ndarray, ids: np.ndarray, metric: str
) -> np.ndarray:
    """A ranking metric of served items, `(lists,)`.

    Args:
        lists: The lists.
        answer: `(lists, k)` ids, the best first, "" for none.
        ids: `(items,)` ids of the catalogue.
        metric: Name of the metric; it must not read more than `k` items.
    """
    row_of = {name: row for row, name in enumerate(ids.tolist())}
    got = np.array([[row_of.get(each, -1) for each in row] for row in answer], int)
    got = got.reshape(len(lists), -1)
    positives, value = lists.positives.padded(-1), lists.relevance.padded(0.0)
    same = (got[:, :, None] == positives[:, None, :]) & (got >= 0)[:, :, None]
    # Positives that are missing from the answer rank after it and its empty places.
    missing = (value > 0) & ~same.any(axis=1)
    relevance = np.concatenate(
        [(same * value[:, None, :]).sum(2), np.where(missing, value, 0.0)], axis=1
    )
    mask = np.concatenate([np.ones(got.shape, bool), missing], axis=1)
    scores = np.broadcast_to(-np.arange(mask.shape[1], dtype="float32"), mask.shape)
    unreachable = ~((relevance > 0) & mask).any(axis=1)
    return measure(scores, relevance, mask, [metric], unreachable=unreachable)[metric]


def _whole_history(lists: Lists, name: str, ids: np.ndarray) -> Ragged:
    """All items that each query has seen, the latest last, as a client sends them.

    The lists store the latest ids, which may be unknown to the catalogue, and the rows
    of all seen items.
    """
    latest = lists.raw[name]
    if not isinstance(latest, Ragged):
        raise TypeError(f"`{name}` must be a history. Received: {type(latest)}")
    rows = []
    for row in range(len(lists)):
        one = np.array([row])
        seen, own = ids[lists.seen.take(one).values], latest.take(one).values
        rows.append(np.concatenate([seen[~np.isin(seen, own)], own]))
    offsets = np.cumsum([0, *map(len, rows)])
    return Ragged(np.concatenate(rows) if rows else latest.values, offsets)


def _ids_of(rows: Ragged, ids: np.ndarray) -> np.ndarray:
    """Ids of catalogue rows `(lists, n)`, padded with ""."""
    return Ragged(ids[rows.values].astype(object), rows.offsets).padded("")
