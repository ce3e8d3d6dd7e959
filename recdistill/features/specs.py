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
    """Keys of all features."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: str
    column: str | None = Field(
        default=None,
        description="Column with the raw values. By default the name of the feature.",
    )
    teacher_only: bool = Field(
        default=False,
        description="Whether the feature is privileged: the student never sees it.",
    )
    optional: bool = Field(
        default=False,
        description='Whether missing values (null, "", NaN) are allowed.',
    )


class IdSpec(FeatureSpec):
    """An identifier, with one embedding for each value in the training part."""

    kind: Literal["id"] = "id"


class CategorySpec(FeatureSpec):
    """One value of a closed set, such as an occupation."""

    kind: Literal["category"] = "category"


class CategoriesSpec(FeatureSpec):
    """Several values at once, such as genres: a list, or text with a separator.

    An empty set of categories is a value, not a missing one.
    """

    kind: Literal["categories"] = "categories"
    separator: str | None = Field(
        default=None,
        min_length=1,
        description="Separator of the values in a text; by default they are lists.",
    )


class NumberSpec(FeatureSpec):
    """A number, standardised with the mean and deviation of the training part."""

    kind: Literal["number"] = "number"


class TextSpec(FeatureSpec):
    """Free text: hashed lower-case words."""

    kind: Literal["text"] = "text"
    buckets: int = Field(default=4096, gt=0, description="Number of hash buckets.")
    length: int = Field(default=16, gt=0, description="Maximum number of words.")


class VectorSpec(FeatureSpec):
    """An embedding that is part of the data, as a list of floats."""

    kind: Literal["vector"] = "vector"
    size: int = Field(gt=0, description="Length of the list.")


class HistorySpec(FeatureSpec):
    """The items that the query chose before, the latest first."""

    kind: Literal["history"] = "history"
    length: int = Field(default=50, gt=0, description="Maximum number of items.")


class LinearItemModelSpec(BaseModel):
    """Keys of the linear item model (`recdistill.models.linear`)."""

    l2: float = Field(
        default=300.0,
        gt=0,
        description="Ridge penalty of the item model, in interactions.",
    )
    decay: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Weight of a history item relative to the next more recent one.",
    )
    floor: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Minimum weight of a history item, however old.",
    )
    max_items: int = Field(
        default=20_000,
        gt=0,
        description="Maximum number of items in the model, the most frequent ones; the "
        "item matrix is dense.",
    )


class AffinitySpec(LinearItemModelSpec, FeatureSpec):
    """Item-to-item affinity between the history and the candidate.

    A linear item model (`recdistill.models.linear`) fitted on the training part. It is
    a feature of the pair, so a two-tower student cannot read it.
    """

    kind: Literal["affinity"] = "affinity"
    teacher_only: bool = Field(
        default=True, description="Always true: the student cannot read an affinity."
    )

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

    Examples:
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
