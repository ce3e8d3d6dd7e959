"""The `tune` section: the search for the settings that are best on validation."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from recdistill.pipeline.config.budget import parse_duration
from recdistill.pipeline.config.search_space import SearchSpace, parse_space
from recdistill.pipeline.config.section import Section


def _seconds(value: Any) -> Any:
    """Seconds of a duration; values that are not text are unchanged."""
    return parse_duration(value) if isinstance(value, str) else value


def _searchable(table: dict[str, Any]) -> dict[str, Any]:
    parse_space(table, "search")
    return table


class TuneConfig(Section):
    """The search of `recdistill tune`."""

    trials: int = Field(
        default=40,
        gt=0,
        le=100_000,
        description="Number of trials: students that are trained with different "
        "settings.",
    )
    timeout: Annotated[float, BeforeValidator(_seconds), Field(gt=0)] | None = Field(
        default=None,
        description='Time after which no new trial starts, such as "30min" or "2h", or '
        "a number of seconds. No limit by default.",
    )
    search: Annotated[dict[str, Any], AfterValidator(_searchable)] = Field(
        default_factory=dict,
        description="What is searched: for keys of `student`, `distill` and `lists` a "
        "list of values or a range, such as `student.dim = [16, 32]` and "
        "`distill.weight = { low = 0.3, high = 1.0 }`. By default the transform and "
        "the temperature of the teacher's scores, the weight of the distillation loss, "
        "learning rate, width and dropout of the student, and the sizes of retrieved "
        "lists.",
    )

    @property
    def space(self) -> SearchSpace:
        """The configured search space by dotted key; empty for the default."""
        return parse_space(self.search, "tune.search")
