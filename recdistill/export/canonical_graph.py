"""One form of a SavedModel's graph, so that equal models have equal files.

TensorFlow numbers functions and lookup tables with a counter of the process, so the
same model has other names in its graph after a restart. `write_canonical` numbers them
by their order in the graph.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from recdistill.export.inspection import read_model
from recdistill.export.layout import SAVED_MODEL

FINGERPRINT = "fingerprint.pb"
"""File with a hash of the graph and a random id; servers do not need it."""

_INITIALIZER = re.compile(r"(key_value_init|text_file_init)\d+")
_TABLES = ("HashTableV2", "MutableHashTableV2")


def write_canonical(folder: Path) -> None:
    """Writes the graph of a SavedModel anew, with names that depend on it alone.

    Args:
        folder: The SavedModel.
    """
    model = read_model(folder)
    for meta_graph in model.meta_graphs:
        _rename_functions(meta_graph)
        library = meta_graph.graph_def.library
        functions = sorted(library.function, key=_number)
        del library.function[:]
        library.function.extend(map(_without_initializer_number, functions))
        _rename_tables(meta_graph.graph_def)
    (folder / SAVED_MODEL).write_bytes(model.SerializeToString(deterministic=True))
    # It is a hash of the file before this change.
    (folder / FINGERPRINT).unlink(missing_ok=True)


def _rename_functions(meta_graph: Any) -> None:
    """Numbers the functions in the order in which the graph calls them."""
    graph, objects = meta_graph.graph_def, meta_graph.object_graph_def
    names = _new_names(graph, _named_by(objects))
    for function in graph.library.function:
        function.signature.name = names[function.signature.name]
        for argument in function.arg_attr.values():
            argument.attr.pop("_user_specified_name", None)
    for gradient in graph.library.gradient:
        gradient.function_name = names[gradient.function_name]
        gradient.gradient_func = names[gradient.gradient_func]
    for node in _all_nodes(graph):
        node.op = names.get(node.op, node.op)
        for value in node.attr.values():
            for called in _functions_in(value):
                called.name = names[called.name]
    _rename_in_objects(objects, names)


def _rename_in_objects(objects: Any, names: Mapping[str, str]) -> None:
    concrete = dict(objects.concrete_functions.items())
    objects.concrete_functions.clear()
    for name, function in concrete.items():
        objects.concrete_functions[names[name]].CopyFrom(function)
    for each in objects.nodes:
        if each.function.concrete_functions:
            own = each.function.concrete_functions
            own[:] = [names[name] for name in own]
        if each.HasField("bare_concrete_function"):
            bare = each.bare_concrete_function
            bare.concrete_function_name = names[bare.concrete_function_name]


def _named_by(objects: Any) -> Iterator[str]:
    """Functions of the saved objects, in the order of the objects."""
    for each in objects.nodes:
        yield from each.function.concrete_functions
        if each.HasField("bare_concrete_function"):
            yield each.bare_concrete_function.concrete_function_name


def _new_names(graph: Any, roots: Iterable[str]) -> dict[str, str]:
    """The new name of each function.

    Args:
        graph: The graph with its library of functions.
        roots: Functions that are called from outside, in a fixed order.
    """
    functions = {each.signature.name: each for each in graph.library.function}
    found: dict[str, None] = {}
    waiting = [name for node in graph.node for name in _called(node, functions)]
    waiting += roots
    for name in waiting:  # It grows while it is read.
        if name not in found:
            found[name] = None
            nodes = functions[name].node_def if name in functions else ()
            waiting += [each for node in nodes for each in _called(node, functions)]
    # What nothing calls, so that it is renamed as well.
    found |= dict.fromkeys(sorted(functions, key=_without_number))
    return {name: f"{_without_number(name)}_{k}" for k, name in enumerate(found)}


def _called(node: Any, functions: Iterable[str]) -> Iterator[str]:
    """Names of the functions that a node calls, in a fixed order."""
    if node.op in functions:
        yield node.op
    for key in sorted(node.attr):
        yield from (called.name for called in _functions_in(node.attr[key]))


def _functions_in(value: Any) -> list[Any]:
    """The functions that an attribute of a node names."""
    return [called for called in (*value.list.func, value.func) if called.name]


def _rename_tables(graph: Any) -> None:
    """Numbers the lookup tables in the order of the graph."""
    names: dict[bytes, bytes] = {}
    for node in _all_nodes(graph):
        if node.op in _TABLES and node.attr["shared_name"].s:
            shared = node.attr["shared_name"]
            shared.s = names.setdefault(shared.s, f"table_{len(names)}".encode())


def _all_nodes(graph: Any) -> Iterator[Any]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _without_initializer_number(function: Any) -> Any:
    """The function without the number in the names of a table's initialiser."""
    if not any(_INITIALIZER.search(node.name) for node in function.node_def):
        return function
    text = _INITIALIZER.sub(r"\1", text_format.MessageToString(function))
    return text_format.Parse(text, type(function)())


def _number(function: Any) -> int:
    return int(function.signature.name.rpartition("_")[2])


def _without_number(name: str) -> str:
    return re.sub(r"_\d+$", "", name)
