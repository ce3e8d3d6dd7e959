"""The `guard` section: how much a slice may fall below the baseline."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recdistill.pipeline.config.section import Section


class GuardConfig(Section):
    """How much the distilled student may fall below the baseline on a slice."""

    largest_fall: float = Field(
        default=0.1,
        ge=0.0,
        lt=1.0,
        description="Largest share of the baseline's first metric that the distilled "
        "student may lose on a slice of the test lists. A larger fall counts only if "
        "it is beyond noise.",
    )
    action: Literal["warn", "stop"] = Field(
        default="warn",
        description='"stop" ends the run before the export, with exit code 3, if a '
        'slice has fallen; "warn" prints a warning and goes on.',
    )
