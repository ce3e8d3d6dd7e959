"""The `sweep` section: the students that `recdistill sweep` compares."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from recdistill.pipeline.config.search_space import Choices, parse_space
from recdistill.pipeline.config.section import Section

WIDTHS = (8, 16, 32, 64)
"""Widths of the students that are compared by default."""


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
        f"widths {', '.join(map(str, WIDTHS[:-1]))} and {WIDTHS[-1]}, and the "
        "configured one.",
    )

    def choices(self, configured_dim: int | None) -> dict[str, tuple[Any, ...]]:
        """The values of each key.

        Args:
            configured_dim: The configured width; None if the student has none.
        """
        if not self.vary and configured_dim is not None:
            return {"student.dim": tuple(sorted({*WIDTHS, configured_dim}))}
        space = parse_space(self.vary, "sweep.vary")
        return {
            k: each.values for k, each in space.items() if isinstance(each, Choices)
        }
