"""Unknown values: how many values of each feature its vocabulary does not have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from recdistill.features.encoders import (
    MISSING,
    UNKNOWN,
    Encoder,
    HistoryEncoder,
    VocabularyEncoder,
)

__all__ = ["UnknownValues", "in_words", "with_vocabulary"]


class UnknownValues:
    """Numbers of values and of unknown values, by feature.

    Missing values do not count.

    Examples:
        >>> found = UnknownValues()
        >>> found.add("genre", np.array([[2, 1], [3, 0]]))
        >>> found.shares()
        {'genre': 0.333333}
    """

    def __init__(self) -> None:
        self._values: dict[str, int] = {}
        self._unknown: dict[str, int] = {}

    def add(self, feature: str, index: np.ndarray) -> None:
        """Adds looked-up indices of a feature."""
        values, unknown = int((index != MISSING).sum()), int((index == UNKNOWN).sum())
        self._values[feature] = self._values.get(feature, 0) + values
        self._unknown[feature] = self._unknown.get(feature, 0) + unknown

    def update(self, other: UnknownValues) -> None:
        """Adds the numbers of another instance."""
        for name, values in other._values.items():
            self._values[name] = self._values.get(name, 0) + values
            self._unknown[name] = self._unknown.get(name, 0) + other._unknown[name]

    def shares(self) -> dict[str, float]:
        """Share of unknown values by feature; 0 for a feature without values."""
        return {
            name: round(self._unknown[name] / max(values, 1), 6)
            for name, values in self._values.items()
        }

    def everywhere(self) -> dict[str, int]:
        """Number of values of each feature whose values are all unknown."""
        return {
            name: values
            for name, values in self._values.items()
            if values and self._unknown[name] == values
        }


def with_vocabulary(encoders: Iterable[Encoder]) -> list[Encoder]:
    """The encoders of features whose values can be unknown."""
    kinds = VocabularyEncoder | HistoryEncoder
    return [encoder for encoder in encoders if isinstance(encoder, kinds)]


def in_words(shares: Mapping[str, float]) -> str:
    """Shares above 0 as text, the largest first; empty if there are none.

    Examples:
        >>> in_words({"club": 0.0, "brand": 0.0312, "item_id": 0.5})
        'item_id 50.0 %, brand 3.1 %'
    """
    ordered = sorted(shares.items(), key=lambda each: (-each[1], each[0]))
    return ", ".join(f"{name} {share:.1%}" for name, share in ordered if share).replace(
        "%", " %"
    )
