"""The `sweep` section: the students that `recdistill sweep` compares."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from recdistill.pipeline.config.search_space import Choices, parse_space
from recdistill.pipeline.config.section import Section
from recdistill.pipeline.config.student_section import StudentConfig

WIDTHS = (8, 16, 32, 64)
"""Widths of the students that are compared by default."""

ENCODERS = (None, "attention", "gru")
"""Encoders of the history that are compared by default."""

Settings = Mapping[str, Any]
"""Values of the configuration by dotted key."""


def _lists_of_student(table: dict[str, Any]) -> dict[str, Any]:
    for key, each in parse_space(table, "vary").items():
        if not isinstance(each, Choices) or not key.startswith("student."):
            raise ValueError(
                "must have keys of `student` with a list of values each, such as "
                f"student.dim = [8, 16]. Received: {key}"
            )
    return table


class SweepConfig(Section):
    """The students of `recdistill sweep`."""

    vary: Annotated[dict[str, Any], AfterValidator(_lists_of_student)] = Field(
        default_factory=dict,
        description="Keys of `student` with a list of values each, such as "
        "`student.dim = [8, 16, 32]`; all combinations are compared. By default the "
        f"widths {', '.join(map(str, WIDTHS[:-1]))} and {WIDTHS[-1]} and the "
        "configured one, and with the configured width each encoder of the history.",
    )

    def students(self, student: StudentConfig, has_history: bool) -> list[Settings]:
        """The settings of each student.

        By default these are the widths with the configured encoder of the history, and
        the other encoders with the configured width.

        Args:
            student: The configured student.
            has_history: Whether the query has a history.
        """
        if self.vary:
            space = parse_space(self.vary, "sweep.vary").items()
            lists = {k: each.values for k, each in space if isinstance(each, Choices)}
            grid = itertools.product(*lists.values())
            return [dict(zip(lists, values, strict=True)) for values in grid]
        if student.factory is not None:
            return []
        widths = sorted({*WIDTHS, student.dim})
        pairs: list[tuple[int, str | None]] = [(d, student.encoder) for d in widths]
        if has_history:
            pairs += [(student.dim, e) for e in ENCODERS if e != student.encoder]
        return [{"student.dim": dim, "student.encoder": e} for dim, e in pairs]
