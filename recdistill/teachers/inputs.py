"""Conversion of raw features to the types and shapes of an external model's inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from recdistill.errors import TeacherError


@dataclass(frozen=True)
class InputSpec:
    """Type and shape of a model's input.

    Attributes:
        dtype: "string", "bool", or a NumPy name such as "int64" or "float32".
        shape: Sizes of all axes, the rows included, None for any size; None if the
            number of axes is unknown.
        ragged: Whether each row has its own number of values, without padding.
    """

    dtype: str
    shape: tuple[int | None, ...] | None = None
    ragged: bool = False


def as_input(
    values: np.ndarray, spec: InputSpec | None, what: str, where: str
) -> np.ndarray:
    """Converts raw values to the type and shape of a model's input.

    Text with digits becomes numbers without loss: the id `"1260759144"` fits an int64.
    Whole numbers become integers; `true`, `false`, 1 and 0 become booleans. In a row
    of several values (a history, categories) "" is padding, which becomes 0 for a
    numeric input. If the input has a fixed width, only the last entries of a longer row
    are kept: the latest part of a history.

    Args:
        values: `(rows,)` or `(rows, n)`: text, float32 with NaN for missing values, or
            bool.
        spec: The input; None to return the values unchanged.
        what: Description of the values for error messages.
        where: Description of the input for error messages.

    Returns:
        The converted values; text as an array of `str` objects. For a ragged input,
        `(rows,)` objects: an array for each row, without its missing values.

    Raises:
        TeacherError: If the values cannot be converted.

    Examples:
        >>> spec = InputSpec("int64", (None, 2))
        >>> history = np.array([["7", "8", "9"], ["5", "", ""]])
        >>> as_input(history, spec, "feature `past`", "the input `films`")
        array([[8, 9],
               [5, 0]])
    """
    if spec is None:
        return values
    if spec.ragged:
        return _ragged(values, spec, what, where)
    if spec.dtype == "bool" and values.dtype.kind != "b":
        values = _booleans(values, what, where)
    if values.dtype.kind in "OU" and spec.shape is not None:
        values = _as_wide_as(values, spec.shape)
    if values.dtype.kind in "OU" and spec.dtype != "string":
        values = _numbers(values, spec, what, where)
    values = _shaped(values, spec.shape, what, where)
    return _typed(values, spec.dtype, what, where)


def _ragged(values: np.ndarray, spec: InputSpec, what: str, where: str) -> np.ndarray:
    """The values of each row that are not missing."""
    rows = values if values.ndim > 1 else values[:, None]
    real = rows != "" if rows.dtype.kind in "OU" else ~np.isnan(rows)
    flat = as_input(rows[real], InputSpec(spec.dtype, (None,)), what, where)
    ragged = np.empty(len(rows), object)
    ends = np.cumsum(real.sum(axis=1))
    for row, part in enumerate(np.split(flat, ends[:-1]) if len(rows) else []):
        ragged[row] = part
    return ragged


_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


def _booleans(values: np.ndarray, what: str, where: str) -> np.ndarray:
    """Text or numbers as booleans; each distinct value is read once."""
    text = values.dtype.kind in "OU"
    different, place = np.unique(
        values.astype(str) if text else values, return_inverse=True
    )
    read = []
    for value in different.tolist():
        known = _BOOLEANS.get(value.lower()) if text else {1: True, 0: False}.get(value)
        if known is None:
            raise TeacherError(
                f"The {what} must be true, false, 1 or 0 to become {where}, which "
                f"takes bool. Received: {value!r}"
            )
        read.append(known)
    return np.asarray(read, bool)[place].reshape(values.shape)


def _numbers(values: np.ndarray, spec: InputSpec, what: str, where: str) -> np.ndarray:
    """Text as numbers; each distinct value is parsed once."""
    missing = math.nan if values.ndim == 1 else 0
    integer = spec.dtype.startswith(("int", "uint"))
    read: Callable[[str], float] = int if integer else float
    different, place = np.unique(values.astype(str), return_inverse=True)
    if integer and values.ndim == 1 and "" in different:
        raise TeacherError(
            f"The {what} must not have missing values to become {where}, which takes "
            f"{spec.dtype}. Received: {int((values == '').sum()):,} missing values"
        )
    numbers: list[float] = []
    for text in different.tolist():
        try:
            numbers.append(read(text) if text else missing)
        except ValueError:
            raise TeacherError(
                f"The {what} must be numbers to become {where}, which takes "
                f"{spec.dtype}. Received: {text!r}"
            ) from None
    kind = "float64"
    if integer:
        kind = "uint64" if spec.dtype == "uint64" and min(numbers) >= 0 else "int64"
    try:
        return np.asarray(numbers, kind)[place].reshape(values.shape)
    except OverflowError:
        raise TeacherError(
            f"The {what} must fit {spec.dtype} to become {where}. Received: "
            f"{max(numbers, key=abs)}"
        ) from None


def _shaped(
    values: np.ndarray, shape: tuple[int | None, ...] | None, what: str, where: str
) -> np.ndarray:
    if shape is None:
        return values
    if not shape:
        raise TeacherError(
            f"The {what} must not be a single value for all rows, as "
            f"{where} is. Wrap the model in one that sets this input itself, or use "
            "kind 'callable'."
        )
    if len(shape) == values.ndim + 1 and shape[-1] in (1, None):
        values = values[..., None]
    if len(shape) == 1 and values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    fits = len(shape) == values.ndim and all(
        wanted in (None, size)
        for wanted, size in zip(shape[1:], values.shape[1:], strict=True)
    )
    if not fits:
        raise TeacherError(
            f"The {what} must have the shape of {where}, {_readable(shape)}. "
            f"Received: {_readable((None, *values.shape[1:]))}"
        )
    return values


def _as_wide_as(values: np.ndarray, shape: tuple[int | None, ...]) -> np.ndarray:
    """Rows of text, cut or padded if the input has a fixed width."""
    if not len(shape) == 2 == values.ndim or shape[1] in (None, values.shape[1]):
        return values
    real = values != ""
    length = np.where(real.any(1), values.shape[1] - real[:, ::-1].argmax(1), 0)
    place = np.maximum(length - shape[1], 0)[:, None] + np.arange(shape[1])
    inside = place < length[:, None]
    picked = np.take_along_axis(values, np.where(inside, place, 0), axis=1)
    return np.where(inside, picked, np.asarray("", values.dtype))


def _typed(values: np.ndarray, dtype: str, what: str, where: str) -> np.ndarray:
    if dtype == "string":
        if values.dtype.kind not in "OU":
            raise TeacherError(
                f"The {what} must be text to become {where}. Received: {values.dtype}. "
                "Declare it with kind 'category', whose raw values are text."
            )
        return values.astype(object)
    integer = dtype.startswith(("int", "uint"))
    if integer and values.dtype.kind == "f":
        wrong = ~(values == np.floor(values)) | ~np.isfinite(values)
        if wrong.any():
            raise TeacherError(
                f"The {what} must be whole numbers to become {where}, which takes "
                f"{dtype}. Received: {values[wrong][0]}"
            )
    if integer:
        outside = _outside(values, np.iinfo(dtype))
    with np.errstate(over="ignore", invalid="ignore"):
        converted = values.astype(dtype)
    if not integer:
        outside = np.isinf(converted.astype("float64")) & ~np.isinf(values)
    if outside.any():
        raise TeacherError(
            f"The {what} must fit {dtype} to become {where}. "
            f"Received: {values[outside][0]}"
        )
    return converted


def _outside(values: np.ndarray, limits: np.iinfo) -> np.ndarray:
    """Whether numbers exceed the limits of an integer type."""
    if values.dtype.kind != "f":
        return np.asarray((values < limits.min) | (values > limits.max))
    # As floats, the largest integers are rounded up; the smallest are exact.
    wide = values.astype("float64")
    return np.asarray((wide < float(limits.min)) | (wide >= float(limits.max + 1)))


def _readable(shape: tuple[int | None, ...]) -> str:
    sizes = ["rows", *("any" if size is None else str(size) for size in shape[1:])]
    return f"({', '.join(sizes)})"
