"""The `split` section: training, validation and test parts."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from recdistill.pipeline.config.section import Section


class SplitConfig(Section):
    """Split into a training, a validation and a test part."""

    by: Literal["query_time", "global_time", "leave_last_out", "leave_random_out"] = (
        Field(
            default="query_time",
            description="`query_time` holds out the last share of each query's lists; "
            "`leave_last_out` holds out the last `held_out` lists of each query; "
            "`global_time` holds out all interactions after one moment; "
            "`leave_random_out` is for data without times: it draws the order of each "
            "query's interactions with `seed`, then holds out the last `held_out`. "
            "Interactions of the same query and time are one list.",
        )
    )
    valid: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Share of the lists for validation, just before the test part.",
    )
    test: float = Field(
        default=0.1, gt=0, lt=1, description="Share of the lists for the test."
    )
    held_out: int = Field(
        default=1,
        ge=1,
        le=1_000_000,
        description="Lists of each query for the test, and as many for validation, for "
        "`leave_last_out` and `leave_random_out`. Queries with at most twice as many "
        "are for training only.",
    )

    @model_validator(mode="after")
    def _keys_fit_the_split(self) -> Self:
        by_number = self.by in ("leave_last_out", "leave_random_out")
        unused = {"valid", "test"} if by_number else {"held_out"}
        for key in sorted(unused & self.model_fields_set):
            raise ValueError(
                f"`{key}` has no meaning for by={self.by!r}. Use "
                f"{'`held_out`' if by_number else '`valid` and `test`'}. "
                f"Received: {key}={getattr(self, key)}"
            )
        return self

    @model_validator(mode="after")
    def _leaves_training_data(self) -> Self:
        if self.valid + self.test >= 1:
            raise ValueError(
                "`valid` and `test` must add up to less than 1, or nothing is left for "
                f"training. Received: valid={self.valid}, test={self.test}"
            )
        return self

    @property
    def test_part(self) -> str:
        """The interactions of the test part, in words for the report."""
        if self.by == "query_time":
            return f"the last {self.test:.0%} of each query's lists"
        if self.by == "global_time":
            return f"the last {self.test:.0%} of all interactions"
        one = self.held_out == 1
        if self.by == "leave_last_out":
            last = "list" if one else f"{self.held_out} lists"
            return f"the last {last} of each query"
        some = "one interaction" if one else f"{self.held_out} interactions"
        return f"{some} of each query in an order drawn at random, without times"
