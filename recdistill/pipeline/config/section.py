"""Base class of the sections of a configuration."""

from __future__ import annotations

from typing import Any, Self

from recdistill.features.settings import Settings


class Section(Settings):
    """A section of the configuration."""

    def part(self, kind: type[Section]) -> dict[str, Any]:
        """The keys that this section inherits from `kind`, as keyword arguments.

        Args:
            kind: A base class of this section, such as the arguments of a model.
        """
        return self.model_dump(include=set(kind.model_fields) - {"kind"})

    def _needs(self, key: str, setting: str) -> Self:
        """This section; an error if it has keys, but not the one that uses them."""
        given = sorted(self.model_fields_set)
        if given and key not in given:
            raise ValueError(
                f"`{key}` must be given beside `{given[0]}`, which has no meaning "
                f"without `{setting}`. Received: no `{key}`"
            )
        return self
