"""Checks of a request's arrays that the client and the embedded server share.

TensorFlow Serving does not compare shapes with the signature. If it batches requests, a
request of a wrong shape can fail the requests that share its batch, or end the server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from recdistill.export.layout import LENGTH

__all__ = ["Shapes", "shape_problem", "value_problem"]

Shapes = Mapping[str, tuple[int | None, ...] | None]
"""Shape of each input of a signature; None for an axis of any size or unknown rank."""


def shape_problem(shapes: Shapes, inputs: Mapping[str, np.ndarray]) -> str | None:
    """The first problem of the shapes of a request; None if they are valid.

    Args:
        shapes: Shapes of the signature.
        inputs: Arrays by input name.

    Examples:
        >>> shape_problem({"k": (None,)}, {"k": np.array([[3]])})
        '`k` must have the shape (n). Received: [1, 1]'
    """
    return next(_shape_problems(shapes, inputs), None)


def value_problem(shapes: Shapes, inputs: Mapping[str, np.ndarray]) -> str | None:
    """The first problem of the values of a request; None if they are valid.

    An export clamps these values, so that they cannot make other requests fail, but
    they are errors of the caller.

    Args:
        shapes: Shapes of the signature.
        inputs: Arrays by input name; an array of a wrong shape may not be checked.

    Examples:
        >>> shapes = {"seen": (None, None), "seen_length": (None,)}
        >>> inputs = {"seen": np.array([["a"]]), "seen_length": np.array([2])}
        >>> value_problem(shapes, inputs)
        '`seen_length` must be from 0 to 1, the width of `seen`. Received: 2 in row 0'
    """
    return next(_value_problems(shapes, inputs), None)


def _shape_problems(shapes: Shapes, inputs: Mapping[str, np.ndarray]) -> Iterator[str]:
    rows = None
    for name, value in inputs.items():
        shape, expected = np.shape(value), shapes.get(name)
        if expected is not None and (
            len(shape) != len(expected)
            or any(
                want not in (None, size)
                for want, size in zip(expected, shape, strict=True)
            )
        ):
            axes = ", ".join("n" if size is None else str(size) for size in expected)
            yield f"`{name}` must have the shape ({axes}). Received: {list(shape)}"
        elif not shape:
            yield f"`{name}` must have an axis for the rows. Received: a scalar"
        elif not shape[0]:
            yield (
                f"`{name}` must have at least one row: a server that batches may delay "
                f"or fail other requests. Received: {list(shape)}"
            )
        elif not all(shape):
            yield (
                f"`{name}` must have at least one entry in each row; send an empty "
                f"string, or 0 for a number, for an empty list. Received: {list(shape)}"
            )
        elif rows not in (None, shape[0]):
            yield (
                f"`{name}` must have as many rows as the other inputs, {rows}. "
                f"Received: {shape[0]}"
            )
        else:
            rows = shape[0]


def _value_problems(shapes: Shapes, inputs: Mapping[str, np.ndarray]) -> Iterator[str]:
    for name, value in inputs.items():
        if name == "k" and "exclude_ids" in shapes and np.min(value, initial=1) < 1:
            row = int(np.argmin(value))
            least = np.ravel(value)[row]
            yield f"`k` must be at least 1. Received: {least} in row {row}"
        entries = name.removesuffix(LENGTH)
        if entries not in inputs or len(shapes.get(entries) or ()) < 2:
            continue
        width = np.shape(inputs[entries])[1:2]
        if entries == name or not width or np.asarray(value).dtype.kind not in "iu":
            continue
        wrong = np.flatnonzero((value < 0) | (value > width[0]))
        if len(wrong):
            yield (
                f"`{name}` must be from 0 to {width[0]}, the width of `{entries}`. "
                f"Received: {np.ravel(value)[wrong[0]]} in row {wrong[0]}"
            )
