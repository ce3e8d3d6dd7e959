"""Inspection of a SavedModel: its signatures, its ops, and the servers that load it.

All facts are read from the files, without building the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from recdistill.export.layout import SAVED_MODEL

NOT_SERVED = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})
"""Ops that call Python; TensorFlow Serving cannot run them."""

FUNCTIONS_SINCE = (2, 0)
"""First TensorFlow release whose servers load the output of `tf.saved_model.save`."""

SINCE = {
    "DenseBincount": (2, 3),
    "DisableCopyOnRead": (2, 12),
    "RaggedTensorToTensor": (2, 1),
}
"""Release that introduced an op, for ops newer than `FUNCTIONS_SINCE`.

Taken from the history of TensorFlow's ops; where in doubt, the later release.
"""


def read_model(folder: Path) -> saved_model_pb2.SavedModel:
    """Parsed content of `saved_model.pb`."""
    content = (folder / SAVED_MODEL).read_bytes()
    return saved_model_pb2.SavedModel.FromString(content)


def signature_table(folder: Path) -> dict[str, Any]:
    """Signatures of a SavedModel as a server sees them, JSON-ready.

    Args:
        folder: The SavedModel.

    Returns:
        By signature, `inputs` and `outputs`: dtype and shape by name. An axis of any
        size is None.
    """

    def describe(tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: {
                "dtype": tf.as_dtype(info.dtype).name,
                "shape": tf.TensorShape(info.tensor_shape).as_list(),
            }
            for name, info in sorted(tensors.items())
        }

    return {
        name: {
            "inputs": describe(signature.inputs),
            "outputs": describe(signature.outputs),
        }
        for name, signature in sorted(
            read_model(folder).meta_graphs[0].signature_def.items()
        )
        if not name.startswith("__")  # TensorFlow's own, such as its initialiser.
    }


def served_ops(folder: Path) -> list[str]:
    """Ops of a SavedModel, after a check that TensorFlow Serving has all of them.

    Args:
        folder: The SavedModel.

    Returns:
        Names of the ops in the graph and in its function library, sorted.

    Raises:
        ValueError: If an op calls Python or is not part of TensorFlow; the message
            names op, node and function.
    """
    graph = read_model(folder).meta_graphs[0].graph_def
    functions = {f.signature.name: f.node_def for f in graph.library.function}
    used = set()
    for function, nodes in {"the main graph": graph.node, **functions}.items():
        for node in nodes:
            # `raw_ops` lists the ops of the TensorFlow build, not those loaded later.
            stock = hasattr(tf.raw_ops, node.op) and node.op not in NOT_SERVED
            if not stock and node.op not in functions:
                raise ValueError(
                    "The model must use only ops of TensorFlow Serving. Received: "
                    f"{node.op}, node {node.name!r} of {function}"
                )
            used.add(node.op)
    return sorted(used - functions.keys())


def compatibility(folder: Path) -> dict[str, Any]:
    """Server versions that can load a SavedModel, estimated from its files.

    Two facts are certain: the TensorFlow version that wrote the model, with which the
    export was checked, and `min_consumer`, below which a server rejects the graph.
    Between the two, a server rejects a graph with an op that it does not know, and the
    files do not record when an op was introduced. `oldest_server` is therefore a lower
    bound, estimated with `SINCE`.

    Args:
        folder: The SavedModel.

    Returns:
        JSON-ready: `written_by`, `producer`, `min_consumer`, `default_attributes`
        (if they are left out, a server does not need to know new ones), and
        `oldest_server` with `tensorflow`, `estimate` (always true) and `because`.
    """
    graph = read_model(folder).meta_graphs[0]
    ops = {node.op for node in graph.graph_def.node}
    for function in graph.graph_def.library.function:
        ops.update(node.op for node in function.node_def)
    newest = max(ops & SINCE.keys(), key=lambda op: SINCE[op], default=None)
    version = max(SINCE[newest] if newest else FUNCTIONS_SINCE, FUNCTIONS_SINCE)
    return {
        "written_by": graph.meta_info_def.tensorflow_version,
        "producer": graph.graph_def.versions.producer,
        "min_consumer": graph.graph_def.versions.min_consumer,
        "default_attributes": (
            "left out" if graph.meta_info_def.stripped_default_attrs else "written"
        ),
        "oldest_server": {
            "tensorflow": ".".join(map(str, version)),
            "estimate": True,
            "because": f"the op {newest}" if newest else "SavedModels of functions",
        },
    }
