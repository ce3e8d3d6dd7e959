"""Drift: whether a teacher and its exported student still agree on newer data."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.data.batches import Lists, raw_inputs
from recdistill.data.dataset import Progress, no_progress
from recdistill.errors import DataError, ReportError
from recdistill.evaluation.moved_means import Change, Comparison, change_json, changes
from recdistill.evaluation.rows import (
    ListRows,
    agreement,
    cut_off,
    measure_ranks,
    metric_names,
)
from recdistill.export.layout import version_with
from recdistill.features.encoders import MISSING, UNKNOWN
from recdistill.features.unknown_values import with_vocabulary
from recdistill.pipeline.candidates.sampled_candidates import SampledCandidates
from recdistill.pipeline.candidates.scored_candidates import lists_to_evaluate
from recdistill.pipeline.evaluation.model_comparison import TOP
from recdistill.pipeline.models.scorers import compiled
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.pipeline.ranking.candidate_ranker import (
    CandidateRanker,
    candidate_blocks,
)
from recdistill.pipeline.ranking.catalogue_ranking import rank_candidates
from recdistill.pipeline.ranking.list_slices import ACTIVITY, ListSlices
from recdistill.pipeline.run_context import RunContext
from recdistill.pipeline.runs.new_lists import open_new_data, prepare_new_lists
from recdistill.pipeline.runs.run_opening import open_run
from recdistill.serving.exported_model import ExportedModel

CHOSEN = "chosen items"
"""Name, among the shares of unknown values, of that of the items that were chosen."""


@dataclass(frozen=True)
class Drift:
    """Comparison of newer data with a run.

    Attributes:
        model: Name of the exported model.
        version: Its version.
        lists: Number of new lists that were scored.
        queries: Number of their queries.
        changes: The means that were compared.
    """

    model: str
    version: int
    lists: int
    queries: int
    changes: list[Change]

    @property
    def worse(self) -> list[Change]:
        """The means that became worse beyond noise: a reason to distil again."""
        return [change for change in self.changes if change.is_worse]

    def as_json(self) -> dict[str, Any]:
        """All results, JSON-ready."""
        return {
            "model": self.model,
            "version": self.version,
            "lists": self.lists,
            "queries": self.queries,
            "distil_again": bool(self.worse),
            "reasons": [change.in_words() for change in self.worse],
            "changes": [change_json(change) for change in self.changes],
        }


def check_drift(
    export: Path,
    data: Path,
    *,
    folder: Path | None = None,
    sample: int = 1_000,
    progress: Progress = no_progress,
) -> Drift:
    """Compares newer data with the run that an export was made by.

    A sample of the new lists is scored by the run's teacher and by the exported model.
    Their agreement, their quality and the shares of unknown values are compared with
    those of the run's own test lists, over all lists and by slice.

    Args:
        export: The folder of the model or of a version.
        data: The newer data; see `recdistill.pipeline.runs.new_lists.open_new_data`.
        folder: The folder of the run; None for the one that the export names.
        sample: Largest number of new lists.
        progress: Callback for progress.

    Raises:
        ReportError: If the run is not there, or another run made the export.
        DataError: If the newer data is invalid.
    """
    progress("Loading the model", 0, None)
    model = ExportedModel(export)
    place = run_of(model, folder)
    run = open_run(place, progress)
    _check_same_run(model, run, place)
    old = list(lists_to_evaluate(run.prepared, "test", run.score_tables))
    new = _new_lists(run, data, sample)
    before = _rows_of_run(run)
    now = _scored(model, run, new, _survival_of(before[0]))
    slices = _slices(run.prepared, old, new)
    unknown = _unknown(run.prepared, old), _unknown(run.prepared, new)
    compared = [
        Comparison("agreement", before[0], now[0], metric_names(now[0]), slices),
        Comparison("quality", before[1], now[1], metric_names(now[1]), slices),
        Comparison("unknown values", *unknown, metric_names(unknown[1]), {}),
    ]
    settings = run.config.evaluate
    return Drift(
        model=str(model.manifest["name"]),
        version=int(model.manifest["version"]),
        lists=sum(map(len, new)),
        queries=len({str(name) for each in new for name in each.query_id}),
        changes=changes(compared, samples=settings.bootstrap, seed=run.config.seed),
    )


def run_of(model: ExportedModel, folder: Path | None = None) -> Path:
    """The folder of the run that an export was made by.

    Args:
        model: The export.
        folder: The folder, if the user gave it.

    Raises:
        ReportError: If the export does not name it, or it does not exist.
    """
    if folder is not None:
        return folder
    named = model.manifest["metadata"].get("run")
    if named is None:
        raise ReportError(
            f"The export {model.path} does not say which run made it. Give the folder "
            "of the run with `--run`."
        )
    found = model.path.parent / str(named)
    if not found.is_dir():
        raise ReportError(
            f"The run of the export {model.path} must be in {found}, where it was when "
            "the export was made. The folder does not exist. Give its place with "
            "`--run`."
        )
    return found


def _check_same_run(model: ExportedModel, run: RunContext, place: Path) -> None:
    sought = run.artefacts["evaluate"].record["fingerprint"]
    if model.manifest["metadata"].get("fingerprint") == sought:
        return
    own = version_with(model.path.parent, "fingerprint", sought)
    raise ReportError(
        f"`--run` must be the run that made the export {model.path}. Received: "
        f"{place}, whose report has other numbers. "
        + (
            "If the run was repeated since, export it again with `recdistill export`."
            if own is None
            else f"The export of this run is {own}: give that folder as EXPORT."
        )
    )


def _new_lists(run: RunContext, data: Path, sample: int) -> list[Lists]:
    """The sample of the new lists."""
    with tempfile.TemporaryDirectory(prefix="recdistill-drift-") as scratch:
        new = prepare_new_lists(run, open_new_data(run, data), Path(scratch))
        # Row numbers of queries are those of the new data.
        found = [
            replace(lists, query_row=np.full(len(lists), -1))
            for lists in lists_to_evaluate(
                new, "test", run.score_tables, sample, run.config.seed
            )
        ]
    number = run.config.evaluate.sampled_candidates
    if number is not None:
        size = new.catalogue_size
        sampled = SampledCandidates.of(found, size, number, run.config.seed)
        return [sampled.restrict(lists) for lists in found]
    if run.reranks:
        # As the lists of the run, whose figures these are compared with.
        return run.retrieved("baseline", "distill", lists=found)
    return found


def _rows_of_run(run: RunContext) -> tuple[pa.Table, pa.Table]:
    """Agreement and quality on the run's test lists, as `evaluate` stored them."""
    evaluated = run.artefacts["evaluate"]
    metric = run.config.evaluate.metrics[0]
    agreed, teacher, student = (
        pq.read_table(evaluated.file(f"{name}.parquet")).sort_by("list_id")
        for name in ("agreement", "teacher", "distilled")
    )
    keys = agreed.select(["list_id", "query_id"])
    quality = keys.append_column(f"student {metric}", student[metric])
    return agreed, quality.append_column(f"teacher {metric}", teacher[metric])


def _survival_of(agreed: pa.Table) -> list[int]:
    """The values of n for which the run's table of agreement has survival@n."""
    names = [name for name in agreed.column_names if name.startswith("survival@")]
    return [n for name in names if (n := cut_off(name)) is not None]


def _scored(
    model: ExportedModel, run: RunContext, new: Sequence[Lists], survival: Sequence[int]
) -> tuple[pa.Table, pa.Table]:
    """Agreement and quality on the new lists, in the order of the lists."""
    size, metric = run.prepared.catalogue_size, run.config.evaluate.metrics[0]
    run.progress("Opening the teacher", 0, None)
    teacher = CandidateRanker(compiled(run.teacher_model), size)
    agreed, quality = ListRows(), ListRows()
    done, total = 0, sum(map(len, new))
    blocks = (block for each in new for block in candidate_blocks(each, size))
    for lists, candidates in blocks:
        ids = run.prepared.item_ids[np.maximum(candidates, 0)]
        exported, known = exported_scores(model, lists, ids)
        scored = teacher.scores(lists, candidates)
        candidates = np.where(known, candidates, -1)
        values = {}
        for name, scores in (("student", exported), ("teacher", scored)):
            ranking = rank_candidates(scores, candidates, lists, 0)
            measured = measure_ranks(ranking.ranks, [metric])
            values[f"{name} {metric}"] = measured[metric]
        agrees = agreement(
            scored, exported, candidates >= 0, k=min(TOP, size), survival_at=survival
        )
        quality.add(lists.list_id, list(lists.query_id), values)
        agreed.add(lists.list_id, list(lists.query_id), agrees)
        done += len(lists)
        run.progress("Scoring the new lists", done, total)
    return agreed.table(), quality.table()


def exported_scores(
    model: ExportedModel, lists: Lists, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of an exported model for candidates, and which of them it has.

    Args:
        model: The export.
        lists: Lists with raw query inputs.
        ids: `(lists, n)` item ids.

    Returns:
        `(lists, n)` scores, and `(lists, n)` bool.

    Raises:
        DataError: If the lists do not have an input of the model.
    """
    raw = raw_inputs(lists)
    inputs = {}
    for name in model.contracts["rank"].inputs:
        if name == "candidate_ids":
            inputs[name] = ids.astype(object)
        elif name in raw:
            inputs[name] = raw[name]
        else:
            raise DataError(
                f"The new lists must have the input {name!r} of the export "
                f"{model.path}. Received: {', '.join(raw)}"
            )
    found = model.run("rank", inputs)
    return found["scores"], np.asarray(found["known"])


def _slices(
    prepared: Prepared, old: Sequence[Lists], new: Sequence[Lists]
) -> Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """Slices with the same limits in both samples."""
    collected = ListSlices(prepared)
    for lists in (*old, *new):
        collected.add(lists)
    first = sum(map(len, old))
    order = np.argsort(np.concatenate([lists.list_id for lists in old]))
    return {
        (kind, name): (inside[:first][order], inside[first:])
        for kind, slices in collected.members().items()
        # The training interactions of the new queries are not known.
        if kind != ACTIVITY
        for name, inside in slices.items()
    }


def _unknown(prepared: Prepared, lists: Sequence[Lists]) -> pa.Table:
    """Share of unknown values in each list, by feature, and of new chosen items."""
    rows = ListRows()
    for each in lists:
        shares: dict[str, np.ndarray] = {}
        for encoder in with_vocabulary(prepared.schema.query):
            index = each.query[encoder.feature].reshape(len(each), -1)
            values = np.count_nonzero(index != MISSING, axis=1)
            unknown = np.count_nonzero(index == UNKNOWN, axis=1)
            shares[encoder.feature] = np.where(
                values > 0, unknown / np.maximum(values, 1), np.nan
            )
        chosen = each.positives.padded(-2)
        trained = prepared.popularity[np.maximum(chosen, 0)] > 0
        new = (chosen == -1) | ((chosen >= 0) & ~trained)
        shares[CHOSEN] = new.sum(axis=1) / np.maximum((chosen > -2).sum(axis=1), 1)
        rows.add(each.list_id, list(each.query_id), shares)
    return rows.table()
