"""Signatures of an export, and the SavedModel that holds them.

This module defines what the served graph computes and how it is stored;
`recdistill.export.publishing` decides when and where a version is published. Every
input and output has a batch dimension, because a batching server batches the requests
of all signatures.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import tensorflow as tf

from recdistill.atomic import require_space
from recdistill.export.canonical_graph import write_canonical
from recdistill.export.inspection import read_model
from recdistill.export.layout import MOST_ITEMS, RESERVED, SAVED_MODEL, SMALL_FILES
from recdistill.export.list_inputs import check_lists, without_padding
from recdistill.retrieval.catalogue import Catalogue, stored_bytes
from recdistill.retrieval.exact import bounded

Tensors = dict[str, tf.Tensor]
Specs = dict[str, tf.TensorSpec]


class Towers(Protocol):
    """A query tower and an optional candidate tower, both over raw features."""

    @property
    def query_inputs(self) -> Specs:
        """Raw query inputs by name, the batch dimension first."""

    @property
    def candidate_inputs(self) -> Specs:
        """Raw candidate inputs by name; empty if there is no candidate tower."""

    def encode_query(self, inputs: Tensors) -> tf.Tensor:
        """Raw query inputs to embeddings `(batch, dim)`."""

    def encode_candidates(self, inputs: Tensors) -> tf.Tensor:
        """Raw candidate inputs to embeddings `(batch, dim)`."""

    def tables(self) -> Iterable[Any]:
        """Lookup tables that the two methods may read, as TensorFlow resources."""


@dataclass(frozen=True)
class Signature:
    """Inputs of a signature and the function that it computes.

    Attributes:
        inputs: Shape and dtype of each input, the batch dimension first.
        call: The computation, from inputs by name to outputs by name.
    """

    inputs: Specs
    call: Callable[[Tensors], Tensors]


class Servable:
    """Two towers and a catalogue, as the signatures of a SavedModel.

    * `serving_default`: raw query features to the `top_k` best items;
    * `recommend`: the same with `k` `(batch,)`, `exclude_ids` and `allow_ids`
      `(batch, n)`. `k` is clamped to the number of items and to `MOST_ITEMS`, and a
      query with a `k` below 1 gets no items. All rows of an answer have the width of
      the largest `k` of the batch; the places after a query's own `k` are empty;
    * `rank`: raw query features and `candidate_ids` `(batch, n)` to `scores` and
      `known`; an id outside the catalogue has `known` False and the lowest score;
    * `encode_query`, `encode_candidates`: raw features to `embedding` `(batch, dim)`.
      `encode_candidates` is left out if there is no candidate tower.

    "" and unknown ids exclude nothing. A query whose `allow_ids` are all "" may get any
    item. A query that names ids gets only items that it names, and no item if the
    catalogue has none of them. A place of the answer without an item has the id "" and
    the lowest finite float32 as its score. All outputs are finite.

    `serving_default` and `recommend` also leave out all ids in the `excluded_inputs`,
    such as the history that is sent with a query. `rank` scores every candidate.

    The answer to a row does not depend on the other rows of a batch, if the inputs in
    `recdistill.export.layout.lists_without_length` begin with an empty column and no
    `<name>_length` is above the number of entries sent. Wrong values are clamped in
    their own row; only a request whose shapes are wrong fails.

    Args:
        towers: The model.
        catalogue: The items, with the model's embedding of each.
        top_k: Number of items that `serving_default` returns.
        excluded_inputs: Names of query inputs `(batch, n)` with item ids that are never
            recommended. If there is an input `<name>_length`, ids beyond that number
            exclude nothing.

    Raises:
        ValueError: If `top_k` is larger than the catalogue, an input has a reserved
            name, or an excluded input is not a list of ids.
    """

    def __init__(
        self,
        towers: Towers,
        catalogue: Catalogue,
        top_k: int,
        excluded_inputs: Sequence[str] = (),
    ) -> None:
        items = int(catalogue.index.items())
        if not 1 <= top_k <= items:
            raise ValueError(
                "`top_k` of the settings of the export must be from 1 to the number of "
                f"items, {items}. Received: top_k={top_k}"
            )
        for name in (*towers.query_inputs, *towers.candidate_inputs):
            if name in RESERVED:
                raise ValueError(
                    f"An input of a tower must not be called one of {RESERVED}. "
                    f"Received: {name!r}"
                )
        check_lists(towers.query_inputs)
        check_lists(towers.candidate_inputs)
        for name in excluded_inputs:
            spec = towers.query_inputs.get(name)
            if spec is None or spec.dtype != tf.string or spec.shape.rank != 2:
                raise ValueError(
                    "`excluded_inputs` must be query inputs with text of shape "
                    f"(batch, n). Received: {name!r} with {spec}"
                )
        self.towers, self.top_k, self.catalogue = towers, top_k, catalogue
        self.excluded_inputs = tuple(excluded_inputs)

    @property
    def signatures(self) -> dict[str, Signature]:
        """All signatures by name."""
        k = {"k": tf.TensorSpec([None], tf.int32)}
        ids = tf.TensorSpec([None, None], tf.string)
        lists = {"exclude_ids": ids, "allow_ids": ids}
        query, candidate = self.towers.query_inputs, self.towers.candidate_inputs
        signatures = {
            "serving_default": Signature(query, self._serving_default),
            "recommend": Signature({**query, **k, **lists}, self._recommend),
            "rank": Signature({**query, "candidate_ids": ids}, self._rank),
            "encode_query": Signature(query, self._encode_query),
        }
        if candidate:
            encode = self._encode_candidates
            signatures["encode_candidates"] = Signature(candidate, encode)
        return signatures

    def save(self, folder: Path) -> None:
        """Writes a SavedModel in which each weight is stored once.

        TensorFlow's session loader, which the server uses, restores Keras variables
        only if the underlying variables are attributes of the saved module.

        Args:
            folder: Output folder; files that TensorFlow writes are overwritten.

        Raises:
            ValueError: If a tower reads a lookup table that `towers.tables` does not
                return, so that it could not be restored.
            OSError: If the disk has too little space.
        """
        functions = {
            name: _concrete(signature) for name, signature in self.signatures.items()
        }
        module = tf.Module(name="towers")
        module.catalogue = self.catalogue
        # Only the variables that the towers read, without a teacher or dropout state.
        read = {v.ref(): v for f in functions.values() for v in f.graph.variables}
        for variable in self.catalogue.variables:
            read.pop(variable.ref(), None)
        # TensorFlow's own order differs from process to process.
        module.weights = sorted(read.values(), key=lambda v: v.name)
        module.tables = _captured_tables(functions.values(), self)
        # Not signatures: with them, commands find values that are unknown to the model.
        for name, inputs in (
            ("candidate_indices", self.towers.candidate_inputs),
            ("query_indices", self.towers.query_inputs),
        ):
            look_up = getattr(self.towers, name, None)
            if look_up is not None:
                function = tf.function(
                    look_up, input_signature=[dict(inputs)], autograph=False
                )
                setattr(module, name, function)
        # TensorFlow can end the process when the disk is full.
        stored = [*module.weights, *self.catalogue.variables]
        require_space(folder, SMALL_FILES + sum(map(stored_bytes, stored)))
        tf.saved_model.save(module, str(folder), signatures=functions)
        _restore_input_names(folder, self.signatures)
        write_canonical(folder)

    def _query(self, features: Tensors) -> tf.Tensor:
        return self._embedding(self.towers.encode_query(features))

    def _features(self, inputs: Tensors) -> Tensors:
        """The query features of a request, without padding."""
        specs = self.towers.query_inputs
        return without_padding({name: inputs[name] for name in specs}, specs)

    def _embedding(self, vectors: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(bounded(vectors), [None, self.catalogue.index.dim])

    def _encode_query(self, inputs: Tensors) -> Tensors:
        return {"embedding": self._query(self._features(inputs))}

    def _encode_candidates(self, inputs: Tensors) -> Tensors:
        features = without_padding(inputs, self.towers.candidate_inputs)
        return {"embedding": self._embedding(self.towers.encode_candidates(features))}

    def _serving_default(self, inputs: Tensors) -> Tensors:
        features = self._features(inputs)
        exclude = self._excluded(features)
        index = self.catalogue.index
        return self._named(*index.top_k(self._query(features), self.top_k, exclude))

    def _excluded(self, features: Tensors) -> tf.Tensor | None:
        """Catalogue rows `(batch, n)` of the excluded inputs; -1 excludes nothing."""
        found = [
            self.catalogue.rows_of(features[name]) for name in self.excluded_inputs
        ]
        return tf.concat(found, axis=1) if found else None

    def _recommend(self, inputs: Tensors) -> Tensors:
        features, index = self._features(inputs), self.catalogue.index
        most = tf.minimum(index.items(), max(MOST_ITEMS, self.top_k))
        k = tf.clip_by_value(inputs["k"], 0, most)
        exclude = self.catalogue.rows_of(inputs["exclude_ids"])
        seen = self._excluded(features)
        exclude = exclude if seen is None else tf.concat([exclude, seen], axis=1)
        allow = self.catalogue.rows_of(inputs["allow_ids"])
        limited = tf.reduce_any(inputs["allow_ids"] != "", axis=1)
        query = self._query(features)
        return self._named(*index.top_k(query, k, exclude, allow, limited))

    def _rank(self, inputs: Tensors) -> Tensors:
        rows = self.catalogue.rows_of(inputs["candidate_ids"])
        scores = self.catalogue.index.score(self._query(self._features(inputs)), rows)
        return {"scores": scores, "known": rows >= 0}

    def _named(self, rows: tf.Tensor, scores: tf.Tensor) -> Tensors:
        return {"item_ids": self.catalogue.ids_of(rows), "scores": scores}


def _require(
    condition: tf.Tensor, message: str, inputs: Tensors, *received: tf.Tensor
) -> Tensors:
    """Inputs that can be read only if a condition holds; otherwise the call fails.

    A failure fails the whole batch, so the condition must be about the shapes of a
    request and not about the values of a row.

    Args:
        condition: A scalar bool.
        message: The error message; the received values are appended.
        inputs: Tensors by name.
        *received: The values to print.

    Returns:
        The same tensors, each with a dependency on the check.
    """
    data = [message + " Received:", *received]
    check = tf.raw_ops.Assert(condition=condition, data=data)
    with tf.control_dependencies([check]):
        return {name: tf.identity(tensor) for name, tensor in inputs.items()}


def _checked(inputs: Tensors, specs: Specs) -> Tensors:
    """The inputs, if each has the right number of axes and all have one batch size.

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
    """Input names by the argument that represents each in a traced function.

    TensorFlow accepts only Python identifiers that differ in more than upper and lower
    case, but features may be called `class`, `Size` and `size`.
    """
    arguments: dict[str, str] = {}
    for position, name in enumerate(specs):
        fits = re.fullmatch(r"[A-Za-z]\w*", name, flags=re.A)
        argument = f"input_{position}"
        if fits and not keyword.iskeyword(name):
            argument = name
        while argument.lower() in map(str.lower, arguments):
            argument += "_"
        arguments[argument] = name
    return arguments


def _concrete(signature: Signature) -> tf.types.experimental.ConcreteFunction:
    arguments = _arguments(signature.inputs)

    def call(**tensors: tf.Tensor) -> Tensors:
        inputs = {name: tensors[each] for each, name in arguments.items()}
        return signature.call(_checked(inputs, signature.inputs))

    # Like Keras models, towers have no Python control flow on tensors to be converted.
    return tf.function(call, autograph=False).get_concrete_function(
        **{
            argument: tf.TensorSpec(
                signature.inputs[name].shape, signature.inputs[name].dtype, argument
            )
            for argument, name in arguments.items()
        }
    )


def _captured_tables(
    functions: Iterable[tf.types.experimental.ConcreteFunction], servable: Servable
) -> list[Any]:
    """The towers' lookup tables that the functions read."""
    known = {id(v.handle) for f in functions for v in f.graph.variables}
    known.add(id(servable.catalogue.item_rows.resource_handle))
    tables = {id(each.resource_handle): each for each in servable.towers.tables()}
    read = {
        id(outside): outside
        for function in functions
        for outside, _ in function.graph.captures
        if outside.dtype == tf.resource and id(outside) not in known
    }
    if not read.keys() <= tables.keys():
        raise ValueError(
            "A tower must keep its lookup tables as attributes of its layers, so that "
            "they can be exported. Received: a table that no layer of the tower has"
        )
    return [tables[each] for each in read]


def _restore_input_names(folder: Path, signatures: Mapping[str, Signature]) -> None:
    """Restores the names of inputs that are not Python identifiers."""
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
