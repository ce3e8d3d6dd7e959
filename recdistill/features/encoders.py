"""Encoders: the lookup of a feature, from raw values to indices and floats.

A feature is encoded in two steps:

* **Lookup** turns raw strings and numbers into indices and floats. It is written once,
  in TensorFlow ops. `prepare` runs it eagerly, so that training reads integers. The
  exported graph contains it too, so that a served model accepts raw values.
* **Embedding** turns the looked-up values into vectors. It is the Keras layer
  `recdistill.features.embedding.FeatureEmbedding`, part of the towers and the ranker.

Index 0 always means *missing or padding*; its embedding is the zero vector. Index 1
stands for all values that are not in the vocabulary. Values of the vocabulary start at
index 2. A text has no vocabulary; its hash buckets start at index 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from recdistill.features.specs import (
    CategoriesSpec,
    CategorySpec,
    FeatureSpec,
    HistorySpec,
    IdSpec,
    NumberSpec,
    TextSpec,
    VectorSpec,
    dense_values,
)

MISSING, UNKNOWN, FIRST = 0, 1, 2

_BLOCK = 65_536


class Encoder(tf.Module):  # type: ignore[misc]
    """The fitted lookup of one feature.

    It is a `tf.Module`, so that an exported SavedModel includes its tables.

    Args:
        name: The feature's name, which is also the name of its raw input.
        spec: Its specification.
    """

    size: int | None = None
    """Number of indices; None if the looked-up values are not indices."""

    width: int | None = None
    """Width of the looked-up vectors; None if the looked-up values are indices."""

    raw_type = tf.string
    raw_shape: Sequence[int | None] = ()
    """Type and shape of the raw input, without the batch dimension."""

    def __init__(self, name: str, spec: FeatureSpec) -> None:
        super().__init__()
        self.feature = name
        self.spec = spec

    def raw_inputs(self) -> dict[str, tf.TensorSpec]:
        """Names and shapes of the raw inputs, each with a batch dimension."""
        shape = [None, *self.raw_shape]
        return {self.feature: tf.TensorSpec(shape, self.raw_type, self.feature)}

    def lookup(self, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Maps raw values `(batch, …)` to indices or floats `(batch, …)`."""
        raise NotImplementedError(f"{type(self).__name__} must define lookup.")

    def state(self) -> dict[str, Any]:
        """The fitted parameters, JSON-ready, without the vocabulary."""
        return {}


class VocabularyEncoder(Encoder):
    """Lookup of kinds `id`, `category` and `categories` in a vocabulary.

    The raw input is strings `(batch,)`, or `(batch, n)` for kind `categories`.

    Args:
        name: The feature's name.
        spec: Its specification.
        vocabulary: The values in the training part, the most frequent first. Value `j`
            has index `j + 2`.

    Attributes:
        values: The vocabulary as a text array of Arrow.
    """

    def __init__(
        self, name: str, spec: FeatureSpec, vocabulary: Sequence[str] | pa.Array
    ) -> None:
        super().__init__(name, spec)
        self.values = pa.array(vocabulary, pa.string())
        self.size: int = len(self.values) + FIRST
        self.raw_shape = [None] if spec.kind == "categories" else []
        indices = np.concatenate([[MISSING], np.arange(len(self.values)) + FIRST])
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.concat([[""], _text_tensor(self.values)], 0),
                indices.astype("int64"),
            ),
            UNKNOWN,
        )

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The values as Python strings, a new tuple each time."""
        return tuple(self.values.to_pylist())

    def lookup(self, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Maps strings to int32 indices of the same shape."""
        return tf.cast(self.table.lookup(raw[self.feature]), tf.int32)


class NumberEncoder(Encoder):
    """Lookup of kind `number`: the standardised value, and a flag for a missing value.

    The raw input is float32 `(batch,)`; NaN means missing.

    Args:
        name: The feature's name.
        spec: Its specification.
        mean: Mean in the training part.
        deviation: Standard deviation in the training part; must be positive.
    """

    width = 2
    raw_type = tf.float32

    def __init__(
        self, name: str, spec: FeatureSpec, mean: float, deviation: float
    ) -> None:
        super().__init__(name, spec)
        self.mean, self.deviation = mean, deviation

    def lookup(self, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Maps numbers to `(batch, 2)` float32; NaN and infinity become (0, 1)."""
        value = tf.cast(raw[self.feature], tf.float32)
        scaled = (value - self.mean) / self.deviation
        # Even for a finite value, the quotient may overflow a float32.
        missing = tf.logical_not(tf.math.is_finite(scaled))
        scaled = tf.where(missing, tf.zeros_like(scaled), scaled)
        return tf.stack([scaled, tf.cast(missing, tf.float32)], axis=-1)

    def state(self) -> dict[str, Any]:
        """Mean and standard deviation."""
        return {"mean": self.mean, "deviation": self.deviation}


class TextEncoder(Encoder):
    """Lookup of kind `text`: the first words, hashed into buckets.

    Args:
        name: The feature's name.
        spec: Its specification.
    """

    def __init__(self, name: str, spec: TextSpec) -> None:
        super().__init__(name, spec)
        self.buckets, self.length = spec.buckets, spec.length
        self.size = spec.buckets + 1

    def lookup(self, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Maps texts to `(batch, length)` int32 buckets, padded with 0."""
        text = tf.strings.lower(raw[self.feature], encoding="utf-8")
        # Combining marks (\pM) belong to words; many scripts need them.
        text = tf.strings.regex_replace(text, r"[^\pL\pM\pN]+", " ")
        words = tf.strings.split(text)
        hashed = tf.ragged.map_flat_values(
            lambda word: tf.strings.to_hash_bucket_fast(word, self.buckets) + 1, words
        )
        return tf.cast(hashed.to_tensor(0, shape=[None, self.length]), tf.int32)


class VectorEncoder(Encoder):
    """Lookup of kind `vector`: the given vectors, unchanged.

    The raw input is float32 `(batch, width)`.

    Args:
        name: The feature's name.
        spec: Its specification.
    """

    raw_type = tf.float32

    def __init__(self, name: str, spec: VectorSpec) -> None:
        super().__init__(name, spec)
        self.width = spec.size
        self.raw_shape = [spec.size]

    def lookup(self, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the vectors `(batch, width)`; non-finite entries become 0."""
        value = tf.cast(raw[self.feature], tf.float32)
        return tf.where(tf.math.is_finite(value), value, tf.zeros_like(value))


class HistoryEncoder(Encoder):
    """Lookup of kind `history`: the indices of the last items, newest first.

    The raw history is `(batch, n)` item ids, oldest first, with a second input
    `<name>_length` `(batch,)`, the number of ids in each row. Ids beyond that number
    are ignored, because a server may pad a batch with arbitrary values.

    Args:
        name: The feature's name.
        spec: Its specification.
        items: The encoder of the item id, whose vocabulary the history shares.

    Examples:
        "b" has index 2 and "c" index 3; the last id is beyond the length.

        >>> items = VocabularyEncoder("item", IdSpec(), ["b", "c"])
        >>> encoder = HistoryEncoder("past", HistorySpec(length=4), items)
        >>> raw = {"past": tf.constant([["b", "new", "c", "b"]]), "past_length": [3]}
        >>> encoder.lookup(raw).numpy()
        array([[3, 1, 2, 0]], dtype=int32)
    """

    def __init__(self, name: str, spec: HistorySpec, items: VocabularyEncoder) -> None:
        super().__init__(name, spec)
        self.items, self.length = items, spec.length
        self.size: int = items.size
        self.raw_shape = [None]

    def raw_inputs(self) -> dict[str, tf.TensorSpec]:
        """Item ids `(batch, n)` and the number of them `(batch,)`."""
        length = f"{self.feature}_length"
        return super().raw_inputs() | {length: tf.TensorSpec([None], tf.int32, length)}

    def lookup(self, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Maps ids, oldest first, to `(batch, length)` indices, newest first."""
        ids = raw[self.feature]
        width = tf.shape(ids)[1]
        known = tf.clip_by_value(raw[f"{self.feature}_length"], 0, width)
        position = known[:, None] - 1 - tf.range(self.length)[None, :]
        # An empty column keeps the gather valid if n is 0.
        padded = tf.pad(ids, [[0, 0], [0, 1]], constant_values="")
        newest = tf.gather(padded, tf.maximum(position, 0), batch_dims=1)
        index = tf.cast(self.items.table.lookup(newest), tf.int32)
        return tf.where(position >= 0, index, MISSING)


def lookup_column(encoder: Encoder, column: pa.Array) -> np.ndarray:
    """Maps a raw column of `raw_column` to indices or floats `(rows, …)`.

    Each different text is looked up once.
    """
    if pa.types.is_list(column.type):
        inner = column.flatten().dictionary_encode()
        found = _lookup(encoder, _text_tensor(inner.dictionary)[None])[0]
        length = column.value_lengths().to_numpy()
        padded = np.full((len(column), max(1, length.max(initial=0))), MISSING, "int32")
        padded[np.arange(padded.shape[1]) < length[:, None]] = found[
            inner.indices.to_numpy()
        ]
        return padded
    if pa.types.is_string(column.type):
        encoded = column.dictionary_encode()
        found = _lookup(encoder, _text_tensor(encoded.dictionary))
        return np.asarray(found[encoded.indices.to_numpy()])
    return _lookup(encoder, tf.constant(dense_values(column)))


def _lookup(encoder: Encoder, raw: tf.Tensor) -> np.ndarray:
    return np.asarray(encoder.lookup({encoder.feature: raw}))


def _text_tensor(texts: pa.Array) -> tf.Tensor:
    """Text as a tensor, converted in blocks: few Python strings at a time."""
    blocks = [
        tf.constant(texts.slice(start, _BLOCK).to_pylist(), tf.string)
        for start in range(0, max(1, len(texts)), _BLOCK)
    ]
    return tf.concat(blocks, 0)


def build_encoder(
    name: str,
    spec: FeatureSpec,
    state: Mapping[str, Any],
    items: VocabularyEncoder | None = None,
) -> Encoder:
    """Creates the encoder of a feature from its fitted state.

    Args:
        name: The feature's name.
        spec: Its specification.
        state: `vocabulary` for kinds `id`, `category` and `categories`; `mean` and
            `deviation` for numbers.
        items: The encoder of the item id; kind `history` needs it.

    Raises:
        ValueError: If the kind has no encoder, or a history is given without `items`.
    """
    if isinstance(spec, IdSpec | CategorySpec | CategoriesSpec):
        return VocabularyEncoder(name, spec, state["vocabulary"])
    if isinstance(spec, NumberSpec):
        return NumberEncoder(name, spec, state["mean"], state["deviation"])
    if isinstance(spec, TextSpec):
        return TextEncoder(name, spec)
    if isinstance(spec, VectorSpec):
        return VectorEncoder(name, spec)
    if isinstance(spec, HistorySpec) and items is not None:
        return HistoryEncoder(name, spec, items)
    raise ValueError(
        "`spec` must be a feature with a lookup, and a history needs `items`. "
        f"Received: {type(spec).__name__} for feature {name!r}"
    )
