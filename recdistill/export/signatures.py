"""The student as a server sees it: signatures over raw values, and their SavedModel.

`recdistill.export.student_export` decides when and where a model is published; this
module
says what the graph computes and how it is stored. Every input and output has a batch
dimension, because a server that batches requests wraps all signatures alike.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from recdistill.export.inspection import read_model
from recdistill.export.layout import RESERVED, SAVED_MODEL
from recdistill.features.encoders import (
    Encoder,
    HistoryEncoder,
    Schema,
    VocabularyEncoder,
)
from recdistill.models.two_tower import TwoTowerStudent
from recdistill.retrieval.catalogue import Catalogue
from recdistill.retrieval.exact import bounded

Tensors = dict[str, tf.Tensor]
Specs = dict[str, tf.TensorSpec]


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
    * `recommend`: the same with `k` `(batch,)`, `exclude_ids` and `allow_ids`
      `(batch, n)`. A batch has one width, so every query gets the largest `k` of the
      batch: the client cuts;
    * `rank`: raw query features and `candidate_ids` `(batch, n)` to `scores` and
      `known`; an id that the catalogue lacks has `known` False and the lowest score;
    * `encode_query`, `encode_candidates`: raw features to `embedding` `(batch, dim)`.

    "" and unknown ids exclude nothing. A query whose `allow_ids` are all "" may get any
    item; one that names an id gets only items that it names, none if the catalogue has
    none of them. Padding with "" or by repetition, as a server's batcher may do it,
    changes neither. An answer without an item (more excluded than left) has the id ""
    and the lowest finite float32 as its score. All outputs are finite.

    Args:
        student: The trained student.
        schema: Its features; privileged ones are left out.
        catalogue: The items, with the student's embedding of each.
        top_k: Number of items that `serving_default` returns.

    Raises:
        ValueError: If `top_k` does not fit the catalogue, or two inputs would have one
            name.
    """

    def __init__(
        self,
        student: TwoTowerStudent,
        schema: Schema,
        catalogue: Catalogue,
        top_k: int,
    ) -> None:
        items = int(catalogue.index.items())
        if not 1 <= top_k <= items:
            raise ValueError(
                f"`top_k` must be from 1 to the number of items, {items}. "
                f"Received: top_k={top_k}"
            )
        self.student, self.schema, self.top_k = student, schema.for_student(), top_k
        self.query_inputs = _raw_inputs(self.schema.query, "query")
        self.candidate_inputs = _raw_inputs(self.schema.candidate, "candidate")
        self.catalogue = catalogue

    @property
    def signatures(self) -> dict[str, Signature]:
        """All signatures by name."""
        k = {"k": tf.TensorSpec([None], tf.int32)}
        ids = tf.TensorSpec([None, None], tf.string)
        lists = {"exclude_ids": ids, "allow_ids": ids}
        query = self.query_inputs
        return {
            "serving_default": Signature(query, self._serving_default),
            "recommend": Signature({**query, **k, **lists}, self._recommend),
            "rank": Signature({**query, "candidate_ids": ids}, self._rank),
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
        module.catalogue = self.catalogue
        module.tables = [
            encoder.table
            for encoder in self.schema.submodules
            if isinstance(encoder, VocabularyEncoder)
        ]
        # What the encoders read, and no more: no teacher, no state of a dropout.
        read = {v.ref(): v for f in functions.values() for v in f.graph.variables}
        for variable in self.catalogue.variables:
            read.pop(variable.ref(), None)
        module.weights = list(read.values())
        tf.saved_model.save(module, str(folder), signatures=functions)
        _restore_input_names(folder, self.signatures)

    def _query(self, inputs: Tensors) -> tf.Tensor:
        looked_up = self.schema.lookup_query(self._checked_history(inputs))
        return bounded(self.student.encode_query(looked_up, training=False))

    def _serving_default(self, inputs: Tensors) -> Tensors:
        found = self.catalogue.index.top_k(self._query(inputs), self.top_k)
        return self._named(*found)

    def _recommend(self, inputs: Tensors) -> Tensors:
        index = self.catalogue.index
        items = index.items()
        fits = (inputs["k"] >= 1) & (inputs["k"] <= items)
        number = tf.strings.as_string(items)
        message = tf.strings.join(
            ["`k` must be from 1 to the number of items, ", number, "."]
        )
        inputs = _require(tf.reduce_all(fits), message, inputs, inputs["k"])
        # A request without rows has no largest k; its answer is empty for any.
        k = tf.maximum(tf.reduce_max(inputs["k"]), 1)
        exclude = self.catalogue.rows_of(inputs["exclude_ids"])
        allow = self.catalogue.rows_of(inputs["allow_ids"])
        limited = tf.reduce_any(inputs["allow_ids"] != "", axis=1)
        query = self._query(inputs)
        return self._named(*index.top_k(query, k, exclude, allow, limited))

    def _rank(self, inputs: Tensors) -> Tensors:
        rows = self.catalogue.rows_of(inputs["candidate_ids"])
        scores = self.catalogue.index.score(self._query(inputs), rows)
        return {"scores": scores, "known": rows >= 0}

    def _encode_candidates(self, inputs: Tensors) -> Tensors:
        looked_up = self.schema.lookup_candidates(inputs)
        return {"embedding": bounded(self.student.encode_candidates(looked_up))}

    def _named(self, rows: tf.Tensor, scores: tf.Tensor) -> Tensors:
        return {"item_ids": self.catalogue.ids_of(rows), "scores": scores}

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


def _require(
    condition: tf.Tensor,
    message: str | tf.Tensor,
    inputs: Tensors,
    *received: tf.Tensor,
) -> Tensors:
    """The inputs, which can be read only where the condition holds."""
    data = [message + " Received:", *received]
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


def _restore_input_names(folder: Path, signatures: Mapping[str, Signature]) -> None:
    """Gives the inputs whose name is no Python identifier their name back."""
    renamed = {
        name: {a: n for a, n in _arguments(signature.inputs).items() if a != n}
        for name, signature in signatures.items()
    }
    if not any(renamed.values()):
        return
    model = read_model(folder)
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
    (folder / SAVED_MODEL).write_bytes(model.SerializeToString(deterministic=True))
    # It is optional, and a hash of the file as it was.
    (folder / "fingerprint.pb").unlink(missing_ok=True)
