"""Feature specifications of a configuration, and raw values from table columns.

How a raw value is encoded for a model is in `recdistill.features.encoders`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from recdistill.errors import DataError

LARGEST_FLOAT = float(np.finfo("float32").max)


class FeatureSpec(BaseModel):
    """Base class of feature specifications; each kind has a subclass.

    Attributes:
        kind: Kind of the feature.
        column: Column of the table with the values (default: the feature's name).
        teacher_only: True for a privileged feature, which the student never reads.
        optional: True if values may be missing (null, "" or NaN).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: str
    column: str | None = None
    teacher_only: bool = False
    optional: bool = False


class IdSpec(FeatureSpec):
    """An identifier, with one embedding for each value in the training part."""

    kind: Literal["id"] = "id"


class CategorySpec(FeatureSpec):
    """One value of a fixed set, such as an occupation."""

    kind: Literal["category"] = "category"


class CategoriesSpec(FeatureSpec):
    """Several values of a fixed set, such as genres: a list, or text with a separator.

    An empty set is a valid value and does not count as missing.
    """

    kind: Literal["categories"] = "categories"
    separator: str | None = Field(default=None, min_length=1)


class NumberSpec(FeatureSpec):
    """A number, standardised by the mean and deviation of the training part."""

    kind: Literal["number"] = "number"


class TextSpec(FeatureSpec):
    """Free text: the first `length` words, in lower case, hashed into `buckets`."""

    kind: Literal["text"] = "text"
    buckets: int = Field(default=4096, gt=0)
    length: int = Field(default=16, gt=0)


class VectorSpec(FeatureSpec):
    """A precomputed embedding, a list of `size` floats."""

    kind: Literal["vector"] = "vector"
    size: int = Field(gt=0)


class HistorySpec(FeatureSpec):
    """The last `length` items that the query chose before the example."""

    kind: Literal["history"] = "history"
    length: int = Field(default=50, gt=0)


class AffinitySpec(FeatureSpec):
    """Item-to-item affinity of a history and a candidate, by a linear model (EASE).

    The model (`recdistill.models.linear`) is fitted on the training part. The affinity
    is a feature of the pair, so a two-tower student cannot read it.

    Attributes:
        l2: Ridge penalty of the item model, in interactions.
        decay: Weight of a history item relative to the next more recent one.
        floor: Weight that even the oldest history item keeps.
        max_items: Largest number of items in the model, the most frequent ones: its
            matrix is dense.
    """

    kind: Literal["affinity"] = "affinity"
    teacher_only: bool = True
    l2: float = Field(default=300.0, gt=0)
    decay: float = Field(default=0.9, gt=0, le=1)
    floor: float = Field(default=0.05, ge=0, le=1)
    max_items: int = Field(default=20_000, gt=0)

    @model_validator(mode="after")
    def _is_privileged(self) -> AffinitySpec:
        if not self.teacher_only:
            raise ValueError(
                "`teacher_only` must be true for kind 'affinity', a feature of query "
                "and candidate together. Received: teacher_only=false"
            )
        return self


QuerySpec = Annotated[
    IdSpec
    | CategorySpec
    | CategoriesSpec
    | NumberSpec
    | TextSpec
    | VectorSpec
    | HistorySpec,
    Field(discriminator="kind"),
]
CandidateSpec = Annotated[
    IdSpec
    | CategorySpec
    | CategoriesSpec
    | NumberSpec
    | TextSpec
    | VectorSpec
    | AffinitySpec,
    Field(discriminator="kind"),
]


def raw_values(
    column: pa.ChunkedArray,
    spec: FeatureSpec,
    *,
    table: str,
    name: str,
    rows: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """Converts a table's column to raw values, the input of an encoder's lookup.

    Args:
        column: `(rows,)`, as read from the table.
        spec: The feature's specification.
        table: Name of the table, for error messages.
        name: Name of the column, for error messages.
        rows: Row number of each value, counted from 1, for error messages (default:
            1, 2, …).

    Returns:
        `(rows,)` strings, "" if missing; `(rows,)` float32, NaN if missing; `(rows, n)`
        strings padded with ""; or `(rows, size)` float32.

    Raises:
        DataError: If a value is missing and the feature is not optional, if it has the
            wrong type, or if a number does not fit into a float32. The message names
            table, column and row.

    Example:
        >>> column = pa.chunked_array([["Action|Drama", None, " Action "]])
        >>> spec = CategoriesSpec(separator="|")
        >>> raw_values(column, spec, table="items", name="genres")
        array([['Action', 'Drama'],
               ['', ''],
               ['Action', '']], dtype=object)
    """
    values = column.to_pylist()
    convert = {
        "number": _raw_number,
        "vector": _raw_vector,
        "categories": _raw_categories,
    }.get(spec.kind, _raw_string)
    raw: list[Any] = []
    numbers = range(1, len(values) + 1) if rows is None else rows
    for row, value in zip(numbers, values, strict=True):
        missing = value is None or value == "" or value != value
        if missing and not spec.optional and spec.kind != "categories":
            raise DataError(
                f"Table `{table}`, column `{name}`, row {row}: the value is missing. "
                f"Fill it in, or set `optional = true` for this feature."
            )
        try:
            raw.append(convert(None if missing else value, spec))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"Table `{table}`, column `{name}`, row {row}: expected a value for "
                f"kind {spec.kind!r}. Received: {value!r} ({error})"
            ) from error
    if isinstance(spec, CategoriesSpec):
        return pad_strings(raw)
    if isinstance(spec, VectorSpec):
        return np.asarray(raw, "float32").reshape(-1, spec.size)
    return np.asarray(raw, "float32" if spec.kind == "number" else object)


def pad_strings(rows: Sequence[Sequence[str]]) -> np.ndarray:
    """Lists of strings as one array `(rows, longest)`, padded with "" on the right."""
    width = max([1, *map(len, rows)])
    padded = np.full((len(rows), width), "", object)
    for k, row in enumerate(rows):
        padded[k, : len(row)] = row
    return padded


def _raw_string(value: Any, spec: FeatureSpec) -> str:
    if isinstance(value, list | dict | bytes):
        raise TypeError("it must be one value: text or a number")
    return "" if value is None else str(value)


def _raw_number(value: Any, spec: FeatureSpec) -> float:
    number = float("nan") if value is None else float(value)
    if abs(number) > LARGEST_FLOAT:
        raise ValueError("it must be finite, as a float32")
    return number


def _raw_vector(value: Any, spec: FeatureSpec) -> list[float]:
    if not isinstance(spec, VectorSpec):
        raise TypeError("not a vector feature")
    if value is None:
        return [0.0] * spec.size
    if isinstance(value, str):
        raise TypeError("it must be a list, not text")
    vector = [float(v) for v in value]
    finite = all(abs(v) <= LARGEST_FLOAT for v in vector)
    if len(vector) != spec.size or not finite:
        raise ValueError(f"it must hold {spec.size} finite numbers")
    return vector


def _raw_categories(value: Any, spec: FeatureSpec) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        separator = getattr(spec, "separator", None)
        parts = value.split(separator) if separator else [value]
        return [part.strip() for part in parts if part.strip()]
    return [str(part) for part in value if part is not None and part != ""]


SPECS: dict[str, type[FeatureSpec]] = {
    "id": IdSpec,
    "category": CategorySpec,
    "categories": CategoriesSpec,
    "number": NumberSpec,
    "text": TextSpec,
    "vector": VectorSpec,
    "history": HistorySpec,
    "affinity": AffinitySpec,
}
