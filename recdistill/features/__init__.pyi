from .encoders import build_encoder
from .schema import Schema
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
