"""Base class of the sections of a configuration."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of the configuration: immutable, and unknown keys are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    def part(self, kind: type[Section]) -> dict[str, Any]:
        """The keys that this section inherits from `kind`, as keyword arguments.

        Args:
            kind: A base class of this section, such as the arguments of a model.
        """
        return self.model_dump(include=set(kind.model_fields) - {"kind"})
