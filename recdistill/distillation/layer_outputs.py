"""Layer outputs: intermediate representations of a model during its forward pass.

FitNets hints (Romero et al., 2015) and similar losses compare intermediate
representations of teacher and student. With Keras alone this takes a second model and a
second forward pass, and works for Functional models only. Here the outputs are recorded
in the regular forward pass, for any kind of model:

    with watching(student, ["query_embedding", "query_tower/hidden_0"]) as outputs:
        scores = student(x, training=True)
    outputs["query_embedding"]

A name is either a value that the model exposes in its `call` (see `expose`), or one of
its layers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
from keras import ops

from recdistill.lists.masked_ops import Tensor

__all__ = ["Projection", "check_found", "expose", "layer_paths", "watching"]

# Names that the active `watching` block collects, and the values found so far.
_WATCHED: ContextVar[tuple[frozenset[str], dict[str, Tensor]] | None] = ContextVar(
    "watched", default=None
)


def expose(name: str, value: Tensor | Callable[[], Tensor]) -> None:
    """Make an intermediate value of a model's `call` available to `watching`.

    Models call this inside `call`. Outside of a `watching` block it does nothing, so it
    does not change an exported model.

    Args:
        name: Name of the value, such as "query_embedding".
        value: The value; or a function that computes it, which is called only if the
            name is watched.
    """
    watched = _WATCHED.get()
    if watched is not None and name in watched[0]:
        watched[1][name] = value() if callable(value) else value


@contextmanager
def watching(model: Any, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect intermediate outputs of a model that is called inside the block.

    Args:
        model: The model. Only exposed values can be collected from a model that is not
            a Keras layer.
        names: Names to collect. A layer is named by its name or by the end of its path
            of names: "hidden_0" or "query_tower/hidden_0".

    Yields:
        The outputs by name, complete after the block. A name is missing if it was
        neither exposed nor the name of a layer that was called. An exposed value takes
        precedence over a layer of the same name.

    Raises:
        ValueError: If a name matches several layers, or its layer is called twice.

    Examples:
        >>> model = keras.Sequential([keras.layers.Rescaling(2.0, name="double")])
        >>> with watching(model, ["double", "none"]) as outputs:
        ...     _ = model(np.array([[1.0, 3.0]]))
        >>> {name: output.numpy().tolist() for name, output in outputs.items()}
        {'double': [[2.0, 6.0]]}
    """
    if not names:
        yield {}
        return
    exposed: dict[str, Tensor] = {}
    called: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}
    layers = [(name, _find_layer(model, name)) for name in names]
    token = _WATCHED.set((frozenset(names), exposed))
    try:
        for name, layer in layers:
            if layer is not None:
                # Set in the instance's dictionary, which Keras does not track.
                vars(layer)["call"] = _recorded(layer.call, name, called)
        yield found
    finally:
        for _, layer in layers:
            if layer is not None:
                vars(layer).pop("call", None)
        _WATCHED.reset(token)
        found |= called | exposed


def _recorded(
    call: Callable[..., Tensor], name: str, called: dict[str, Tensor]
) -> Callable[..., Tensor]:
    """The function `call`, which also stores its output in `called`."""

    def record(*args: Any, **kwargs: Any) -> Tensor:
        output = call(*args, **kwargs)
        # Keras first calls an unbuilt model in a separate graph, to build it.
        if name in called and _graph(called[name]) is _graph(output):
            raise ValueError(
                "A watched layer must be called once in a forward pass. Use "
                "`recdistill.distillation.layer_outputs.expose` in the model's "
                f"`call` instead. Received: two calls of {name!r}"
            )
        called[name] = output
        return output

    return record


def _graph(output: Tensor) -> Any:
    """The graph of a tensor; None for an eager tensor."""
    return getattr(output, "graph", None)


def _find_layer(model: Any, name: str) -> keras.layers.Layer | None:
    """The only layer whose path ends in `name`; None if no layer's does."""
    if not isinstance(model, keras.layers.Layer):
        return None
    fitting = {
        id(layer): (path, layer)
        for path, layer in layer_paths(model)
        if path == name or path.endswith(f"/{name}")
    }
    if len(fitting) > 1:
        paths = sorted(path for path, _ in fitting.values())
        raise ValueError(
            "The name of a layer must contain enough of its path to be unique. "
            f"Received: {name!r}, which matches {paths}"
        )
    return next((layer for _, layer in fitting.values()), None)


def check_found(
    student: Any, names: Sequence[str], outputs: Mapping[str, Tensor]
) -> None:
    """Raise unless every watched name was found in the student.

    Args:
        student: The model.
        names: Names that were watched.
        outputs: The result of `watching`.

    Raises:
        ValueError: If one is missing; the message lists the student's layers.
    """
    for name in names:
        if name not in outputs:
            layers = sorted(path for path, _ in layer_paths(student))
            raise ValueError(
                "`student_output` must be a name that the student exposes, or one of "
                f"its layers. Received: student_output={name!r}, a student with the "
                f"layers {layers}"
            )


def layer_paths(
    layer: keras.layers.Layer, prefix: str = ""
) -> Iterator[tuple[str, keras.layers.Layer]]:
    """All layers inside a layer, each with its path of names.

    Args:
        layer: A model or a layer.
        prefix: Prepended to each path.

    Yields:
        Path and layer, such as "query_tower/hidden_0".
    """
    for child in layer._flatten_layers(include_self=False, recursive=False):
        path = f"{prefix}{child.name}"
        yield path, child
        yield from layer_paths(child, f"{path}/")


@keras.saving.register_keras_serializable(package="recdistill")
class Projection(keras.layers.Layer):  # type: ignore[misc]
    """Affine projection from the width of the student's embeddings to the teacher's.

    It allows a student that is narrower than its teacher, and two embedding spaces with
    different axes. It is trained with the student but belongs to the distiller,
    so it is not exported.

    Args:
        **kwargs: Arguments of a Keras layer. The default `dtype` is float32.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.widths: tuple[int, int] | None = None

    def build(self, widths: tuple[int, int]) -> None:
        """Create the weights.

        Args:
            widths: Widths of the student's and the teacher's embeddings.

        Raises:
            ValueError: If a width is unknown.
        """
        if None in widths:
            raise ValueError(
                "Embeddings must have a known width to be projected. "
                f"Received: widths of student and teacher={tuple(widths)}"
            )
        self.widths = (int(widths[0]), int(widths[1]))
        self.kernel = self.add_weight(shape=self.widths, name="kernel")
        self.bias = self.add_weight(
            shape=self.widths[1:], initializer="zeros", name="bias"
        )

    def call(self, embeddings: Tensor) -> Tensor:
        """Project embeddings `(…, student's width)` to `(…, teacher's width)`."""
        return ops.matmul(embeddings, self.kernel) + self.bias
