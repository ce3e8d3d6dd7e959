"""Results about one batch that several losses need: each is computed once.

A `Distiller` has several losses, and most of them need the same softmax of the
student's scores, the same checks and the same masked arrays. Inside a block
`shared_results` a repeated computation on the same tensors returns the first result, so
that a training step contains it once, and its gradient as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import tensorflow as tf

__all__ = ["once", "remember", "shared_results"]

_Results = dict[tuple[Any, ...], tuple[Any, Any]]
_results: ContextVar[_Results | None] = ContextVar("results", default=None)


@contextmanager
def shared_results() -> Iterator[None]:
    """Block in which `once` computes each result once; an inner block joins it.

    The tensors that results were computed from are kept until the block ends.
    """
    if _results.get() is not None:
        yield
        return
    token = _results.set({})
    try:
        yield
    finally:
        _results.reset(token)


def once(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `function(*arguments)`, computed once in a block.

    Args:
        function: A module-level function, without side effects.
        *arguments: Tensors, which are compared by identity; numbers and texts, by
            value; or None.

    Examples:
        >>> one, two = tf.constant(1.0), tf.constant(2.0)
        >>> with shared_results():
        ...     once(tf.add, one, two) is once(tf.add, one, two)
        True
        >>> once(tf.add, one, two) is once(tf.add, one, two)
        False
    """
    results = _results.get()
    if results is None:
        return function(*arguments)
    key, kept = _key(function, arguments)
    if key not in results:
        results[key] = function(*arguments), kept
    return results[key][0]


def remember(result: Any, function: Callable[..., Any], *arguments: Any) -> None:
    """Declare the result of `function(*arguments)`, which is then not computed.

    Args:
        result: What `once` returns for the function and its arguments.
        function: As for `once`.
        *arguments: As for `once`.
    """
    results = _results.get()
    if results is not None:
        key, kept = _key(function, arguments)
        results[key] = result, kept


def _key(function: Any, arguments: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any]:
    """A key, and the objects whose identity it contains."""
    # A result that belongs to a branch or to the body of a loop is unknown outside.
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    compared = tuple(
        (type(each), each)
        if each is None or isinstance(each, int | float | str)
        else id(each)
        for each in arguments
    )
    return (function, id(graph), *compared), (graph, arguments)
