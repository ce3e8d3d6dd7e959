"""A teacher's ranking for one query that is given by its raw features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recdistill.data.batches import Lists, catalogue_mask, raw_inputs
from recdistill.data.collation import score_catalogue
from recdistill.data.dataset import Progress, no_progress
from recdistill.data.ragged import Ragged
from recdistill.errors import ConfigError, TeacherError
from recdistill.features.schema import Schema
from recdistill.lists.numpy_ranks import first_k, real_scores
from recdistill.pipeline.config.teacher_section import has_partial_scores
from recdistill.pipeline.models.scorers import compiled
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.pipeline.runs.run_opening import open_run
from recdistill.serving.client.contract import (
    SignatureContract,
    TensorContract,
    batch_of,
)


def teacher_ranking(
    folder: Path,
    features: Mapping[str, Any],
    *,
    k: int,
    exclude: Sequence[str] = (),
    allow: Sequence[str] | None = None,
    progress: Progress = no_progress,
) -> list[tuple[str, float]]:
    """The first items of a run's teacher for one query, with their scores.

    Items of the query's history are left out if the run left seen items out.

    Args:
        folder: The folder of the run.
        features: Raw values of the query's features, as for a client. Features that
            only the teacher reads may be missing; they are unknown to it then.
        k: Number of items.
        exclude: Items to leave out.
        allow: Items to choose from; None for all.
        progress: Callback for progress.

    Raises:
        TeacherError: If the teacher has scores for stored lists only.
        ConfigError: If a feature is not one of the run.
    """
    run = open_run(folder, progress)
    if has_partial_scores(run.config.teacher):
        raise TeacherError(
            f"The teacher of {folder} has scores for the lists of a table only, so it "
            "cannot rank items for another query. Leave out `--compare`."
        )
    prepared = run.prepared
    excludes = run.artefacts["prepare"].record["seen"] == "exclude"
    lists = single_list(prepared, features, seen_excluded=excludes)
    scores = score_catalogue(
        compiled(run.teacher_model), lists, prepared.catalogue_size
    )
    mask = catalogue_mask(lists, prepared.catalogue_size)
    ids = prepared.item_ids
    mask &= ~np.isin(ids, list(exclude))
    if allow is not None:
        mask &= np.isin(ids, list(allow))
    k = min(k, prepared.catalogue_size)
    [top] = first_k(real_scores(scores, mask, name="teacher"), k)
    return [(str(ids[row]), float(scores[0, row])) for row in top if row >= 0]


def single_list(
    prepared: Prepared, features: Mapping[str, Any], *, seen_excluded: bool
) -> Lists:
    """One list without positives for a query with these raw features.

    Args:
        prepared: The prepared data.
        features: Raw values by feature; None or missing if unknown.
        seen_excluded: Whether items of the history are not candidates.

    Raises:
        ConfigError: If a feature is not one of the data.
    """
    schema = prepared.schema
    contract = SignatureContract(
        {
            name: TensorContract(spec.dtype.name, tuple(spec.shape.as_list()))
            for encoder in schema.query
            for name, spec in encoder.raw_inputs().items()
        },
        {},
    )
    others = set(features).difference(contract.features)
    if others:
        raise ConfigError(
            "`--query` must have features of the run only: "
            f"{', '.join(contract.features)}. Received: {min(others)!r}"
        )
    query = {name: features.get(name) for name in contract.features}
    inputs = batch_of(contract, [query])
    raw: dict[str, np.ndarray | Ragged] = {}
    for name in contract.features:
        raw[name] = inputs[name]
        if contract.inputs[name].is_list:
            # Without the empty first entry, and without padding.
            values = np.array([v for v in inputs[name][0] if v != ""], object)
            raw[name] = Ragged(values, np.array([0, len(values)]))
    nothing = Ragged(np.zeros(0, "int32"), np.zeros(2, "int64"))
    lists = Lists(
        list_id=np.zeros(1, "int64"),
        query_id=np.array([_query_id(schema, query)], object),
        query={},
        positives=nothing,
        relevance=Ragged(np.zeros(0, "float32"), np.zeros(2, "int64")),
        seen=_seen(prepared, raw),
        weight=np.ones(1, "float32"),
        query_row=np.full(1, -1),
        raw=raw,
        seen_excluded=seen_excluded,
    )
    looked_up = schema.lookup_query(raw_inputs(lists))
    lists.query.update({name: np.asarray(value) for name, value in looked_up.items()})
    return lists


def _query_id(schema: Schema, query: Mapping[str, Any]) -> str:
    """The value of the query's first feature of kind `id`; "" if it has none."""
    ids = [query[e.feature] for e in schema.query if e.spec.kind == "id"]
    return str(ids[0]) if ids and ids[0] is not None else ""


def _seen(prepared: Prepared, raw: Mapping[str, np.ndarray | Ragged]) -> Ragged:
    """Catalogue rows of the items in the history."""
    history = prepared.schema.history
    past = raw[history.feature] if history is not None else None
    ids = past.values if isinstance(past, Ragged) else np.zeros(0, object)
    rows = np.flatnonzero(np.isin(prepared.item_ids, ids)).astype("int32")
    return Ragged(rows, np.array([0, len(rows)]))
