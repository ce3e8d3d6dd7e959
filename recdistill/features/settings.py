"""Base class of all user settings: features and configuration."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationInfo,
    field_validator,
    model_validator,
)

LARGEST_INT = int(np.iinfo("int32").max)
"""Largest whole number of a setting, because sizes are 32-bit numbers in the models."""

LARGEST_SEED = int(np.iinfo("uint32").max)
"""Largest seed of a random generator."""

LARGEST_FLOAT, SMALLEST_FLOAT = (
    float(np.finfo("float32").max),
    float(np.finfo("float32").tiny),
)
"""Largest and smallest magnitude of a number other than 0, because models compute with
32 bits."""


class Settings(BaseModel):
    """Settings: immutable, unknown keys are errors, and numbers fit into 32 bits.

    Attributes:
        LARGEST: The largest value of whole numbers with another limit, by key.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )
    LARGEST: ClassVar[Mapping[str, int]] = {}

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_no_booleans(cls, document: Any) -> Any:
        given = document if isinstance(document, dict) else {}
        for name in cls.model_fields.keys() & given.keys():
            found = given[name] if isinstance(given[name], list) else [given[name]]
            booleans = [each for each in found if isinstance(each, bool)]
            if booleans and cls.model_fields[name].annotation not in (bool, Any):
                raise ValueError(
                    f"`{name}` must not be true or false. Received: "
                    f"{str(booleans[0]).lower()}"
                )
        return document

    @field_validator("*", mode="after")
    @classmethod
    def _values_can_be_used(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        for each in _plain_values(value):
            fault = _fault(each, cls.LARGEST.get(name, LARGEST_INT))
            if fault is not None:
                shown = str(each) if isinstance(each, Path) else each
                raise ValueError(f"`{name}` {fault}. Received: {reprlib.repr(shown)}")
        return value


def _plain_values(value: Any) -> Iterator[Any]:
    """The value, or the values inside of tuples, lists and dicts."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield key
            yield from _plain_values(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _plain_values(each)
    else:
        yield value


def _fault(value: Any, largest: int) -> str | None:
    """Fault of a value that is neither a list nor a section; None if it is valid."""
    if isinstance(value, str | Path) and "\0" in str(value):
        return "must not have the character NUL"
    # Of two slashes, a path keeps one.
    if isinstance(value, Path) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(value)):
        return (
            "must be a path of the local file system. Only `dataset.path` and "
            "`workdir` may be a URL; mount the storage, or copy the files"
        )
    if isinstance(value, int) and abs(value) > largest:
        return f"must be a whole number of at most {largest}"
    if isinstance(value, float) and value != 0:
        if abs(value) > LARGEST_FLOAT:
            return f"must be at most {LARGEST_FLOAT:.3g}, as a 32-bit number"
        if abs(value) < SMALLEST_FLOAT:
            return f"must be 0 or at least {SMALLEST_FLOAT:.3g}, as a 32-bit number"
    return None
