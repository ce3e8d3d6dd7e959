"""The gate: whether a teacher is worth distilling, decided on validation.

A student can only be as good as what it copies, so the teacher must

- give finite scores, and scores that differ within most lists;
- not have been trained on the lists that judge it, where that is known;
- be better than popularity and than the baseline, the student without distillation, by
  more than the noise between queries.

Else the run stops with the figures, before the time for distilling is spent, and goes
on only with `distill.gate = "warn"`. The first two are known, and checked, before the
training lists are scored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from recdistill.data.batches import Lists
from recdistill.data.shard_reading import read_lists
from recdistill.errors import DataError, GateError
from recdistill.evaluation.intervals import Interval, paired_difference
from recdistill.evaluation.report.run_report import GatePart
from recdistill.pipeline.config import Config
from recdistill.pipeline.prepared_data import Prepared
from recdistill.pipeline.teacher_config import (
    LinearTeacherConfig,
    ReferenceTeacherConfig,
    Section,
    members_of,
)
from recdistill.pipeline.validation import Scorer
from recdistill.pipeline.workspace import Artefact

MOST_CONSTANT = 0.5
"""The share of lists with one score for all candidates above which nothing is taught.

Some are usual: a query without history, say, tells a linear item model nothing.
"""

HELD_OUT = ("valid", "test")


class CountedScorer:
    """A scorer that counts what is wrong with the scores that pass through it.

    Scores that are NaN or infinite are passed on as the lowest of their list, so that
    the teacher can be judged, and refused, by its figures.

    Args:
        score: Batch to scores `(batch, list_size)`.
    """

    def __init__(self, score: Scorer) -> None:
        self._score = score
        self.faults = Faults(lists=0, constant=0, not_finite=0)

    def __call__(self, x: Mapping[str, Any]) -> np.ndarray:
        """The scores, all finite."""
        scores, mask = np.asarray(self._score(x)), np.asarray(x["mask"])
        wrong = mask & ~np.isfinite(scores)
        fine = mask & ~wrong
        low = np.min(scores, axis=1, where=fine, initial=np.finfo(scores.dtype).max)
        high = np.max(scores, axis=1, where=fine, initial=np.finfo(scores.dtype).min)
        several = fine.sum(axis=1) > 1
        self.faults = Faults(
            lists=self.faults.lists + len(scores),
            constant=self.faults.constant + int((several & (low >= high)).sum()),
            not_finite=self.faults.not_finite + int(wrong.sum()),
        )
        return np.where(np.isfinite(scores), scores, np.finfo(scores.dtype).min)


@dataclass(frozen=True)
class Faults:
    """What is wrong with a teacher's scores of the validation lists.

    Attributes:
        lists: How many lists were scored.
        constant: How many of them have one score for all their candidates.
        not_finite: How many scores are NaN or infinite.
    """

    lists: int
    constant: int
    not_finite: int


def lists_trained_on(prepared: Prepared, teacher: Section) -> dict[str, int] | None:
    """How many held-out lists the teacher was trained on, as far as that is known.

    A teacher that the pipeline trains is known: it learns from the training lists. One
    from outside may declare a table, Parquet or CSV (`teacher.trained_on`), with a
    column `list_id`, the numbers of interactions in the data set from 0, or with
    `query_id` and `item_id`. A pair that stands in the training part of the query, too,
    says nothing of a held-out one, and is left out.

    Args:
        prepared: The prepared data.
        teacher: The `teacher` section of the configuration.

    Returns:
        The number for "valid" and for "test"; None where nothing is known.

    Raises:
        DataError: If a table cannot be read, or lacks the columns.
    """
    members = members_of(teacher)
    own = any(
        isinstance(m, ReferenceTeacherConfig | LinearTeacherConfig) for m in members
    )
    declared = [getattr(member, "trained_on", None) for member in members]
    tables = [_read_declared(path) for path in declared if path is not None]
    if not (own or tables):
        return None
    known = [table["list_id"].to_numpy() for table in tables if _has_ids(table)]
    if own:
        known += [_list_ids(path) for path in prepared.shards("train")]
    ids = np.concatenate([np.array([], "int64"), *known])
    pairs = [_pairs(table) for table in tables if not _has_ids(table)]
    counts = dict.fromkeys(HELD_OUT, 0)
    for split in HELD_OUT:
        for path in prepared.shards(split):
            trained = np.isin(_list_ids(path), ids)
            if pairs:
                trained |= _declared_pairs(read_lists(path), prepared, pairs)
            counts[split] += int(trained.sum())
    return counts


def check_sound(
    config: Config, teacher: Artefact, trained_on: Mapping[str, int] | None
) -> None:
    """Stops a run whose teacher is no good whatever it is compared with.

    Args:
        config: The pipeline's configuration.
        teacher: What the `teacher` step left.
        trained_on: From `lists_trained_on`.

    Raises:
        GateError: If the run has to stop.
    """
    reasons = _unsound(Faults(**teacher.record["faults"]), trained_on)
    if reasons and config.distill.gate == "stop":
        raise GateError(
            f"The teacher {' and '.join(reasons)}. Scoring with it would waste the "
            "run. Mend the teacher, or go on all the same with --set distill.gate=warn."
        )


def judge_teacher(
    config: Config,
    teacher: Artefact,
    baseline: Artefact,
    trained_on: Mapping[str, int] | None,
) -> GatePart:
    """The gate's word on what the steps `teacher` and `student` left.

    Args:
        config: The pipeline's configuration.
        teacher: The teacher, with its rows and those of popularity on validation.
        baseline: The student without distillation, with its rows.
        trained_on: From `lists_trained_on`.
    """
    return decide(
        pq.read_table(teacher.path / "valid.parquet"),
        {
            "popularity": pq.read_table(teacher.path / "valid-popularity.parquet"),
            "baseline": pq.read_table(baseline.path / "valid.parquet"),
        },
        config.evaluate.metrics[0],
        samples=config.evaluate.bootstrap,
        seed=config.seed,
        override=config.distill.gate == "warn",
        faults=Faults(**teacher.record["faults"]),
        trained_on=trained_on,
    )


def enter(gate: GatePart) -> str | None:
    """Goes through the gate, if it is open or overridden.

    Args:
        gate: Its word.

    Returns:
        What to say where it was overridden; None where it is open.

    Raises:
        GateError: If it is closed.
    """
    if gate.passed:
        return None
    if gate.overridden:
        return f"{gate.message} The run goes on: distill.gate=warn."
    raise GateError(
        f"{gate.message} Distilling it would waste the run. Improve the teacher, or go "
        "on all the same with --set distill.gate=warn."
    )


def decide(
    teacher: pa.Table,
    others: Mapping[str, pa.Table],
    metric: str,
    *,
    samples: int,
    seed: int,
    override: bool,
    faults: Faults,
    trained_on: Mapping[str, int] | None,
) -> GatePart:
    """The gate's word.

    Args:
        teacher: Rows of the teacher on the validation lists.
        others: Rows of what it must beat, by name.
        metric: The metric that counts.
        samples: Resamples of the queries.
        seed: Seeds them.
        override: Whether the run goes on all the same.
        faults: What is wrong with its scores.
        trained_on: From `lists_trained_on`.
    """
    differences: dict[str, Interval] = {
        f"teacher_minus_{name}": paired_difference(
            teacher, rows, [metric], samples=samples, seed=seed
        )[metric]
        for name, rows in others.items()
    }
    beaten_by = [
        name.removeprefix("teacher_minus_").replace("_", " ")
        for name, gap in differences.items()
        if not (gap.excludes(0.0) and (gap.value or 0.0) > 0.0)
    ]
    reasons = _unsound(faults, trained_on)
    if beaten_by:
        reasons.insert(0, f"does not beat {' and '.join(beaten_by)} beyond noise")
    figures = "; ".join(
        f"{n.replace('_', ' ')} {_shown(g)}" for n, g in differences.items()
    )
    verdict = f"The teacher {' and '.join(reasons) or 'is worth distilling'}"
    return GatePart(
        passed=not reasons,
        overridden=bool(reasons) and override,
        message=f"{verdict}: {metric} on validation, {figures}.",
        differences=differences,
        lists=faults.lists,
        constant_lists=faults.constant,
        not_finite=faults.not_finite,
        trained_on=None if trained_on is None else dict(trained_on),
    )


def _unsound(faults: Faults, trained_on: Mapping[str, int] | None) -> list[str]:
    reasons = []
    if faults.not_finite:
        reasons.append(
            f"gives {faults.not_finite:,} NaN or infinite scores in "
            f"{faults.lists:,} validation lists"
        )
    if faults.constant > MOST_CONSTANT * faults.lists:
        reasons.append(
            f"gives all candidates the same score in {faults.constant:,} of "
            f"{faults.lists:,} validation lists"
        )
    if trained_on is not None and any(trained_on.values()):
        reasons.append(
            f"was trained on {trained_on['valid']:,} of the validation lists and "
            f"{trained_on['test']:,} of the test lists"
        )
    return reasons


def _shown(gap: Interval) -> str:
    if gap.value is None or gap.low is None or gap.high is None:
        return f"unknown ({gap.reason})"
    return f"{gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"


def _read_declared(path: Path) -> pa.Table:
    csv = path.suffix.lower() == ".csv"
    try:
        table = pacsv.read_csv(path) if csv else pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"Cannot read `teacher.trained_on` {path} as CSV or Parquet: {error}"
        ) from error
    if not (_has_ids(table) or {"query_id", "item_id"} <= {*table.column_names}):
        raise DataError(
            "`teacher.trained_on` must have a column list_id of integers, or the "
            f"columns query_id and item_id. Received: {path} with "
            f"{', '.join(table.column_names)}"
        )
    return table


def _has_ids(table: pa.Table) -> bool:
    return "list_id" in table.column_names and pa.types.is_integer(
        table.schema.field("list_id").type
    )


def _list_ids(path: Path) -> np.ndarray:
    return np.asarray(pq.read_table(path, columns=["list_id"])["list_id"])


def _pairs(table: pa.Table) -> set[tuple[str, str]]:
    query, item = (
        table[name].cast(pa.string()).to_pylist() for name in ("query_id", "item_id")
    )
    return set(zip(query, item, strict=True))


def _declared_pairs(
    lists: Lists, prepared: Prepared, pairs: Iterable[set[tuple[str, str]]]
) -> np.ndarray:
    """`(lists,)` bool: whose query and positive are declared, and not for training."""
    encoder = prepared.schema.items
    names = prepared.items[encoder.spec.column or encoder.feature]
    ids = names.cast(pa.string()).to_pylist()
    trained = np.zeros(len(lists), bool)
    for row, item in zip(
        lists.positives.row_numbers(), lists.positives.values, strict=True
    ):
        if item < 0 or trained[row]:
            continue
        pair = (str(lists.query_id[row]), ids[item])
        if any(pair in each for each in pairs):
            own = prepared.training_rows.take(lists.query_row[row : row + 1]).values
            trained[row] = prepared.item_index[item] not in own
    return trained
