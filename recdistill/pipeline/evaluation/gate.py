"""The gate: whether a teacher is worth distilling, decided on validation.

A student can be at most about as good as its teacher, so the teacher must

- give finite scores, and scores that differ within most lists;
- not have been trained on the held-out lists, as far as that is known;
- be better than popularity and than the baseline by more than the noise between
  queries.

Otherwise the run stops before distillation and reports the figures, unless
`distill.gate` is "warn". The first two conditions are also checked before the training
lists are scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.errors import GateError
from recdistill.evaluation.intervals import Interval, paired_difference
from recdistill.evaluation.report.run_report import GatePart
from recdistill.pipeline.artefacts.artefact import Artefact
from recdistill.pipeline.config import Config
from recdistill.pipeline.models.scorers import Scorer

MOST_CONSTANT = 0.5
"""Largest share of lists whose candidates may all have the same score.

A few are usual: a linear item model gives such scores to a query without history.
"""


class CheckedScorer:
    """A scorer that counts faults: scores that are not finite, and constant lists.

    Scores that are NaN or infinite become the lowest of their list, so that the
    teacher can be evaluated, and rejected, like one with finite scores.

    Args:
        score: A batch to scores `(batch, list_size)`.

    Attributes:
        faults: The faults so far.
        probabilities: Whether all scores so far are between 0 and 1.
    """

    def __init__(self, score: Scorer) -> None:
        self._score = score
        self.probabilities = True
        self.faults = Faults(lists=0, constant=0, not_finite=0)

    def __call__(self, x: Mapping[str, Any]) -> np.ndarray:
        """The scores `(batch, list_size)`, all finite."""
        scores, mask = np.asarray(self._score(x)), np.asarray(x["mask"])
        not_finite = mask & ~np.isfinite(scores)
        finite = mask & ~not_finite
        low = np.min(scores, axis=1, where=finite, initial=np.finfo(scores.dtype).max)
        high = np.max(scores, axis=1, where=finite, initial=np.finfo(scores.dtype).min)
        several = finite.sum(axis=1) > 1
        within = (low >= 0) & (high <= 1) | ~finite.any(axis=1)
        self.probabilities &= bool(within.all())
        self.faults = Faults(
            lists=self.faults.lists + len(scores),
            constant=self.faults.constant + int((several & (low >= high)).sum()),
            not_finite=self.faults.not_finite + int(not_finite.sum()),
        )
        return np.where(np.isfinite(scores), scores, np.finfo(scores.dtype).min)


@dataclass(frozen=True)
class Faults:
    """Faults in a teacher's scores of the validation lists.

    Attributes:
        lists: Number of lists that were scored.
        constant: Number of lists whose candidates all have the same score.
        not_finite: Number of scores that are NaN or infinite.
    """

    lists: int
    constant: int
    not_finite: int


def check_usable(
    config: Config, teacher: Artefact, trained_on: Mapping[str, int] | None
) -> None:
    """Stops a run whose teacher has unusable scores or has seen held-out lists.

    Args:
        config: The pipeline's configuration.
        teacher: The artefact of the step `teacher`.
        trained_on: From `lists_trained_on`.

    Raises:
        GateError: If the teacher is unusable and `distill.gate` is "stop".
    """
    reasons = _faults(Faults(**teacher.record["faults"]), trained_on)
    if reasons and config.distill.gate == "stop":
        raise GateError(
            f"The teacher {' and '.join(reasons)}. The run stops before the teacher "
            "scores the training lists. Fix the teacher, or override the check with "
            "--set distill.gate=warn."
        )


def compare_on_validation(
    config: Config,
    teacher: Artefact,
    teacher_rows: Path,
    baseline: Artefact,
    trained_on: Mapping[str, int] | None,
    prepared: Artefact,
) -> GatePart:
    """Decides on the artefacts of the steps `teacher` and `baseline`.

    Args:
        config: The pipeline's configuration.
        teacher: The teacher, with the metrics of popularity on validation.
        teacher_rows: File with the teacher's metrics on validation, over the catalogue
            or over retrieved candidates. Those of the others are over the catalogue.
        baseline: The baseline, with its metrics on validation.
        trained_on: From `lists_trained_on`.
        prepared: The prepared data, with the number of repeats.
    """
    gate = decide(
        pq.read_table(teacher_rows),
        {
            "popularity": pq.read_table(teacher.file("valid_popularity.parquet")),
            "baseline": pq.read_table(baseline.file("valid.parquet")),
        },
        config.evaluate.metrics[0],
        samples=config.evaluate.bootstrap,
        seed=config.seed,
        override=config.distill.gate == "warn",
        faults=Faults(**teacher.record["faults"]),
        trained_on=trained_on,
    )
    counts = prepared.record
    repeats = counts["repeats"]["valid"] if counts["seen"] == "include" else 0
    if not repeats:
        return gate
    message = (
        f"{gate.message} {repeats:,} of {counts['lists']['valid']:,} validation lists "
        "have an item that the query also has in the training part, because seen items "
        "are candidates."
    )
    return gate.model_copy(update={"repeats": repeats, "message": message})


def enter(gate: GatePart) -> str | None:
    """Raises an error unless the teacher passed or the check is overridden.

    Args:
        gate: The decision.

    Returns:
        A warning if the check was overridden; else None.

    Raises:
        GateError: If the teacher did not pass.
    """
    if gate.passed:
        return None
    if gate.overridden:
        return f"{gate.message} The run continues because distill.gate is warn."
    raise GateError(
        f"{gate.message} The run stops before distillation. Improve the teacher, or "
        "override the check with --set distill.gate=warn."
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
    """Decides whether a teacher is worth distilling.

    Args:
        teacher: Metrics of the teacher, one row per validation list.
        others: The same for the models that it must beat, by name.
        metric: The metric that decides.
        samples: Resamples of the queries.
        seed: Seed of the resamples.
        override: Whether the run continues if the teacher does not pass.
        faults: Faults in the teacher's scores.
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
    reasons = _faults(faults, trained_on)
    if beaten_by:
        names = ["the baseline" if each == "baseline" else each for each in beaten_by]
        reasons.insert(0, f"does not beat {' and '.join(names)} beyond noise")
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


def _faults(faults: Faults, trained_on: Mapping[str, int] | None) -> list[str]:
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
