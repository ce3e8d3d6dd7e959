"""Serialized `tf.train.Example` messages, the input of models from TF-Ranking and TFX.

Such a model has one text input and parses it in its graph. The graph has the names,
types and shapes of the features, so they are the inputs of the teacher.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from recdistill.teachers.inputs import InputSpec

__all__ = ["example_features", "serialized"]


def example_features(function: Any) -> dict[str, InputSpec] | None:
    """The features that the graph of a function parses from serialized examples.

    Args:
        function: A concrete function with one text input.

    Returns:
        The features by name; None if the graph does not parse examples, or not with
        constant names.
    """
    graph = function.graph.as_graph_def()
    scopes = [graph.node, *(body.node_def for body in graph.library.function)]
    for nodes in scopes:
        for node in nodes:
            names = _names(node, _constants(nodes))
            if names is not None:
                return dict(_specs(node, *names))
    return None


def serialized(
    inputs: Mapping[str, np.ndarray], features: Mapping[str, InputSpec]
) -> np.ndarray:
    """One serialized example for each row, `(rows,)` bytes.

    Missing numbers are left out, so that the default of the model applies.

    Args:
        inputs: Values of each feature: `(rows,)`, `(rows, n)`, or ragged rows.
        features: Type of each feature.
    """
    rows = len(next(iter(inputs.values())))
    return np.array(
        [
            _example({k: v[row] for k, v in inputs.items()}, features)
            for row in range(rows)
        ],
        object,
    )


def _example(row: Mapping[str, Any], features: Mapping[str, InputSpec]) -> bytes:
    example = tf.train.Example()
    for name, value in row.items():
        values, dtype = np.atleast_1d(value).ravel(), features[name].dtype
        if dtype == "string":
            feature = example.features.feature[name].bytes_list
            feature.value.extend(str(each).encode() for each in values)
        elif dtype == "int64":
            example.features.feature[name].int64_list.value.extend(values.tolist())
        elif not np.isnan(values.astype("float64")).any():
            example.features.feature[name].float_list.value.extend(values.tolist())
    return bytes(example.SerializeToString())


def _constants(nodes: Sequence[Any]) -> dict[str, np.ndarray]:
    return {
        node.name: tf.make_ndarray(node.attr["value"].tensor)
        for node in nodes
        if node.op == "Const"
    }


def _names(
    node: Any, constants: Mapping[str, np.ndarray]
) -> tuple[list[str], list[str], list[str]] | None:
    """Names of the sparse, dense and ragged features of a node that parses."""
    inputs = [name.lstrip("^").split(":")[0] for name in node.input]
    if node.op == "ParseExampleV2":
        found = [constants.get(name) for name in inputs[2:5]]
    elif node.op == "ParseExample":
        sparse, dense = node.attr["Nsparse"].i, node.attr["Ndense"].i
        keys = [constants.get(name) for name in inputs[2 : 2 + sparse + dense]]
        if any(key is None for key in keys):
            return None
        flat = np.array([np.asarray(key).item() for key in keys], object)
        found = [flat[:sparse], flat[sparse:], np.array([], object)]
    else:
        return None
    if any(each is None for each in found):
        return None
    sparse_names, dense_names, ragged_names = (
        [key.decode() for key in np.ravel(np.asarray(each))] for each in found
    )
    return sparse_names, dense_names, ragged_names


def _specs(
    node: Any, sparse: list[str], dense: list[str], ragged: list[str]
) -> Iterator[tuple[str, InputSpec]]:
    attributes = node.attr
    for names, types in (
        (sparse, attributes["sparse_types"].list.type),
        (ragged, attributes["ragged_value_types"].list.type),
    ):
        for name, dtype in zip(names, types, strict=True):
            yield name, InputSpec(tf.as_dtype(dtype).name, (None, None), ragged=True)
    for name, dtype, shape in zip(
        dense,
        attributes["Tdense"].list.type,
        attributes["dense_shapes"].list.shape,
        strict=True,
    ):
        sizes = tf.TensorShape(shape).as_list()
        yield name, InputSpec(tf.as_dtype(dtype).name, (None, *sizes))
