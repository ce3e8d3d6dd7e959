"""Vocabularies of a TensorFlow function: the keys of its lookup tables, by input.

A Keras `StringLookup` or `IntegerLookup` and a `tf.lookup` table become the same op in
a graph, so the search works for Keras models and SavedModels alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
import tensorflow as tf

_FIND = ("LookupTableFind", "LookupTableFindV2")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_UNCHANGED = ("Identity", "Reshape", "ExpandDims", "Squeeze", "Cast", "EnsureShape")
"""Ops whose result has the values of their first input."""


def vocabularies(function: Any, names: Sequence[str]) -> dict[str, frozenset[str]]:
    """The texts that a function knows, for each input that it looks up in a table.

    Inputs that are changed first, for example to lower case, are left out, and so are
    inputs that no table reads.

    Args:
        function: A concrete function.
        names: Names of its inputs, in the order of `function.inputs`.

    Returns:
        The keys of the tables as text, by input. If several tables read an input, a
        value that one of them has is known.
    """
    placeholders = [tensor.name.partition(":")[0] for tensor in function.inputs]
    handles = function.captured_inputs
    origins: list[str | int] = [*names, *range(len(handles))]
    graph = function.graph.as_graph_def()
    search = _Search({each.signature.name: each for each in graph.library.function})
    search.scan(graph.node, dict(zip(placeholders, origins, strict=False)))
    found: dict[str, frozenset[str]] = {}
    for name, handle, types in search.found:
        try:
            keys, _ = tf.raw_ops.LookupTableExportV2(
                table_handle=handles[handle], Tkeys=types[0], Tvalues=types[1]
            )
        except tf.errors.OpError:
            continue  # A table that cannot list its keys.
        texts = frozenset(map(_text, np.asarray(keys).ravel().tolist()))
        if texts:
            found[name] = found.get(name, frozenset()) | texts
    return found


class _Search:
    """Search for lookups in a graph and in the functions that it calls.

    Args:
        library: Functions of the graph by name.

    Attributes:
        found: Input, number of the table's handle among the captured tensors, and the
            types of keys and values, for each lookup of an input.
    """

    def __init__(self, library: Mapping[str, Any]) -> None:
        self._library = library
        self.found: list[tuple[str, int, tuple[int, int]]] = []

    def scan(
        self, nodes: Iterable[Any], origins: dict[str, str | int]
    ) -> dict[str, str | int]:
        """Follows inputs and captured tensors through nodes.

        Args:
            nodes: The nodes, in any order.
            origins: Input or number of a captured tensor, by the tensor's name.

        Returns:
            `origins` with the tensors that are equal to one of these.
        """
        origins, by_name = dict(origins), {node.name: node for node in nodes}
        order: TopologicalSorter[str] = TopologicalSorter()
        for name, node in by_name.items():
            before = {each.partition(":")[0] for each in _tensors(node)} - {name}
            order.add(name, *before & by_name.keys())
        with suppress(CycleError):  # Nodes in and after a loop are not followed.
            order.prepare()
        while ready := order.get_ready():
            for name in ready:
                self._follow(by_name[name], origins)
            order.done(*ready)
        return origins

    def _follow(self, node: Any, origins: dict[str, str | int]) -> None:
        """Follows one node; the nodes before it have been followed."""
        names = _tensors(node)
        sources = [origins.get(name, origins.get(_first(name))) for name in names]
        if node.op in _UNCHANGED and sources[0] is not None:
            origins[node.name] = sources[0]
        elif node.op in _FIND:
            table, keys = sources[:2]
            if isinstance(table, int) and isinstance(keys, str):
                types = node.attr["Tin"].type, node.attr["Tout"].type
                self.found.append((keys, table, types))
        elif node.op in _CALLS:
            self._call(node, sources, origins)

    def _call(
        self, node: Any, sources: Sequence[Any], origins: dict[str, str | int]
    ) -> None:
        function = self._library[node.attr["f"].func.name]
        arguments = [each.name for each in function.signature.input_arg]
        known = {
            name: source
            for name, source in zip(arguments, sources, strict=True)
            if source is not None
        }
        inside = self.scan(function.node_def, known)
        for number, output in enumerate(function.signature.output_arg):
            source = inside.get(_first(function.ret[output.name]))
            if source is not None:
                suffix = f":{number}" if number else ""
                origins[f"{node.name}{suffix}"] = source
                # Inside of a function, a result is named by its argument.
                origins[f"{node.name}:output:{number}"] = source


def _tensors(node: Any) -> list[str]:
    """Names of the tensors that a node reads."""
    return [name for name in node.input if not name.startswith("^")]


def _first(name: str) -> str:
    """The node of a tensor if the tensor is the node's first result."""
    parts = name.split(":")
    return parts[0] if parts[-1] == "0" or len(parts) == 1 else name


def _text(key: bytes | int) -> str:
    return key.decode(errors="replace") if isinstance(key, bytes) else str(key)
