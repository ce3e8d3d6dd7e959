"""Encoders: how a raw feature value reaches a model, in two halves with one definition.

* **lookup** turns raw strings and numbers into indices and floats. It is written
  in TensorFlow ops once; `prepare` runs it eagerly, so that training reads
  integers, and the exported graph contains it, so that serving takes raw values.
* **embed** turns the looked-up values into vectors. It is the Keras layer
  `FeatureEmbedding`, part of the towers and of the ranker.

Index 0 always means *missing or padding* and embeds to the zero vector; index 1
is the bucket of values that training never saw; real values start at 2.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from recdistill.errors import DataError
from recdistill.features.specs import (
    SPECS,
    AffinitySpec,
    CategoriesSpec,
    CategorySpec,
    FeatureSpec,
    HistorySpec,
    IdSpec,
    NumberSpec,
    TextSpec,
    VectorSpec,
)

MISSING, UNKNOWN, FIRST = 0, 1, 2


class Encoder(tf.Module):  # type: ignore[misc]
    """The fitted lookup half of one feature.

    A `tf.Module`, so that its tables are stored with an export that holds it.

    Args:
        name: The feature's name, which is also the name of its raw input.
        spec: Its specification.
    """

    def __init__(self, name: str, spec: FeatureSpec) -> None:
        super().__init__()
        self.feature = name
        self.spec = spec

    @property
    def kind(self) -> str:
        """The feature's kind, as the config names it."""
        return self.spec.kind

    def raw_inputs(self) -> dict[str, tf.TensorSpec]:
        """Names and shapes of the raw values, each with a batch dimension."""
        return {self.feature: tf.TensorSpec([None], tf.string, self.feature)}

    def lookup(self, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Raw values `(batch, …)` to indices or floats `(batch, …)`."""
        raise NotImplementedError(f"{type(self).__name__} must define lookup.")

    def state(self) -> dict[str, Any]:
        """What fitting learned, JSON-ready, apart from a vocabulary."""
        return {}


class VocabularyEncoder(Encoder):
    """Lookup of kinds `id`, `category` and `categories`.

    Args:
        name: The feature's name.
        spec: Its specification.
        vocabulary: The values of the training part, most frequent first. Value `j`
            gets index `j + 2`.
    """

    def __init__(self, name: str, spec: FeatureSpec, vocabulary: Sequence[str]) -> None:
        super().__init__(name, spec)
        self.vocabulary = tuple(vocabulary)
        keys = tf.constant(["", *self.vocabulary], tf.string)
        indices = np.concatenate([[MISSING], np.arange(len(self.vocabulary)) + FIRST])
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(keys, indices.astype("int64")), UNKNOWN
        )

    @property
    def size(self) -> int:
        """Number of indices, the two reserved ones included."""
        return len(self.vocabulary) + FIRST

    def raw_inputs(self) -> dict[str, tf.TensorSpec]:
        """`(batch,)` strings, or `(batch, n)` for kind `categories`."""
        shape = [None, None] if self.kind == "categories" else [None]
        return {self.feature: tf.TensorSpec(shape, tf.string, self.feature)}

    def lookup(self, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Strings to int32 indices of the same shape."""
        return tf.cast(self.table.lookup(raw[self.feature]), tf.int32)


class NumberEncoder(Encoder):
    """Lookup of kind `number`: `(batch, 2)`, the standardised value and "is missing".

    Args:
        name: The feature's name.
        spec: Its specification.
        mean: Mean over the training part, in the feature's own unit.
        deviation: Standard deviation over the training part; above zero.
    """

    def __init__(
        self, name: str, spec: FeatureSpec, mean: float, deviation: float
    ) -> None:
        super().__init__(name, spec)
        self.mean, self.deviation = mean, deviation

    def raw_inputs(self) -> dict[str, tf.TensorSpec]:
        """`(batch,)` float32; NaN where missing."""
        return {self.feature: tf.TensorSpec([None], tf.float32, self.feature)}

    def lookup(self, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Numbers to `(batch, 2)` float32; a missing or infinite one is (0, 1)."""
        value = tf.cast(raw[self.feature], tf.float32)
        scaled = (value - self.mean) / self.deviation
        # Also of a finite value the quotient may be too large for a float32.
        missing = tf.logical_not(tf.math.is_finite(scaled))
        scaled = tf.where(missing, tf.zeros_like(scaled), scaled)
        return tf.stack([scaled, tf.cast(missing, tf.float32)], axis=-1)

    def state(self) -> dict[str, Any]:
        """Mean and deviation."""
        return {"mean": self.mean, "deviation": self.deviation}


class TextEncoder(Encoder):
    """Lookup of kind `text`: hashed words, `(batch, length)` int32, 0 as padding.

    Args:
        name: The feature's name.
        spec: Its specification.
    """

    def __init__(self, name: str, spec: TextSpec) -> None:
        super().__init__(name, spec)
        self.buckets, self.length = spec.buckets, spec.length

    @property
    def size(self) -> int:
        """Number of indices, the padding included."""
        return self.buckets + 1

    def lookup(self, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Text to the bucket of each of its first words."""
        text = tf.strings.lower(raw[self.feature], encoding="utf-8")
        # Letters with their marks, without which words of many scripts fall apart.
        text = tf.strings.regex_replace(text, r"[^\pL\pM\pN]+", " ")
        words = tf.strings.split(text)
        hashed = tf.ragged.map_flat_values(
            lambda word: tf.strings.to_hash_bucket_fast(word, self.buckets) + 1, words
        )
        return tf.cast(hashed.to_tensor(0, shape=[None, self.length]), tf.int32)


class VectorEncoder(Encoder):
    """Lookup of kind `vector`: the given `(batch, size)` float32, unchanged.

    Args:
        name: The feature's name.
        spec: Its specification.
    """

    def __init__(self, name: str, spec: VectorSpec) -> None:
        super().__init__(name, spec)
        self.width = spec.size

    def raw_inputs(self) -> dict[str, tf.TensorSpec]:
        """`(batch, size)` float32."""
        shape = [None, self.width]
        return {self.feature: tf.TensorSpec(shape, tf.float32, self.feature)}

    def lookup(self, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The vector itself; entries that are not finite become 0."""
        value = tf.cast(raw[self.feature], tf.float32)
        return tf.where(tf.math.is_finite(value), value, tf.zeros_like(value))


class HistoryEncoder(Encoder):
    """Lookup of kind `history`: `(batch, length)` item indices, the newest first.

    The raw history is `(batch, n)` item ids, the oldest first, with a length of its
    own, `<name>_length` `(batch,)`: whatever stands behind the length (a server's
    batcher may pad with anything) is not read.

    Args:
        name: The feature's name.
        spec: Its specification.
        items: The encoder of the item id, whose vocabulary the history shares.

    Example: "b" is index 2 and "c" index 3; the last id stands behind the length.
        >>> items = VocabularyEncoder("item", IdSpec(), ["b", "c"])
        >>> encoder = HistoryEncoder("past", HistorySpec(length=4), items)
        >>> raw = {"past": tf.constant([["b", "new", "c", "b"]]), "past_length": [3]}
        >>> encoder.lookup(raw).numpy()
        array([[3, 1, 2, 0]], dtype=int32)
    """

    def __init__(self, name: str, spec: HistorySpec, items: VocabularyEncoder) -> None:
        super().__init__(name, spec)
        self.items, self.length = items, spec.length

    @property
    def size(self) -> int:
        """Number of indices, the two reserved ones included."""
        return self.items.size

    def raw_inputs(self) -> dict[str, tf.TensorSpec]:
        """Item ids `(batch, n)` and their number `(batch,)`."""
        length = f"{self.feature}_length"
        return {
            self.feature: tf.TensorSpec([None, None], tf.string, self.feature),
            length: tf.TensorSpec([None], tf.int32, length),
        }

    def lookup(self, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Ids, oldest first, to int32 indices, newest first, 0 as padding."""
        ids = raw[self.feature]
        width = tf.shape(ids)[1]
        known = tf.clip_by_value(raw[f"{self.feature}_length"], 0, width)
        position = known[:, None] - 1 - tf.range(self.length)[None, :]
        # One empty column keeps the gather legal where n is 0.
        padded = tf.pad(ids, [[0, 0], [0, 1]], constant_values="")
        newest = tf.gather(padded, tf.maximum(position, 0), batch_dims=1)
        index = tf.cast(self.items.table.lookup(newest), tf.int32)
        return tf.where(position >= 0, index, MISSING)


class Schema(tf.Module):  # type: ignore[misc]
    """The fitted features of a pipeline: what a query and a candidate are made of.

    Args:
        query: Encoders of the query's features.
        candidate: Encoders of the candidate's features.
        affinity: Specifications of pair features, by name. They have no raw input.
        item_id: Name of the feature that is the candidate's own identifier.
    """

    def __init__(
        self,
        query: Iterable[Encoder],
        candidate: Iterable[Encoder],
        affinity: Mapping[str, AffinitySpec],
        item_id: str,
    ) -> None:
        super().__init__(name="schema")
        self.query = tuple(query)
        self.candidate = tuple(candidate)
        self.affinity = dict(affinity)
        self.item_id = item_id

    @property
    def items(self) -> VocabularyEncoder:
        """The encoder of the candidate's identifier."""
        for encoder in self.candidate:
            if encoder.feature == self.item_id and isinstance(
                encoder, VocabularyEncoder
            ):
                return encoder
        raise ValueError(
            f"`candidate` must have the item id {self.item_id!r} as a feature of kind "
            f"'id'. Received: {[e.feature for e in self.candidate]}"
        )

    @property
    def history(self) -> HistoryEncoder | None:
        """The encoder of the query's history, where the query has one."""
        found = [e for e in self.query if isinstance(e, HistoryEncoder)]
        return found[0] if found else None

    def for_student(self) -> Schema:
        """The same schema without the features that only the teacher may see."""
        return Schema(
            [e for e in self.query if not e.spec.teacher_only],
            [e for e in self.candidate if not e.spec.teacher_only],
            {},
            self.item_id,
        )

    def lookup_query(self, raw: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Raw query inputs `(batch, …)` by name to looked-up features."""
        return {e.feature: e.lookup(_tensors(e, raw)) for e in self.query}

    def lookup_candidates(self, raw: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Raw candidate features `(n, …)` to looked-up ones."""
        return {e.feature: e.lookup(_tensors(e, raw)) for e in self.candidate}

    def save(self, folder: Path) -> None:
        """Writes `schema.json` and one Parquet file for each vocabulary."""
        document: dict[str, Any] = {"item_id": self.item_id, "affinity": {}}
        for side in ("query", "candidate"):
            document[side] = {}
            for encoder in getattr(self, side):
                document[side][encoder.feature] = {
                    "spec": encoder.spec.model_dump(),
                    "state": encoder.state(),
                }
                if isinstance(encoder, VocabularyEncoder):
                    values = pa.table(
                        {"value": pa.array(encoder.vocabulary, pa.string())}
                    )
                    pq.write_table(
                        values, _vocabulary_path(folder, side, encoder.feature)
                    )
        for name, spec in self.affinity.items():
            document["affinity"][name] = spec.model_dump()
        (folder / "schema.json").write_text(json.dumps(document, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Schema:
        """Reads what `save` wrote."""
        document = json.loads((folder / "schema.json").read_text())

        def build(side: str, items: VocabularyEncoder | None) -> list[Encoder]:
            encoders = []
            for name, entry in document[side].items():
                spec = SPECS[entry["spec"]["kind"]].model_validate(entry["spec"])
                path = _vocabulary_path(folder, side, name)
                state = dict(entry["state"])
                if path.exists():
                    state["vocabulary"] = pq.read_table(path)["value"].to_pylist()
                encoders.append(build_encoder(name, spec, state, items))
            return encoders

        candidate = build("candidate", None)
        own = [e for e in candidate if e.feature == document["item_id"]]
        items = own[0] if own else None
        if not isinstance(items, VocabularyEncoder):
            raise DataError(
                f"{folder / 'schema.json'} has no vocabulary for its items."
            )
        affinity = {
            name: AffinitySpec.model_validate(spec)
            for name, spec in document["affinity"].items()
        }
        return cls(build("query", items), candidate, affinity, document["item_id"])


def build_encoder(
    name: str,
    spec: FeatureSpec,
    state: Mapping[str, Any],
    items: VocabularyEncoder | None = None,
) -> Encoder:
    """The encoder of a feature from what fitting learned about it.

    Args:
        name: The feature's name.
        spec: Its specification.
        state: `vocabulary` for kinds with one; `mean` and `deviation` for numbers.
        items: The encoder of the item id, which kind `history` needs.

    Raises:
        ValueError: If a history comes without `items`.
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
        f"`spec` must be a feature with an encoder of its own, and `items` given for a "
        f"history. Received: {type(spec).__name__} for feature {name!r}"
    )


def _vocabulary_path(folder: Path, side: str, feature: str) -> Path:
    # The feature's name comes from a config file: never let it choose a folder, nor
    # two names share a file.
    return folder / f"vocabulary-{side}-{quote(feature, safe='')}.parquet"


def _tensors(encoder: Encoder, raw: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    tensors = {}
    for name, spec in encoder.raw_inputs().items():
        if name not in raw:
            raise ValueError(
                f"`raw` must hold the input {name!r} of feature {encoder.feature!r}. "
                f"Received: {sorted(raw)}"
            )
        try:
            tensors[name] = tf.convert_to_tensor(raw[name], spec.dtype)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`raw` must hold {spec.dtype.name} values under {name!r}. "
                f"Received: {raw[name]!r}"
            ) from error
        if not spec.shape.is_compatible_with(tensors[name].shape):
            raise ValueError(
                f"`raw` must hold values of shape {spec.shape} under {name!r}. "
                f"Received: shape {tensors[name].shape}"
            )
    return tensors


@keras.saving.register_keras_serializable("recdistill")
class FeatureEmbedding(keras.layers.Layer):  # type: ignore[misc]
    """The embed half: looked-up features of one side to one vector each row.

    Indices are embedded (several of them are averaged, padding left out), numbers and
    given vectors pass; all are concatenated. A history is not read here: a tower
    decides how to pool it.

    Args:
        sizes: For each feature its number of indices, or None where the looked-up
            value is used as it is.
        dim: Width of each embedding.
    """

    def __init__(
        self, sizes: Mapping[str, int | None], dim: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if dim < 1:
            raise ValueError(f"`dim` must be positive. Received: dim={dim}")
        self.sizes, self.dim = dict(sizes), dim
        self.tables = {
            name: keras.layers.Embedding(
                size, dim, embeddings_initializer=embedding_initializer(), name=name
            )
            for name, size in self.sizes.items()
            if size is not None
        }
        # Without features it is never called, and there is nothing to build.
        self.built = not self.sizes

    @classmethod
    def of(cls, encoders: Iterable[Encoder], dim: int, name: str) -> FeatureEmbedding:
        """The embed half for these encoders; a history among them is left out."""
        sizes = {
            e.feature: getattr(e, "size", None)
            for e in encoders
            if not isinstance(e, HistoryEncoder)
        }
        return cls(sizes, dim, name=name)

    def build(self, input_shape: Any = None) -> None:
        """Creates the embedding tables."""
        for table in self.tables.values():
            table.build()
        self.built = True

    def call(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Looked-up features, each `(rows, …)`, to vectors `(rows, width)`."""
        vectors = []
        for name in self.sizes:
            value = features[name]
            if name in self.tables:
                vectors.append(self._embed(self.tables[name], value))
            else:
                vectors.append(tf.cast(value, self.compute_dtype))
        return tf.concat(vectors, axis=-1)

    def _embed(self, table: keras.layers.Embedding, index: tf.Tensor) -> tf.Tensor:
        vectors = table(index)
        real = tf.cast(index != MISSING, vectors.dtype)[..., None]
        if index.shape.rank == 1:
            return vectors * real
        count = tf.maximum(tf.reduce_sum(real, axis=1), 1.0)
        return tf.reduce_sum(vectors * real, axis=1) / count

    def get_config(self) -> dict[str, Any]:
        """Sizes and width."""
        return {**super().get_config(), "sizes": self.sizes, "dim": self.dim}


def embedding_initializer() -> keras.initializers.Initializer:
    """A small normal start, the same for every embedding table."""
    return keras.initializers.RandomNormal(stddev=0.05)
