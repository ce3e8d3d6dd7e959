"""Model inputs: names and sizes of the looked-up features that a model reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from recdistill.features.encoders import Encoder, HistoryEncoder
from recdistill.features.schema import Schema


@dataclass(frozen=True)
class FeatureSize:
    """Size of a looked-up feature.

    Attributes:
        indices: Number of indices; None if the values are not indices.
        width: Width of the vectors; None if the values are indices.
    """

    indices: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class HistorySize:
    """Name and size of the query's history.

    Attributes:
        feature: Name of the feature.
        indices: Number of item indices.
        length: Largest number of items in a history.
    """

    feature: str
    indices: int
    length: int


@keras.saving.register_keras_serializable("recdistill")
@dataclass(frozen=True)
class ModelInputs:
    """Names and sizes of the looked-up features that a model reads.

    This is the part of a `Schema` that determines a model's weights. It does not
    contain vocabularies, so it is small enough for a Keras config.

    Attributes:
        query: Size of each query feature, by name, without the history.
        candidate: Size of each candidate feature, by name.
        item_id: Name of the candidate feature that identifies the item.
        history: The query's history; None if the query has no history.

    Examples:
        >>> from recdistill.features import IdSpec, build_encoder
        >>> item = build_encoder("item", IdSpec(), {"vocabulary": ["a", "b"]})
        >>> inputs = ModelInputs.of(Schema([], [item], {}, "item"))
        >>> inputs.candidate
        {'item': FeatureSize(indices=4, width=None)}
        >>> ModelInputs.from_config(inputs.get_config()) == inputs
        True
    """

    query: Mapping[str, FeatureSize]
    candidate: Mapping[str, FeatureSize]
    item_id: str
    history: HistorySize | None = None

    @classmethod
    def of(cls, schema: Schema | ModelInputs) -> ModelInputs:
        """The inputs of a model that reads all features of the schema."""
        if isinstance(schema, ModelInputs):
            return schema
        found = schema.history
        history = found and HistorySize(found.feature, found.size, found.length)
        return cls(
            _sizes(schema.query), _sizes(schema.candidate), schema.item_id, history
        )

    @property
    def history_name(self) -> str:
        """Name of the history; empty if the query has no history."""
        return self.history.feature if self.history else ""

    def query_names(self) -> tuple[str, ...]:
        """Names of all query features, including the history."""
        return (*self.query, *filter(None, [self.history_name]))

    def get_config(self) -> dict[str, Any]:
        """The attributes, JSON-ready."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelInputs:
        """Creates the inputs from `get_config`."""
        sides = {
            side: {name: FeatureSize(**size) for name, size in config[side].items()}
            for side in ("query", "candidate")
        }
        history = config["history"] and HistorySize(**config["history"])
        return cls(**sides, item_id=config["item_id"], history=history)


def indices_of(sizes: Mapping[str, FeatureSize]) -> dict[str, int | None]:
    """Number of indices of each feature, as `FeatureEmbedding` expects them."""
    return {name: size.indices for name, size in sizes.items()}


def width_of(sizes: Mapping[str, FeatureSize], dim: int) -> int:
    """Width of all features together after embedding with width `dim`."""
    return sum(dim if size.width is None else size.width for size in sizes.values())


def _sizes(encoders: Iterable[Encoder]) -> dict[str, FeatureSize]:
    return {
        e.feature: FeatureSize(e.size, e.width)
        for e in encoders
        if not isinstance(e, HistoryEncoder)
    }
