"""The `split` section: training, validation and test parts."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from recdistill.pipeline.config.section import Section


class SplitConfig(Section):
    """Split by time into a training, a validation and a test part."""

    by: Literal["query_time", "global_time"] = Field(
        default="query_time",
        description="`query_time` holds out the last share of each query's "
        "interactions; `global_time` holds out all interactions after one moment.",
    )
    valid: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Share of the interactions for validation, just before the test "
        "part.",
    )
    test: float = Field(
        default=0.1, gt=0, lt=1, description="Share of the interactions for the test."
    )

    @model_validator(mode="after")
    def _leaves_training_data(self) -> Self:
        if self.valid + self.test >= 1:
            raise ValueError(
                "`valid` and `test` must add up to less than 1, or nothing is left for "
                f"training. Received: valid={self.valid}, test={self.test}"
            )
        return self
