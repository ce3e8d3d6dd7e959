"""Feature specifications of a configuration, and raw values from table columns.

How a raw value is encoded for a model is in `recdistill.features.encoders`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from recdistill.errors import DataError
from recdistill.features.raw_numbers import as_doubles, converted, list_of, vector_of
from recdistill.features.raw_text import (
    BadValueError,
    is_text,
    plain,
    text_of,
    texts_of,
    value_at,
)
from recdistill.features.settings import LARGEST_FLOAT, Settings


class FeatureSpec(Settings):
    """Keys of all features."""

    kind: str
    column: str | None = Field(
        default=None,
        description="Column with the raw values. By default the name of the feature.",
    )
    teacher_only: bool = Field(
        default=False,
        description="Whether the feature is privileged: only the teacher reads it.",
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
        description="Separator of the values in a text; by default they are lists. "
        "With a separator, the text of a JSON or Python list is read as that list.",
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
    """An embedding that is part of the data: a list of floats, or the text of one."""

    kind: Literal["vector"] = "vector"
    size: int = Field(gt=0, description="Length of the list.")


class HistorySpec(FeatureSpec):
    """The items that the query chose before, with all their features.

    Requests and external teachers have the item ids, oldest first; the model reads the
    latest `length` of them.
    """

    kind: Literal["history"] = "history"
    length: int = Field(default=50, gt=0, description="Maximum number of items.")

    @model_validator(mode="after")
    def _is_made_of_the_interactions(self) -> Self:
        for key, value in (("column", self.column), ("optional", self.optional)):
            if value:
                raise ValueError(
                    f"`{key}` has no meaning for a history, which is made of the "
                    f"interactions and may be empty. Received: {key}={value!r}"
                )
        return self


class HistoryWeights(Settings):
    """Weights of the items of a history in a linear model, by their age."""

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


class LinearItemModelSpec(HistoryWeights):
    """Keys of the linear item model (`recdistill.models.linear`)."""

    l2: float = Field(
        default=300.0,
        gt=0,
        description="Ridge penalty of the item model, in interactions.",
    )
    max_items: int | None = Field(
        default=None,
        gt=0,
        description="Maximum number of items in the model, the most frequent ones. No "
        "limit by default.",
    )
    form: Literal["auto", "item_inverse", "query_inverse", "low_rank"] = Field(
        default="auto",
        description="Form of the item matrix. `item_inverse`: exact, a dense matrix of "
        "the items. `query_inverse`: exact, for fewer queries than items. `low_rank`: "
        "an approximation by up to 512 eigenvectors and a diagonal. `auto`: the first "
        "of these that fits into `memory_gib`.",
    )
    memory_gib: float = Field(
        default=4.0,
        gt=0,
        le=1e6,
        description="Memory in GiB that fitting may use, in addition to the data. It "
        "decides the form and the rank, the same on every machine.",
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
    column: pa.ChunkedArray, spec: FeatureSpec, *, table: str, name: str
) -> np.ndarray:
    """Converts a table's column to raw values, the input of an encoder's lookup.

    The arguments and errors are those of `raw_column`, without `rows`.

    Returns:
        `(rows,)` strings, "" if missing; `(rows,)` float32, NaN if missing; `(rows, n)`
        strings padded with ""; or `(rows, size)` float32.

    Examples:
        >>> column = pa.chunked_array([["Action|Drama", None, " Action "]])
        >>> spec = CategoriesSpec(separator="|")
        >>> raw_values(column, spec, table="items", name="genres")
        array([['Action', 'Drama'],
               ['', ''],
               ['Action', '']], dtype=object)
    """
    return dense_values(raw_column(column, spec, table=table, name=name))


def raw_column(
    column: pa.ChunkedArray | pa.Array,
    spec: FeatureSpec,
    *,
    table: str,
    name: str,
    rows: Sequence[int] | np.ndarray | None = None,
) -> pa.Array:
    """Converts a table's column to raw values as an Arrow array.

    Ids and categories become text by the rule of `recdistill.features.raw_text`.
    Numbers and vectors may be text (`recdistill.features.raw_numbers`).

    Args:
        column: `(rows,)`, as read from the table.
        spec: The feature's specification.
        table: Name of the table, for error messages.
        name: Name of the column, for error messages.
        rows: Row number of each value, counted from 1, for error messages (default:
            1, 2, …).

    Returns:
        Text, "" if missing; float32, NaN if missing; lists of text; or lists of `size`
        float32. No value is null.

    Raises:
        DataError: If a value is missing and the feature is not optional, if it has the
            wrong type, or if a number does not fit into a float32. The message names
            table, column and row.
    """
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values = plain(whole)
    numbers = range(1, len(values) + 1) if rows is None else rows
    try:
        return _CONVERTERS.get(spec.kind, _raw_strings)(values, spec)
    except BadValueError as error:
        place = f"Table `{table}`, column `{name}`, row {numbers[error.index]}"
        if isinstance(error, _MissingValueError):
            raise DataError(f"{place}: {error}") from None
        raise DataError(
            f"{place}: expected a value for kind {spec.kind!r}. "
            f"Received: {value_at(values, error.index)!r} ({error})"
        ) from error


def dense_values(column: pa.Array) -> np.ndarray:
    """A raw column as a dense array; lists of text are padded with "" on the right."""
    if pa.types.is_fixed_size_list(column.type):
        flat = column.flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat).reshape(len(column), column.type.list_size)
    if pa.types.is_list(column.type):
        return pad_strings(column.to_pylist())
    if pa.types.is_string(column.type):
        return np.asarray(column.to_pylist(), object)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def pad_strings(rows: Sequence[Sequence[str]]) -> np.ndarray:
    """Lists of strings as one array `(rows, longest)`, padded with "" on the right."""
    width = max([1, *map(len, rows)])
    padded = np.full((len(rows), width), "", object)
    for k, row in enumerate(rows):
        padded[k, : len(row)] = row
    return padded


class _MissingValueError(BadValueError):
    """A value that is missing although the feature is not optional."""

    def __init__(self, index: int) -> None:
        super().__init__(
            index,
            "the value is missing. Fill it in, or set `optional = true` for this "
            "feature.",
        )


def _raw_strings(values: pa.Array, spec: FeatureSpec) -> pa.Array:
    texts = pc.fill_null(text_of(values), "")
    _reject_missing(pc.equal(texts, ""), spec)
    return texts


def _raw_numbers(values: pa.Array, spec: FeatureSpec) -> pa.Array:
    numbers = as_doubles(values)
    _reject_missing(pa.array(np.isnan(numbers)), spec)
    too_large = np.flatnonzero(np.abs(numbers) > LARGEST_FLOAT)
    if len(too_large):
        raise BadValueError(int(too_large[0]), "it must be finite, as a float32")
    return pa.array(numbers.astype("float32"))


def _raw_vectors(values: pa.Array, spec: FeatureSpec) -> pa.Array:
    if not isinstance(spec, VectorSpec):
        raise TypeError(f"`spec` must be a VectorSpec. Received: {spec!r}")
    empty = pc.is_null(values)
    if is_text(values.type):
        empty = pc.or_kleene(empty, pc.fill_null(pc.equal(values, ""), True))
    _reject_missing(empty, spec)

    def vector(value: Any) -> list[float]:
        if value == "":
            return [0.0] * spec.size
        parts = vector_of(value) if isinstance(value, str) else value
        row = [float("nan") if part is None else float(part) for part in parts]
        if len(row) != spec.size or not all(abs(v) <= LARGEST_FLOAT for v in row):
            raise ValueError(f"it must hold {spec.size} finite numbers")
        return row

    rows = converted(values, vector, [0.0] * spec.size)
    flat = np.asarray(rows, "float32").reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), spec.size)


def _raw_categories(values: pa.Array, spec: FeatureSpec) -> pa.Array:
    if is_text(values.type) or pa.types.is_null(values.type):
        separator = getattr(spec, "separator", None)
        lists = converted(values, lambda v: _split_text(v, separator), [])
    else:
        lists = [
            [part for part in row or [] if part] for row in texts_of(values).to_pylist()
        ]
    return pa.array(lists, pa.list_(pa.string()))


def _split_text(text: str, separator: str | None) -> list[str]:
    """Categories in a text, which may be a list in brackets if a separator is set."""
    listed = list_of(text)
    if listed is None:
        listed = text.split(separator) if separator else [text]
    elif separator is None:
        raise ValueError(
            "it is the text of a list; set `separator` for this feature to read the "
            "values of the list"
        )
    return [part.strip() for part in listed if part.strip()]


def _reject_missing(missing: pa.Array, spec: FeatureSpec) -> None:
    index = pc.index(missing, True).as_py()
    if index >= 0 and not spec.optional:
        raise _MissingValueError(index)


_CONVERTERS: dict[str, Callable[[pa.Array, FeatureSpec], pa.Array]] = {
    "number": _raw_numbers,
    "vector": _raw_vectors,
    "categories": _raw_categories,
}
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
