from .encoders import Schema, build_encoder
from .specs import (
    AffinitySpec,
    CategoriesSpec,
    CategorySpec,
    HistorySpec,
    IdSpec,
    NumberSpec,
    TextSpec,
    VectorSpec,
    raw_values,
)

__all__ = [
    "AffinitySpec",
    "CategoriesSpec",
    "CategorySpec",
    "HistorySpec",
    "IdSpec",
    "NumberSpec",
    "Schema",
    "TextSpec",
    "VectorSpec",
    "build_encoder",
    "raw_values",
]
