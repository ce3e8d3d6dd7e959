"""Export of any two-tower model: `export_towers`, for Keras towers and SavedModels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from recdistill.export.parity import Arrays
from recdistill.export.publishing import (
    CatalogueRows,
    Export,
    ExportSettings,
    publish_towers,
)
from recdistill.export.raw_inputs import as_columns, as_inputs, item_ids
from recdistill.export.signatures import Specs, Tensors

__all__ = ["EmbeddedItems", "EncodedItems", "TowerSource", "export_towers"]

ID_COLUMN = "item_id"
"""Column of the item ids in the table that `reindex` reads."""


@dataclass(frozen=True)
class TowerSource:
    """A tower together with the details that it does not declare itself.

    Attributes:
        model: A Keras layer or model, the path of a SavedModel, or an object that
            `tf.saved_model.load` returned.
        inputs: Dtype and shape of each input, the batch dimension first. If None, a
            functional or sequential Keras model and a SavedModel declare them; for
            other models they are taken from the example rows, in which an axis has a
            fixed size unless the rows are lists of different lengths.
        signature: Signature of a SavedModel.
        output: Name of the output that holds the embedding; None if there is only one.
    """

    model: Any
    inputs: Mapping[str, tf.TensorSpec] | None = None
    signature: str = "serving_default"
    output: str | None = None


@dataclass(frozen=True)
class EmbeddedItems:
    """Items of a catalogue that come with their embeddings.

    Attributes:
        ids: `(items,)`, strings or integers.
        embeddings: `(items, dim)`.
    """

    ids: Any
    embeddings: Any


@dataclass(frozen=True)
class EncodedItems:
    """Items of a catalogue whose embeddings a candidate tower computes.

    Attributes:
        ids: `(items,)`, strings or integers.
        tower: The candidate tower, in any form that `TowerSource.model` allows, or a
            `TowerSource`.
        features: Raw inputs of the tower: a data frame or a mapping with columns
            `(items, …)`, or one array for a tower with a single input.
    """

    ids: Any
    tower: Any
    features: Any


def export_towers(
    query_tower: Any,
    folder: Path | str,
    *,
    name: str,
    items: EmbeddedItems | EncodedItems,
    queries: Any,
    settings: ExportSettings | None = None,
) -> Export:
    """Exports your own query tower and items as the next version of `folder/name`.

    The towers take raw features, so they must contain lookups and other preprocessing,
    for example as `keras.layers.StringLookup`. The score of an item is the dot product
    of both embeddings. The export has the same five signatures, warm-up requests,
    manifest and parity check as that of a student. Without a candidate tower the
    signature `encode_candidates` is left out, and `reindex` cannot replace the items.

    Inputs keep the names that the tower gives them. An input may be a list of variable
    length, shape `(batch, None)`. Servers and clients pad lists with empty entries (""
    or 0), so the tower must ignore these at the end of a list: it masks them, or reads
    the number of entries from another input, `<name>_length`. An empty entry at the
    start of a list without a length is dropped.

    Args:
        query_tower: A Keras layer or model (functional, sequential or a subclass), a
            SavedModel or its path, or a `TowerSource`. A TFRS or tf_keras tower can be
            exported through its SavedModel.
        folder: Folder of all exports; created if it does not exist.
        name: The model's name on the server.
        items: The catalogue.
        queries: Raw inputs of real queries, for the parity check and the warm-up: a
            data frame or a mapping with columns `(queries, …)`, or one array for a
            tower with a single input.
        settings: Length of the answer, index, warm-up and metadata.

    Returns:
        The published version.

    Raises:
        ExportError: If the export does not answer as the towers do.
        BusyError: If another process is exporting to the same place.
        ValueError: If an argument is invalid, or the model uses an op that TensorFlow
            Serving does not have.
    """
    query, query_rows = _opened("query_tower", query_tower, "queries", queries)
    if isinstance(items, EncodedItems):
        candidate, rows = _opened("tower", items.tower, "features", items.features)
        catalogue = CatalogueRows(item_ids(items.ids), rows)
        size = len(next(iter(rows.values())))
    else:
        candidate, vectors = None, np.asarray(items.embeddings, "float32")
        catalogue = CatalogueRows(item_ids(items.ids), {}, vectors)
        size = len(vectors)
    if size != len(catalogue.ids):
        raise ValueError(
            "`items` must have one id for each item. Received: "
            f"{len(catalogue.ids)} ids for {size} items"
        )
    towers = _PairOfTowers(query, candidate)
    schema = {
        "item_id": ID_COLUMN,
        "query": _described(towers.query_inputs),
        "candidate": _described(towers.candidate_inputs),
    }
    return publish_towers(
        towers,
        catalogue,
        query_rows,
        Path(folder),
        name,
        settings or ExportSettings(),
        {"schema": schema, "on_device": False},
    )


@dataclass(frozen=True)
class _Tower:
    """A tower that is ready to be called.

    Attributes:
        inputs: Dtype and shape of each raw input.
        encode: The function from raw inputs to embeddings.
        root: The Keras layer, or the loaded SavedModel.
    """

    inputs: Specs
    encode: Callable[[Tensors], tf.Tensor]
    root: Any

    def tables(self) -> Iterator[Any]:
        """All lookup tables and other resources below the root."""
        roots = [self.root]
        if isinstance(self.root, keras.layers.Layer):
            # Keras hides layers in lists and dicts from TensorFlow's view.
            roots = self.root._flatten_layers()
        for root in roots:
            for each in tf.train.TrackableView(root).descendants():
                if isinstance(each, tf.saved_model.experimental.TrackableResource):
                    yield each


class _PairOfTowers:
    """A query tower and an optional candidate tower, as `signatures.Towers`."""

    def __init__(self, query: _Tower, candidate: _Tower | None) -> None:
        self._query, self._candidate = query, candidate
        self.query_inputs = query.inputs
        self.candidate_inputs = candidate.inputs if candidate else {}

    def encode_query(self, inputs: Tensors) -> tf.Tensor:
        """Raw query inputs to embeddings."""
        return self._query.encode(inputs)

    def encode_candidates(self, inputs: Tensors) -> tf.Tensor:
        """Raw candidate inputs to embeddings."""
        if self._candidate is None:
            raise ValueError("`encode_candidates` needs a candidate tower.")
        return self._candidate.encode(inputs)

    def tables(self) -> list[Any]:
        """The lookup tables of both towers."""
        towers = (self._query, self._candidate)
        return [table for tower in towers if tower for table in tower.tables()]


def _opened(
    argument: str, tower: Any, examples_name: str, examples: Any
) -> tuple[_Tower, Arrays]:
    """The tower, and the example rows as its inputs."""
    source = tower if isinstance(tower, TowerSource) else TowerSource(tower)
    if isinstance(source.model, str | Path):
        source = replace(source, model=tf.saved_model.load(str(source.model)))
    if isinstance(source.model, keras.layers.Layer):
        names, encode = _keras_call(argument, source, examples)
    elif hasattr(source.model, "signatures"):
        names, encode = _saved_model_call(argument, source)
    else:
        raise ValueError(
            f"`{argument}` must be a Keras layer or model, or a SavedModel with "
            f"signatures. Received: {type(source.model).__name__}"
        )
    if not _is_mapping(examples):
        if len(names) != 1:
            raise ValueError(
                f"`{examples_name}` must be a mapping from input names to arrays, "
                f"because `{argument}` has the inputs {sorted(names)}. "
                f"Received: {type(examples).__name__}"
            )
        examples = {next(iter(names)): examples}
    specs = source.inputs or _specs(names, examples_name, examples)
    rows = as_inputs(examples_name, examples, specs)
    return _Tower(dict(specs), encode, source.model), rows


def _keras_call(
    argument: str, source: TowerSource, examples: Any
) -> tuple[dict[str, Any], Callable[[Tensors], tf.Tensor]]:
    """Symbolic inputs of a Keras model by name, and the function that calls it.

    An input is None if the model does not declare it.
    """
    structure = _input_structure(source.model)
    given = [str(name) for name in examples] if _is_mapping(examples) else ["input"]
    takes_mapping = isinstance(structure, Mapping)
    if takes_mapping:
        inputs = dict(structure)
    elif structure is None:
        sequential = isinstance(source.model, keras.Sequential)
        takes_mapping = _is_mapping(examples) and not sequential
        inputs = dict.fromkeys(given)
    else:
        inputs = {each.name: each for each in keras.tree.flatten(structure)}
        made_up = next(iter(inputs)).startswith("keras_tensor")
        if len(inputs) == len(given) == 1 and made_up:
            inputs = dict(zip(given, inputs.values(), strict=True))
    names = list(inputs)

    def encode(raw: Tensors) -> tf.Tensor:
        values = [raw[name] for name in names]
        if takes_mapping:
            packed = dict(zip(names, values, strict=True))
        elif len(values) == 1 and not isinstance(structure, list | tuple):
            [packed] = values
        else:
            packed = keras.tree.pack_sequence_as(structure, values)
        outputs = source.model(packed, training=False)
        return _picked(argument, outputs, source.output)

    return inputs, encode


def _input_structure(model: Any) -> Any:
    """The symbolic inputs of a functional or sequential model; None for others."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0] if model.built else None
    return model.input if getattr(model, "inputs", None) else None


def _saved_model_call(
    argument: str, source: TowerSource
) -> tuple[dict[str, Any], Callable[[Tensors], tf.Tensor]]:
    """Inputs of a signature by name, and the function that calls it."""
    signatures = source.model.signatures
    if source.signature not in signatures:
        raise ValueError(
            f"`{argument}` must have the signature {source.signature!r}, or "
            "TowerSource(signature=…) must name another. "
            f"Received: signatures {sorted(signatures)}"
        )
    function = signatures[source.signature]
    _, declared = function.structured_input_signature

    def encode(raw: Tensors) -> tf.Tensor:
        return _picked(argument, function(**raw), source.output)

    return dict(declared), encode


def _picked(argument: str, outputs: Any, wanted: str | None) -> tf.Tensor:
    if not isinstance(outputs, Mapping):
        return outputs
    name = next(iter(outputs)) if wanted is None and len(outputs) == 1 else wanted
    if name not in outputs:
        raise ValueError(
            f"`{argument}` must have one output, or TowerSource(output=…) must name "
            f"one. Received: output={wanted!r} of {sorted(outputs)}"
        )
    return outputs[name]


def _specs(names: Mapping[str, Any], examples_name: str, examples: Any) -> Specs:
    """Dtype and shape of each input: as declared, or else as in the example rows."""
    specs = {}
    for name, declared in names.items():
        shape = None if declared is None else tf.TensorShape(declared.shape)
        if shape is not None and shape.rank and shape[0] is None:
            specs[name] = tf.TensorSpec(shape, declared.dtype, name)
        elif name in examples:
            array, varies = as_columns(examples_name, {name: examples[name]})[name]
            axes = [None] if varies else array.shape[1:2]
            dtype = tf.string if array.dtype == object else array.dtype
            dtype = dtype if declared is None else declared.dtype
            specs[name] = tf.TensorSpec([None, *axes, *array.shape[2:]], dtype, name)
        else:
            raise ValueError(
                f"`{examples_name}` must have the raw input {name!r}. "
                f"Received: {sorted(examples)}"
            )
    return specs


def _described(inputs: Specs) -> dict[str, Any]:
    """Inputs for the manifest, JSON-ready."""
    return {
        name: {"kind": "input", "dtype": s.dtype.name, "shape": s.shape.as_list()}
        for name, s in inputs.items()
    }


def _is_mapping(values: Any) -> bool:
    return isinstance(values, Mapping | pd.DataFrame)
