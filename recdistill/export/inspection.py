"""What a SavedModel says of itself: signatures, ops, and who can load it.

Read from its files, without building its graph. Nothing here needs the training side.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from recdistill.export.layout import SAVED_MODEL

NOT_SERVED = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})
"""Ops that Python's TensorFlow has and TensorFlow Serving lacks: they call Python."""

FUNCTIONS_SINCE = (2, 0)
"""The TensorFlow release whose servers load what `tf.saved_model.save` writes."""

SINCE = {
    "DenseBincount": (2, 3),
    "DisableCopyOnRead": (2, 12),
    "RaggedTensorToTensor": (2, 1),
}
"""The release that an op came with, for ops of exports newer than `FUNCTIONS_SINCE`.

From the history of TensorFlow's ops, to the best of our knowledge; where in doubt, the
later release.
"""


def read_model(folder: Path) -> saved_model_pb2.SavedModel:
    """The message in `saved_model.pb`."""
    content = (folder / SAVED_MODEL).read_bytes()
    return saved_model_pb2.SavedModel.FromString(content)


def signature_table(folder: Path) -> dict[str, Any]:
    """The signatures of a SavedModel as a server sees them, JSON-ready.

    Args:
        folder: The SavedModel.

    Returns:
        By signature, `inputs` and `outputs`: dtype and shape of each by its name. An
        axis of any size is None.
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
        for name, signature in read_model(folder).meta_graphs[0].signature_def.items()
        if not name.startswith("__")  # TensorFlow's own, such as its initialiser.
    }


def served_ops(folder: Path) -> list[str]:
    """The ops of a SavedModel, if TensorFlow Serving has all of them.

    Args:
        folder: The SavedModel.

    Returns:
        Names of the ops in the graph and in its function library, sorted.

    Raises:
        ValueError: If an op calls Python or is none of TensorFlow's own; the message
            names op, node and function.
    """
    graph = read_model(folder).meta_graphs[0].graph_def
    functions = {f.signature.name: f.node_def for f in graph.library.function}
    used = set()
    for function, nodes in {"the main graph": graph.node, **functions}.items():
        for node in nodes:
            # `raw_ops` lists what TensorFlow was built with, not what was loaded since.
            stock = hasattr(tf.raw_ops, node.op) and node.op not in NOT_SERVED
            if not stock and node.op not in functions:
                raise ValueError(
                    "`student` must use ops that TensorFlow Serving has. Received: "
                    f"{node.op}, node {node.name!r} of {function}"
                )
            used.add(node.op)
    return sorted(used - functions.keys())


def compatibility(folder: Path) -> dict[str, Any]:
    """Which servers can load a SavedModel, as far as its files tell.

    What is certain is the version that wrote it, with which the export was proven, and
    `min_consumer`, below which a server refuses the graph. Between the two a server
    refuses a graph for an op that it does not know, and no file says when an op came.
    `oldest_server` is therefore an estimate: from `SINCE`, and from below.

    Args:
        folder: The SavedModel.

    Returns:
        JSON-ready: `written_by`, `producer`, `min_consumer`, `default_attributes`
        (whether they are left out, so that a server need not know new ones), and
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
