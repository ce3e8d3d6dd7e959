"""The `sweep` section: the students that `recdistill sweep` compares."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, Field

from recdistill.pipeline.config.export_section import Storage
from recdistill.pipeline.config.search_space import Choices, parse_space
from recdistill.pipeline.config.section import Section
from recdistill.pipeline.config.student_section import StudentConfig

WIDTHS = (8, 16, 32, 64)
"""Widths of the students that are compared by default."""

ENCODERS = (None, "attention", "gru")
"""Encoders of the history that are compared by default."""

STORAGES: tuple[str, ...] = get_args(Storage)
"""Types of stored item embeddings that are compared by default."""

STORAGE = "export.storage"
"""Key of the type of the stored item embeddings, which needs no training."""

Settings = Mapping[str, Any]
"""Values of the configuration by dotted key."""


def _lists_of_student(table: dict[str, Any]) -> dict[str, Any]:
    for key, each in parse_space(table, "vary", [STORAGE]).items():
        known = key.startswith("student.") or key == STORAGE
        if not isinstance(each, Choices) or not known:
            raise ValueError(
                f"must have keys of `student`, or `{STORAGE}`, with a list of values "
                f"each, such as student.dim = [8, 16]. Received: {key}"
            )
    return table


class SweepConfig(Section):
    """The students of `recdistill sweep`."""

    vary: Annotated[dict[str, Any], AfterValidator(_lists_of_student)] = Field(
        default_factory=dict,
        description="Keys of `student` with a list of values each, such as "
        "`student.dim = [8, 16, 32]`; all combinations are compared. By default the "
        f"widths {', '.join(map(str, WIDTHS[:-1]))} and {WIDTHS[-1]} and the "
        "configured one, and with the configured width each encoder of the history. "
        f"Each student is exported with each `{STORAGE}` listed here; by default with "
        f"{', '.join(STORAGES[:-1])} and {STORAGES[-1]}.",
    )

    def students(self, student: StudentConfig, has_history: bool) -> list[Settings]:
        """The settings of each student.

        By default these are the widths with the configured encoder of the history, and
        the other encoders with the configured width, each with every type of stored
        item embeddings.

        Args:
            student: The configured student.
            has_history: Whether the query has a history.
        """
        space = parse_space(self.vary, "sweep.vary", [STORAGE]).items()
        lists = {k: each.values for k, each in space if isinstance(each, Choices)}
        storages = lists.pop(STORAGE, STORAGES)
        if lists:
            grid = itertools.product(*lists.values())
            trained = [dict(zip(lists, values, strict=True)) for values in grid]
        elif student.factory is not None:
            trained = [{}] if self.vary else []
        else:
            trained = _widths_and_encoders(student, has_history)
        return [{**each, STORAGE: kind} for each in trained for kind in storages]


def _widths_and_encoders(
    student: StudentConfig, has_history: bool
) -> list[dict[str, Any]]:
    widths = sorted({*WIDTHS, student.dim})
    pairs: list[tuple[int, str | None]] = [(d, student.encoder) for d in widths]
    if has_history:
        pairs += [(student.dim, e) for e in ENCODERS if e != student.encoder]
    return [{"student.dim": dim, "student.encoder": e} for dim, e in pairs]
