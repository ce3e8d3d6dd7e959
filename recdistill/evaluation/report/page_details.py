"""Content of the report page that is not in `report.json`, and its JSON file.

With it, `recdistill report` renders the page again without the models and the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from recdistill.atomic import atomic_write
from recdistill.errors import ReportError
from recdistill.evaluation.report.run_report import ModelPart


@dataclass(frozen=True)
class QueryExample:
    """One test query with its history and the first items of three models.

    Attributes:
        query: Id of the query.
        history: Items that the query interacted with before, the latest first.
        chosen: Items that the query chose next: the positives of the list.
        top: First items of "teacher", "distilled" and "baseline", the best first.
        overlap: Share of the teacher's first items that are in the student's.
    """

    query: str
    history: Sequence[str]
    chosen: Sequence[str]
    top: Mapping[str, Sequence[str]]
    overlap: float


@dataclass(frozen=True)
class TrainingRun:
    """Curve of one training run.

    Attributes:
        name: What distinguishes it from other runs of the same model, such as its
            learning rate.
        validation: The validation metric after each epoch; None if training diverged.
        epoch_steps: Number of training steps in an epoch.
        curve: Losses, "learning_rate" and "gradient_norm" at the training steps under
            "step".
    """

    name: str
    validation: Sequence[float | None]
    epoch_steps: int
    curve: Mapping[str, Sequence[float | None]]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TrainingRun:
        """The run of a training result in the record of a step."""
        return cls(
            name=record.get("model") or f"learning rate {record['learning_rate']:g}",
            validation=record["history"],
            epoch_steps=record["epoch_steps"],
            curve=record["curve"],
        )

    @property
    def best(self) -> float:
        """The best validation metric; minus infinity if there is none."""
        return max((v for v in self.validation if v is not None), default=-float("inf"))


@dataclass(frozen=True)
class PageDetails:
    """Content of the page that is not in `report.json`.

    Attributes:
        training: Training runs by model: "baseline", "distilled" and "teacher". The run
            whose weights were kept is the first of a student.
        examination: Result of the score doctor, in the form of
            `recdistill.distillation.Examination`; None if unknown.
        examples: Test queries to look at.
        variants: Distilled students with other settings in the same evaluation, by the
            settings that differ, for the Pareto front.
    """

    training: Mapping[str, Sequence[TrainingRun]] = field(default_factory=dict)
    examination: Mapping[str, Any] | None = None
    examples: Sequence[QueryExample] = ()
    variants: Mapping[str, ModelPart] = field(default_factory=dict)


_DETAILS = TypeAdapter(PageDetails)


def save_details(details: PageDetails, path: Path) -> None:
    """Writes the details as JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(_DETAILS.dump_json(details))


def load_details(path: Path) -> PageDetails:
    """Reads what `save_details` wrote.

    Raises:
        ReportError: If an earlier or later version with other content wrote the file.
    """
    try:
        return _DETAILS.validate_json(path.read_bytes())
    except ValidationError as error:
        raise ReportError(
            f"{path} does not have the content of a report page: "
            f"{error.errors()[0]['msg']}. Run `recdistill evaluate` again."
        ) from error
