"""Comparison of the models of finished runs on the same test lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from recdistill.errors import ReportError
from recdistill.evaluation.comparison import Comparison, compare_models
from recdistill.evaluation.report.run_report import ModelName
from recdistill.evaluation.rows import cut_off, metric_names
from recdistill.pipeline.evaluation.evaluated_lists import how_lists_differ, slices_of
from recdistill.pipeline.runs.finished_runs import EvaluatedRun

_PROTOCOL = {
    "candidates": "the candidates that are ranked",
    "seen": "whether seen items are candidates",
}


def compare_runs(
    folders: Sequence[Path], models: Sequence[ModelName]
) -> tuple[Comparison, list[EvaluatedRun]]:
    """Compares models of runs; the first model of the first run is the reference.

    Args:
        folders: Folders of the runs.
        models: The models of each run.

    Returns:
        The comparison by all metrics that the runs have in common, and the runs.

    Raises:
        ReportError: If there is nothing to compare, a folder is not that of an
            evaluated run, the runs were not evaluated on the same test lists, or their
            teachers ranked other candidates.
        ArtefactError: If a file of a run is damaged.
    """
    names = list(dict.fromkeys(models))
    if len(folders) * len(names) < 2 or len({*_resolved(folders)}) < len(folders):
        raise ReportError(
            "`RUN` must name two runs or more, each once, or one run with several "
            f"`--model`. Received: {', '.join(map(str, folders))} with the model "
            f"{', '.join(names)}"
        )
    runs = [EvaluatedRun.open(folder) for folder in folders]
    first, lists = runs[0], runs[0].lists()
    for run in runs[1:]:
        _check_same_lists(first, lists, run)
    if "teacher" in names and _retrieved(runs) is not None:
        raise ReportError(
            "The model `teacher` cannot be compared between runs with retrieved "
            "candidates, because it re-ranks what the students of its run retrieve. "
            f"Received: {', '.join(map(str, folders))} with the model "
            f"{', '.join(names)}. Compare the models of one run, or those of several "
            "runs without the teacher."
        )
    labels = _labels(runs)
    rows: dict[str, pa.Table] = {}
    for run, label in zip(runs, labels, strict=True):
        for name in names:
            table = run.rows(name).sort_by("list_id")
            if len(names) == 1:
                rows[label] = table
            elif len(runs) == 1:
                rows[name] = table
            else:
                rows[f"{label} {name}"] = table
    metrics = _common_metrics(runs, list(rows.values()))
    order = lists["list_id"].to_numpy().argsort()
    slices = {
        kind: {name: inside[order] for name, inside in members.items()}
        for kind, members in slices_of(lists).items()
    }
    return compare_models(rows, slices, metrics, seed=first.report.seed), runs


def compared_facts(runs: Sequence[EvaluatedRun]) -> dict[str, str]:
    """What was compared, for people: data, protocol and runs."""
    from recdistill.evaluation.report.receipt import candidate_set

    report = runs[0].report
    protocol = report.protocol
    candidates = candidate_set(protocol.candidates, report.dataset.items)
    return {
        "Data": f"{report.dataset.name}, {protocol.split}: {protocol.lists:,} lists",
        "Ranked": f"{candidates}; seen items {protocol.seen}d",
        "Runs": ", ".join(str(run.folder) for run in runs),
    }


def _resolved(folders: Sequence[Path]) -> list[Path]:
    return [folder.resolve() for folder in folders]


def _retrieved(runs: Sequence[EvaluatedRun]) -> int | None:
    """Number of items of each retriever, if several runs have candidates of their own.

    A single run, whose models ranked the same candidates, has None.
    """
    from recdistill.evaluation.report.receipt import kind_and_number

    kind, number = kind_and_number(runs[0].report.protocol.candidates)
    return number if len(runs) > 1 and kind == "retrieved" else None


def _labels(runs: Sequence[EvaluatedRun]) -> list[str]:
    """A name for each run: its folder's name, or its path where names are equal."""
    names = [run.folder.resolve().name for run in runs]
    if len(set(names)) == len(names):
        return names
    return [str(run.folder) for run in runs]


def _check_same_lists(first: EvaluatedRun, lists: pa.Table, run: EvaluatedRun) -> None:
    """Refuses a run whose test lists are not those of the first run."""
    here, there = first.report, run.report
    found: list[Any] = [
        f"{words} ({getattr(here.protocol, key)} and {getattr(there.protocol, key)})"
        for key, words in _PROTOCOL.items()
        if getattr(here.protocol, key) != getattr(there.protocol, key)
    ]
    if here.dataset.items != there.dataset.items:
        found.append(
            f"the number of items ({here.dataset.items:,} and {there.dataset.items:,})"
        )
    differ = how_lists_differ(lists, run.lists())
    if differ is None:
        # The same lists, but other candidates of the models.
        if here.protocol.candidates == there.protocol.candidates:
            return
        differ = f"they differ in {' and in '.join(found)}"
        found = []
    also = f"; they also differ in {' and in '.join(found)}" if found else ""
    raise ReportError(
        "`RUN` must be evaluated on the test lists of the first run, because models "
        f"are compared list by list. Received: {first.folder} and {run.folder}: "
        f"{differ}{also}. Evaluate both with the same `dataset`, `split`, `lists` and "
        "`evaluate` settings."
    )


def _common_metrics(
    runs: Sequence[EvaluatedRun], tables: Sequence[pa.Table]
) -> list[str]:
    """Metrics that all runs have, in the order of the first.

    Each run retrieves the candidates with its own students. Only a metric whose cut-off
    is within each retriever's top N is the same as over the whole catalogue.
    """
    metrics = metric_names(tables[0])
    common = [m for m in metrics if all(m in each.column_names for each in tables)]
    retrieved = _retrieved(runs)
    if retrieved is not None:
        common = [m for m in common if (cut_off(m) or retrieved + 1) <= retrieved]
    if not common:
        given = "; ".join(
            f"{run.folder} {', '.join(run.report.models['distilled'].metrics)}"
            for run in runs
        )
        raise ReportError(
            "`RUN` must have a metric in common with the first run "
            "(`evaluate.metrics`), and one with a cut-off if candidates are retrieved. "
            f"Received: {given}"
        )
    return common
