"""Base class of the sections of a configuration."""

from __future__ import annotations

from typing import Any

from recdistill.features.settings import Settings


class Section(Settings):
    """A section of the configuration."""

    def part(self, kind: type[Section]) -> dict[str, Any]:
        """The keys that this section inherits from `kind`, as keyword arguments.

        Args:
            kind: A base class of this section, such as the arguments of a model.
        """
        return self.model_dump(include=set(kind.model_fields) - {"kind"})
