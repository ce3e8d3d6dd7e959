"""Floating-point operations (FLOPs) of a call, counted from a trace of that call.

TensorFlow's own profiler reads the shapes that a graph declares and counts 0 where a
shape is unknown, for example for a matrix product behind a top-K or a lookup. Here one
call is traced, and the shapes of that call are used.

Matrix products, contractions and convolutions are counted, with two operations (a
multiplication and an addition) for each product of two numbers. Element-wise
operations, gathers, sorts and lookups are not counted: memory limits their speed, not
arithmetic.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import tensorflow as tf

Shape = Sequence[int]

LARGEST_WEIGHTS = 2**30
"""Largest bytes of the tensors that a traced function captures: they are copied."""


def flops_of_run(session: Any, fetches: Any, feed: Mapping[str, Any]) -> int:
    """Floating-point operations of one `session.run`.

    Args:
        session: A `tf.compat.v1.Session`.
        fetches: Tensors to compute.
        feed: Input values by tensor name.

    Examples:
        >>> graph = tf.Graph()
        >>> with graph.as_default():
        ...     left = tf.compat.v1.placeholder(tf.float32, [None, 3], "left")
        ...     product = left @ tf.ones([3, 5])
        >>> with tf.compat.v1.Session(graph=graph) as session:  # 2 * (4 * 3 * 5)
        ...     flops_of_run(session, product, {"left:0": np.ones([4, 3])})
        120
    """
    options = tf.compat.v1.RunOptions(
        trace_level=tf.compat.v1.RunOptions.FULL_TRACE, output_partition_graphs=True
    )
    trace = tf.compat.v1.RunMetadata()
    session.run(fetches, feed, options=options, run_metadata=trace)
    nodes = {node.name: node for graph in trace.partition_graphs for node in graph.node}
    shapes: dict[str, list[list[Shape]]] = defaultdict(list)
    for device in trace.step_stats.dev_stats:
        for stats in device.node_stats:
            outputs = sorted(stats.output, key=lambda output: output.slot)
            shapes[stats.node_name].append(
                [[d.size for d in o.tensor_description.shape.dim] for o in outputs]
            )
    return sum(
        _operations(nodes[name], outputs[0], _inputs(nodes[name], shapes, turn))
        for name, runs in shapes.items()
        if name in nodes
        for turn, outputs in enumerate(runs)
        if outputs
    )


def flops_of_function(function: Any, *arguments: Any) -> int:
    """Floating-point operations of one call of a TensorFlow function.

    The function runs in a session, with a copy of its weights. Work in Python, outside
    the graph, is not counted.

    Args:
        function: The function to trace; it returns a structure of tensors.
        arguments: Structures of tensors; their shapes determine the count.

    Raises:
        ValueError: If the function has lookup tables, or the tensors that it captures
            exceed `LARGEST_WEIGHTS`.
    """
    traced = tf.function(function, autograph=False).get_concrete_function(*arguments)
    variables = {id(v.handle): v for v in traced.graph.variables}
    captured = traced.graph.captures
    weights = 0
    for outside, _ in captured:
        value = variables.get(id(outside), outside)
        if value.dtype == tf.resource:
            raise ValueError(
                "`function` must capture only tensors and variables. Received: "
                f"{value.name if hasattr(value, 'name') else 'a resource'}"
            )
        weights += math.prod(value.shape) * value.dtype.size
    if weights > LARGEST_WEIGHTS:
        raise ValueError(
            f"`function` must capture at most {LARGEST_WEIGHTS:,} bytes of tensors. "
            f"Received: {weights:,}"
        )
    own = zip(traced.inputs, tf.nest.flatten(arguments), strict=False)
    feed = {inside.name: value.numpy() for inside, value in own}
    starts: dict[tf.Operation, tuple[tf.Tensor, tf.Variable]] = {}
    handles: dict[str, tf.Tensor] = {}
    graph = tf.Graph()
    for outside, inside in captured:
        variable = variables.get(id(outside))
        if variable is None:
            feed[inside.name] = outside.numpy()
            continue
        with graph.as_default(), tf.name_scope("copied_weights"):
            start = tf.compat.v1.placeholder(variable.dtype, variable.shape)
            copy = tf.compat.v1.Variable(start, use_resource=True)
        starts[copy.initializer] = start, variable
        handles[inside.name] = copy.handle
    with graph.as_default():
        tf.graph_util.import_graph_def(
            traced.graph.as_graph_def(), input_map=handles, name=""
        )
    # What depends on weights only is computed in every call, and must not be folded.
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    config.graph_options.optimizer_options.opt_level = -1
    # Not as a context manager, which would end eager execution.
    with closing(tf.compat.v1.Session(graph=graph, config=config)) as session:
        for initializer, (start, variable) in starts.items():
            session.run(initializer, {start: variable.numpy()})
        return flops_of_run(session, [t.name for t in traced.outputs], feed)


def _inputs(
    node: Any, shapes: Mapping[str, list[list[Shape]]], turn: int
) -> list[Shape | None]:
    """Shapes of a node's inputs; None for an input that the trace does not have.

    Args:
        node: The node.
        shapes: Shapes of the outputs of every node, for each of its executions.
        turn: Index of this execution of the node; in a loop it runs repeatedly.
    """
    found: list[Shape | None] = []
    for each in node.input:
        name, _, slot = each.partition(":")
        runs = shapes.get(name)
        outputs = runs[min(turn, len(runs) - 1)] if runs else []
        index = int(slot or 0)
        found.append(outputs[index] if index < len(outputs) else None)
    return found


def _operations(node: Any, output: Shape, inputs: list[Shape | None]) -> int:
    # The runtime renames operations with faster kernels, for example to `_MklEinsum`.
    if node.op == "SparseTensorDenseMatMul":
        places = inputs[0]  # One row for each entry that is not 0.
        if not places:
            raise _untraced(node)
        return 2 * places[0] * output[-1]
    if "MatMul" in node.op:
        return 2 * math.prod(output) * _inner(node, inputs)
    if "Einsum" in node.op:
        return _contraction(node.attr["equation"].s.decode(), inputs)
    if re.search(r"Conv[23]D$", node.op) and inputs[1]:
        return 2 * math.prod(output) * math.prod(inputs[1][:-1])
    return 0


def _inner(node: Any, inputs: list[Shape | None]) -> int:
    """Length of the axis over which a matrix product sums."""
    left, right = inputs[:2]
    if left:
        flipped = node.attr["transpose_a"].b or node.attr["adj_x"].b
        return left[-2] if flipped else left[-1]
    if right:
        flipped = node.attr["transpose_b"].b or node.attr["adj_y"].b
        return right[-1] if flipped else right[-2]
    raise _untraced(node)


def _untraced(node: Any) -> ValueError:
    return ValueError(
        f"`session` must trace the inputs of {node.name!r}. Received: none"
    )


def _contraction(equation: str, inputs: list[Shape | None]) -> int:
    """Operations of an einsum of two operands with explicit labels."""
    sides = equation.partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for labels, shape in zip(sides, inputs, strict=False):
        if shape is None:
            continue
        first, _, last = labels.replace(" ", "").partition("...")
        sizes.update(zip(first, shape, strict=False))
        rest = shape[len(first) :]
        sizes.update(zip(reversed(last), reversed(rest), strict=False))
        # The axes of an ellipsis are aligned at its end, and broadcast.
        for place, size in enumerate(reversed(rest[: len(rest) - len(last)])):
            sizes[f"...{place}"] = max(size, sizes.get(f"...{place}", 1))
    return (2 if len(sides) > 1 else 0) * math.prod(sizes.values())
