"""Raw inputs of towers as arrays: from arrays, lists, data frames and item tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import tensorflow as tf

from recdistill.export.parity import Arrays
from recdistill.features.specs import FeatureSpec, raw_values

Columns = Mapping[str, Any] | pd.DataFrame
"""Values by input name, each `(rows, …)`."""


def as_columns(argument: str, columns: Columns) -> dict[str, tuple[np.ndarray, bool]]:
    """Arrays of all columns, and whether their width varies from row to row.

    Text becomes an object array of `str` with "" for missing values, floats become
    float32, and lists of different lengths are padded on the right with "" or 0.

    Args:
        argument: The argument that holds the columns, for errors.
        columns: Values by input name, each `(rows, …)`.

    Raises:
        ValueError: If a value is neither text nor a number, there is no row, or the
            columns have different numbers of rows.
    """
    if isinstance(columns, pd.DataFrame):
        columns = {str(name): columns[name].to_numpy() for name in columns}
    arrays = {name: _array(argument, name, v) for name, v in columns.items()}
    sizes = {name: len(array) for name, (array, _) in arrays.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise ValueError(
            f"`{argument}` must have the same number of rows for all inputs, and at "
            f"least one row. Received: {sizes}"
        )
    return arrays


def as_inputs(
    argument: str, columns: Columns, specs: Mapping[str, tf.TensorSpec]
) -> Arrays:
    """Arrays of the inputs that a tower declares; other columns are ignored.

    Args:
        argument: The argument that holds the columns, for errors.
        columns: Values by input name, each `(rows, …)`.
        specs: Dtype and shape of each input, the batch dimension first.

    Raises:
        ValueError: If an input is missing or has another dtype or shape.
    """
    names = [str(name) for name in columns]
    missing = [name for name in specs if name not in names]
    if missing:
        raise ValueError(
            f"`{argument}` must have the raw input {missing[0]!r}. Received: {names}"
        )
    arrays = as_columns(argument, {name: columns[name] for name in specs})
    return {
        name: _fitted(argument, name, arrays[name][0], spec)
        for name, spec in specs.items()
    }


def raw_items(specs: Mapping[str, FeatureSpec], items: pa.Table) -> Arrays:
    """Raw candidate inputs of a whole catalogue.

    Args:
        specs: The candidate's features by name.
        items: One row for each item, with the features' columns.

    Returns:
        By feature `(items, …)`.

    Raises:
        ValueError: If there is no item or a column is missing; DataError, a ValueError,
            if the table has a bad value.
    """
    if not items.num_rows:
        raise ValueError("`items` must hold at least one item. Received: none")
    inputs = {}
    for feature, spec in specs.items():
        column = spec.column or feature
        if column not in items.column_names:
            raise ValueError(
                f"`items` must have the column {column!r} of the feature "
                f"{feature!r}. Received: {items.column_names}"
            )
        inputs[feature] = raw_values(items[column], spec, table="items", name=column)
    return inputs


def item_ids(ids: Any) -> list[str]:
    """Item ids as text; whole numbers become their digits.

    Raises:
        ValueError: If they are not a list of strings or integers.
    """
    array = np.asarray(ids)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "OUTSiu":
        raise ValueError(
            "`ids` must be a list of strings or integers, with at least one entry. "
            f"Received: shape {array.shape}, dtype {array.dtype}"
        )
    if array.dtype.kind in "iu":
        return [str(number) for number in array.tolist()]
    texts: list[str] = _texts("ids", "item ids", array).tolist()
    return texts


def _array(argument: str, name: str, values: Any) -> tuple[np.ndarray, bool]:
    varies = False
    if isinstance(values, np.ndarray) and values.dtype != object:
        array = values
    else:
        rows = list(values)
        if rows and isinstance(rows[0], list | tuple | np.ndarray):
            lists = [_row(row) for row in rows]
            varies = len({len(row) for row in lists}) > 1
            array = _padded(lists)
        else:
            array = _row(rows)
    if array.dtype.kind in "OUTS":
        return _texts(argument, name, array), varies
    if array.dtype.kind == "f":
        return array.astype("float32"), varies
    if array.dtype.kind in "iub" and array.ndim:
        return array, varies
    raise ValueError(
        f"`{argument}` must hold text or numbers for the input {name!r}. "
        f"Received: dtype {array.dtype}, shape {array.shape}"
    )


def _row(values: Any) -> np.ndarray:
    """Values as an array; NumPy would turn a number among strings into text."""
    texts = any(isinstance(value, str | bytes) for value in values)
    return np.asarray(values, object) if texts else np.asarray(values)


def _padded(lists: list[np.ndarray]) -> np.ndarray:
    text = any(row.dtype.kind in "OUTS" for row in lists if len(row))
    floats = any(row.dtype.kind == "f" for row in lists if len(row))
    dtype: Any = object if text else "float32" if floats else "int64"
    width = max(1, *map(len, lists))
    padded = np.full((len(lists), width, *lists[0].shape[1:]), "" if text else 0, dtype)
    for row, values in zip(padded, lists, strict=True):
        row[: len(values)] = values
    return padded


def _texts(argument: str, name: str, array: np.ndarray) -> np.ndarray:
    texts = np.empty(array.size, object)
    for place, value in enumerate(array.ravel().tolist()):
        if isinstance(value, bytes):
            value = value.decode()
        elif value is None or value is pd.NA or value != value:
            value = ""
        if not isinstance(value, str):
            raise ValueError(
                f"`{argument}` must hold text in every row of {name!r}, or numbers in "
                f"every row. Received: {value!r}"
            )
        texts[place] = value
    return texts.reshape(array.shape)


def _fitted(
    argument: str, name: str, array: np.ndarray, spec: tf.TensorSpec
) -> np.ndarray:
    """The array in the dtype of the input, if that changes no value."""
    text, dtype = array.dtype == object, spec.dtype
    fits = text == (dtype == tf.string)
    if dtype.is_integer or dtype.is_bool:
        fits = fits and array.dtype.kind in "iub"
    if fits and dtype.is_integer:
        fits = bool((array >= dtype.min).all() and (array <= dtype.max).all())
    if not fits:
        raise ValueError(
            f"`{argument}` must hold {dtype.name} values for the input {name!r}. "
            f"Received: {'text' if text else array.dtype}, such as {array.flat[0]!r}"
        )
    if spec.shape.rank == array.ndim + 1 and spec.shape[-1] in (1, None):
        array = array[..., None]
    if not spec.shape.is_compatible_with(array.shape):
        raise ValueError(
            f"`{argument}` must hold {name!r} with shape {spec.shape}. "
            f"Received: shape {array.shape}"
        )
    return array if text else array.astype(dtype.as_numpy_dtype)
