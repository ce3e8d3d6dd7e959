"""List inputs of towers: inputs `(batch, n, …)` whose number of entries may vary.

A server that batches requests pads lists on the right, with the first element of the
whole request. So the towers must not see padding, and two kinds of lists are accepted:

* A list with a second input `<name>_length` `(batch,)`: entries beyond the length are
  replaced with empty ones, and a wrong length is clamped.
* Any other list: the first entry of a row is dropped if it is empty. Clients send an
  empty first column, so that the server pads with empty entries.

The empty entry is "" for text and 0 for numbers. Towers must ignore empty entries at
the end of a list; `check_padding` measures that before an export is published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from recdistill.errors import ConfigError
from recdistill.export.layout import LENGTH, lists_without_length
from recdistill.export.parity import TOLERANCE, Arrays

Tensors = dict[str, tf.Tensor]
Specs = Mapping[str, tf.TensorSpec]

CHECKED_ROWS = 64
"""Number of example rows with which `check_padding` calls a tower."""


def without_padding(inputs: Mapping[str, tf.Tensor], specs: Specs) -> Tensors:
    """Inputs in which every list ends with empty entries instead of padding.

    Args:
        inputs: Tensors by name.
        specs: Dtype and shape of each input, the batch dimension first.

    Examples:
        The server padded a request of two rows with its first element, "".

        >>> raw = {"tags": tf.constant([["", "a", ""], ["", "b", "c"]])}
        >>> without_padding(raw, {"tags": tf.TensorSpec([None, None], tf.string)})[
        ...     "tags"
        ... ].numpy().tolist()
        [[b'a', b'', b''], [b'b', b'c', b'']]
    """
    result = dict(inputs)
    for name in _lists(specs):
        length = f"{name}{LENGTH}"
        if length in specs:
            result[name], result[length] = _cut(inputs[name], inputs[length])
        else:
            result[name] = _without_empty_start(inputs[name])
    return result


def accepting_padding(
    encode: Callable[[Tensors], tf.Tensor], specs: Specs
) -> Callable[[Tensors], tf.Tensor]:
    """The tower behind `without_padding`."""
    return lambda inputs: encode(without_padding(inputs, specs))


def with_empty_column(rows: Arrays, specs: Specs) -> Arrays:
    """Example rows as clients send them; see `layout.lists_without_length`.

    Args:
        rows: Arrays by input name, each `(rows, …)`.
        specs: Dtype and shape of each input, the batch dimension first.
    """
    led = lists_without_length({name: s.shape.as_list() for name, s in specs.items()})
    return {
        name: np.concatenate([_empty_column(v), v], axis=1) if name in led else v
        for name, v in rows.items()
    }


def check_lists(specs: Specs) -> None:
    """Checks that the width of a list is its second axis, and that its length fits.

    Raises:
        ConfigError: If another axis may vary, or a `<name>_length` is not an integer
            `(batch,)`.
    """
    for name, spec in specs.items():
        if None in spec.shape.as_list()[2:]:
            raise ConfigError(
                "An input may vary in its second axis only, because servers cannot pad "
                f"others with empty entries. Received: {name!r} of shape {spec.shape}; "
                "declare a fixed size with TowerSource(inputs=…)"
            )
    for name in _lists(specs):
        length = specs.get(f"{name}{LENGTH}")
        if length is not None and not (
            length.dtype.is_integer and length.shape.rank == 1
        ):
            raise ConfigError(
                f"The input `{name}{LENGTH}` must be the number of entries of `{name}` "
                "in each row, integers of shape (batch,). "
                f"Received: {length.dtype.name} of shape {length.shape}"
            )


def check_padding(
    encode: Callable[[Tensors], tf.Tensor], rows: Arrays, specs: Specs
) -> None:
    """Checks that a tower ignores empty entries at the end of its lists.

    Args:
        encode: A tower that `accepting_padding` returned.
        rows: Example rows by input name, each `(rows, …)`.
        specs: Dtype and shape of each input.

    Raises:
        ConfigError: If empty entries change an embedding.
    """
    few = {name: value[:CHECKED_ROWS] for name, value in rows.items()}
    for name in _lists(specs):
        wider = np.concatenate([few[name], *[_empty_column(few[name])] * 3], axis=1)
        plain, padded = (
            np.asarray(encode({k: tf.constant(v) for k, v in each.items()}), "float64")
            for each in (few, {**few, name: wider})
        )
        scale = np.maximum(np.abs(plain).max(axis=1, initial=1.0), 1.0)
        change = float((np.abs(padded - plain).max(axis=1) / scale).max(initial=0.0))
        if not change <= TOLERANCE:
            empty = '""' if specs[name].dtype == tf.string else "0"
            raise ConfigError(
                f"A tower must ignore empty entries ({empty}) at the end of `{name}`, "
                "whose width may vary: clients and servers pad lists of different "
                "lengths with them, and an answer must not depend on that. Received: "
                f"an embedding that changes by {change:.2g}. Mask them (for example "
                f"mask_token or mask_zero), add the input `{name}{LENGTH}` and ignore "
                f"the entries beyond it, or declare a fixed width with "
                "TowerSource(inputs=…)"
            )


def _lists(specs: Specs) -> list[str]:
    return [
        name
        for name, spec in specs.items()
        if spec.shape.rank > 1 and spec.shape[1] is None
    ]


def _empty_column(values: np.ndarray) -> np.ndarray:
    text = values.dtype.kind in "OUS"
    shape = len(values), 1, *values.shape[2:]
    return np.full(shape, "" if text else 0, object if text else values.dtype)


def _empty_like(values: tf.Tensor) -> tf.Tensor:
    empty = tf.constant("") if values.dtype == tf.string else tf.zeros([], values.dtype)
    return tf.fill(tf.shape(values), empty)


def _per_row(mask: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """A mask `(batch, n)` with an axis of size 1 for each further axis of values."""
    return tf.reshape(
        mask, tf.concat([tf.shape(mask), [1] * (values.shape.rank - 2)], axis=0)
    )


def _cut(values: tf.Tensor, length: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The list with empty entries beyond its length, and its length from 0 to n.

    Empty texts at the end of a list do not count, so that a length that is too large
    gives the same answer for every width of a padding with empty texts. A server pads
    with the first entry of the request, which only a right length cuts off.
    """
    width = tf.shape(values)[1]
    places = tf.range(width)
    known = tf.cast(tf.clip_by_value(length, 0, tf.cast(width, length.dtype)), tf.int32)
    inside = places < known[:, None]
    if values.dtype == tf.string and values.shape.rank == 2:
        # The maximum over a list without entries is negative.
        filled = tf.where(inside & (values != ""), places + 1, 0)
        known = tf.maximum(tf.reduce_max(filled, axis=1), 0)
        inside = places < known[:, None]
    inside = _per_row(inside, values)
    cut = tf.where(inside, values, _empty_like(values))
    return cut, tf.cast(known, length.dtype)


def _without_empty_start(values: tf.Tensor) -> tf.Tensor:
    """The list without its first entry where that is empty."""
    first = values[:, :1]
    empty = _empty_like(first)
    rest = tf.concat([values[:, 1:], empty], axis=1)
    axes = list(range(1, values.shape.rank))
    starts_empty = tf.reduce_all(first == empty, axis=axes, keepdims=True)
    return tf.where(starts_empty, rest, values)
