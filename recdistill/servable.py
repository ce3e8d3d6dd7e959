"""The student as a server sees it: signatures over raw values, and their SavedModel.

`recdistill.export` decides when and where a model is published; this module says what
the graph computes and how it is stored. Every input and output has a batch dimension,
because a server that batches requests wraps all signatures alike.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from recdistill.encoders import (
    Encoder,
    HistoryEncoder,
    Schema,
    VocabularyEncoder,
)
from recdistill.retrieval import ExactIndex, bounded
from recdistill.student import TwoTowerStudent

Tensors = dict[str, tf.Tensor]
Specs = dict[str, tf.TensorSpec]

RESERVED = ("k", "exclude_ids", "candidate_ids")
"""Inputs of the signatures beside the raw features; no feature may be called so."""

NOT_SERVED = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})
"""Ops that Python's TensorFlow has and TensorFlow Serving lacks: they call Python."""


@dataclass(frozen=True)
class Signature:
    """One way to call the model.

    Attributes:
        inputs: Shape and dtype of each input, the batch dimension first.
        call: The computation, from inputs by name to outputs by name.
    """

    inputs: Specs
    call: Callable[[Tensors], Tensors]


class Servable:
    """A student, its catalogue, and what can be asked of them.

    * `serving_default`: raw query features to the `top_k` best items;
    * `recommend`: the same with `k` `(batch,)` and `exclude_ids` `(batch, n)`. A batch
      has one width, so every query gets the largest `k` of the batch: the client cuts;
    * `rank`: raw query features and `candidate_ids` `(batch, n)` to `scores` and
      `known`; an id that the catalogue lacks has `known` False and the lowest score;
    * `encode_query`, `encode_candidates`: raw features to `embedding` `(batch, dim)`.

    An answer without an item (more excluded than left) has the id "" and the lowest
    finite float32 as its score. "" and unknown ids exclude nothing. All outputs are
    finite.

    Args:
        student: The trained student.
        schema: Its features; privileged ones are left out.
        item_ids: Identifier of each catalogue row, unique and not empty.
        embeddings: `(items, dim)`, the student's embedding of each catalogue row.
        top_k: Number of items that `serving_default` returns.

    Raises:
        ValueError: If ids repeat or are empty, `top_k` does not fit the catalogue, or
            two inputs would have one name.
    """

    def __init__(
        self,
        student: TwoTowerStudent,
        schema: Schema,
        item_ids: Sequence[str],
        embeddings: np.ndarray,
        top_k: int,
    ) -> None:
        if len(set(item_ids)) < len(item_ids) or "" in item_ids:
            twice = "" if "" in item_ids else _first_repeated(item_ids)
            raise ValueError(
                "`item_ids` must hold each id once, and none may be empty. "
                f"Received: {twice!r}"
            )
        if not 1 <= top_k <= len(item_ids):
            raise ValueError(
                f"`top_k` must be from 1 to the number of items, {len(item_ids)}. "
                f"Received: top_k={top_k}"
            )
        self.student, self.schema, self.top_k = student, schema.for_student(), top_k
        self.query_inputs = _raw_inputs(self.schema.query, "query")
        self.candidate_inputs = _raw_inputs(self.schema.candidate, "candidate")
        self.index = ExactIndex(embeddings)
        self.item_ids = tf.constant(list(item_ids), tf.string)
        self.item_rows = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                self.item_ids, tf.range(len(item_ids), dtype=tf.int32)
            ),
            default_value=-1,
        )

    @property
    def signatures(self) -> dict[str, Signature]:
        """All signatures by name."""
        k = {"k": tf.TensorSpec([None], tf.int32)}
        exclude = {"exclude_ids": tf.TensorSpec([None, None], tf.string)}
        candidates = {"candidate_ids": tf.TensorSpec([None, None], tf.string)}
        query = self.query_inputs
        return {
            "serving_default": Signature(query, self._serving_default),
            "recommend": Signature({**query, **k, **exclude}, self._recommend),
            "rank": Signature({**query, **candidates}, self._rank),
            "encode_query": Signature(
                query, lambda inputs: {"embedding": self._query(inputs)}
            ),
            "encode_candidates": Signature(
                self.candidate_inputs, self._encode_candidates
            ),
        }

    def save(self, folder: Path) -> None:
        """Writes a SavedModel; each weight is stored once.

        Keras variables are restored by TensorFlow's session loader, which the server
        uses, only if the underlying variables hang on the saved module themselves.

        Args:
            folder: Where to; what TensorFlow writes there is overwritten.
        """
        functions = {
            name: _concrete(signature) for name, signature in self.signatures.items()
        }
        module = tf.Module(name="student")
        module.index = self.index
        module.item_rows = self.item_rows
        module.tables = [
            encoder.table
            for encoder in self.schema.submodules
            if isinstance(encoder, VocabularyEncoder)
        ]
        # What the encoders read, and no more: no teacher, no state of a dropout.
        read = {v.ref(): v for f in functions.values() for v in f.graph.variables}
        read.pop(self.index.embeddings.ref())
        module.weights = list(read.values())
        tf.saved_model.save(module, str(folder), signatures=functions)
        _restore_input_names(folder, self.signatures)

    def _query(self, inputs: Tensors) -> tf.Tensor:
        looked_up = self.schema.lookup_query(self._checked_history(inputs))
        return bounded(self.student.encode_query(looked_up, training=False))

    def _serving_default(self, inputs: Tensors) -> Tensors:
        return self._named(*self.index.top_k(self._query(inputs), self.top_k))

    def _recommend(self, inputs: Tensors) -> Tensors:
        fits = (inputs["k"] >= 1) & (inputs["k"] <= self.index.size)
        message = f"`k` must be from 1 to the number of items, {self.index.size}."
        inputs = _require(tf.reduce_all(fits), message, inputs, inputs["k"])
        # A request without rows has no largest k; its answer is empty for any.
        k = tf.maximum(tf.reduce_max(inputs["k"]), 1)
        exclude = self.item_rows.lookup(inputs["exclude_ids"])
        return self._named(*self.index.top_k(self._query(inputs), k, exclude))

    def _rank(self, inputs: Tensors) -> Tensors:
        rows = self.item_rows.lookup(inputs["candidate_ids"])
        return {
            "scores": self.index.score(self._query(inputs), rows),
            "known": rows >= 0,
        }

    def _encode_candidates(self, inputs: Tensors) -> Tensors:
        looked_up = self.schema.lookup_candidates(inputs)
        return {"embedding": bounded(self.student.encode_candidates(looked_up))}

    def _named(self, rows: tf.Tensor, scores: tf.Tensor) -> Tensors:
        ids = tf.gather(self.item_ids, tf.maximum(rows, 0))
        return {
            "item_ids": tf.where(rows >= 0, ids, tf.fill(tf.shape(rows), "")),
            "scores": scores,
        }

    def _checked_history(self, inputs: Tensors) -> Tensors:
        for encoder in self.schema.query:
            if isinstance(encoder, HistoryEncoder):
                ids, length = encoder.raw_inputs()
                width = tf.shape(inputs[ids])[1]
                fits = (inputs[length] >= 0) & (inputs[length] <= width)
                message = f"`{length}` must be from 0 to the width of `{ids}`."
                inputs = _require(
                    tf.reduce_all(fits), message, inputs, inputs[length], width
                )
        return inputs


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
        for name, signature in _read(folder).meta_graphs[0].signature_def.items()
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
    graph = _read(folder).meta_graphs[0].graph_def
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


def _raw_inputs(encoders: Iterable[Encoder], side: str) -> Specs:
    inputs: Specs = {}
    for encoder in encoders:
        for name, spec in encoder.raw_inputs().items():
            if name in inputs or name in RESERVED:
                raise ValueError(
                    f"`schema` must give each input of the {side} a name of its own, "
                    f"and none of {RESERVED}. Received: {name!r} for feature "
                    f"{encoder.feature!r}"
                )
            inputs[name] = spec
    return inputs


def _first_repeated(values: Iterable[str]) -> str:
    seen: set[str] = set()
    return next(v for v in values if v in seen or seen.add(v))  # type: ignore[func-returns-value]


def _require(
    condition: tf.Tensor, message: str, inputs: Tensors, *received: tf.Tensor
) -> Tensors:
    """The inputs, which can be read only where the condition holds."""
    data = [f"{message} Received:", *received]
    check = tf.raw_ops.Assert(condition=condition, data=data, summarize=8)
    with tf.control_dependencies([check]):
        return {name: tf.identity(tensor) for name, tensor in inputs.items()}


def _checked(inputs: Tensors, specs: Specs) -> Tensors:
    """The inputs, if each has its number of axes and all have one batch size.

    A server does not compare shapes with the signature, so the graph does.
    """
    inputs = {
        name: tf.ensure_shape(
            tensor,
            specs[name].shape,
            name="input_" + re.sub(r"\W", "_", name, flags=re.A),
        )
        for name, tensor in inputs.items()
    }
    first, *others = inputs
    for name in others:
        size, batch = (tf.shape(inputs[each])[0] for each in (name, first))
        message = f"`{name}` must have the batch size of `{first}`."
        inputs = _require(tf.equal(size, batch), message, inputs, size, batch)
    return inputs


def _arguments(specs: Mapping[str, tf.TensorSpec]) -> dict[str, str]:
    """Input names by the argument that stands for each in a traced function.

    TensorFlow takes Python identifiers only, and `class` is a fair name for a feature.
    """
    arguments = {}
    for position, name in enumerate(specs):
        fits = re.fullmatch(r"[A-Za-z]\w*", name, flags=re.A)
        plain = fits and not keyword.iskeyword(name)
        arguments[name if plain else f"input_{position}"] = name
    return arguments


def _concrete(signature: Signature) -> tf.types.experimental.ConcreteFunction:
    arguments = _arguments(signature.inputs)

    def call(**tensors: tf.Tensor) -> Tensors:
        inputs = {name: tensors[each] for each, name in arguments.items()}
        return signature.call(_checked(inputs, signature.inputs))

    return tf.function(call).get_concrete_function(
        **{
            argument: tf.TensorSpec(
                signature.inputs[name].shape, signature.inputs[name].dtype, argument
            )
            for argument, name in arguments.items()
        }
    )


def _read(folder: Path) -> saved_model_pb2.SavedModel:
    content = (folder / "saved_model.pb").read_bytes()
    return saved_model_pb2.SavedModel.FromString(content)


def _restore_input_names(folder: Path, signatures: Mapping[str, Signature]) -> None:
    """Gives the inputs whose name is no Python identifier their name back."""
    renamed = {
        name: {a: n for a, n in _arguments(signature.inputs).items() if a != n}
        for name, signature in signatures.items()
    }
    if not any(renamed.values()):
        return
    model = _read(folder)
    graph = model.meta_graphs[0]
    for name, names in renamed.items():
        inputs = graph.signature_def[name].inputs
        for argument, own in names.items():
            inputs[own].CopyFrom(inputs.pop(argument))
    nodes = graph.object_graph_def.nodes
    root = next(c for c in nodes[0].children if c.local_name == "signatures")
    for child in nodes[root.node_id].children:
        keywords = nodes[child.node_id].bare_concrete_function.argument_keywords
        names = renamed[child.local_name]
        keywords[:] = [names.get(each, each) for each in keywords]
    (folder / "saved_model.pb").write_bytes(model.SerializeToString(deterministic=True))
    # It is optional, and a hash of the file as it was.
    (folder / "fingerprint.pb").unlink(missing_ok=True)
