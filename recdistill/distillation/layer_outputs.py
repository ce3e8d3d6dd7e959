"""Looking into a model while it runs: outputs of its layers, and what it exposes.

A hint is an inner output of the teacher that the student is shown (Romero et al., 2015,
"FitNets"). To get at it, Keras builds a second model, whose pass is a second pass, and
only Functional models can be taken apart like that. Here the one pass that is made
anyway is watched, whatever the model is made of:

    with watching(student, ["query_embedding", "query_tower/hidden_0"]) as outputs:
        scores = student(x, training=True)
    outputs["query_embedding"]

A name is either something that the model exposes from inside its `call` (see `expose`),
or one of its layers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
from keras import ops

from recdistill.lists.masked_ops import Tensor

__all__ = ["Projection", "expose", "layer_paths", "watching"]

# The names that are looked for at the moment, and what has been found so far.
_WATCHED: ContextVar[tuple[frozenset[str], dict[str, Tensor]] | None] = ContextVar(
    "watched", default=None
)


def expose(name: str, value: Tensor | Callable[[], Tensor]) -> None:
    """Show an inner value to whoever is watching. A model says this in its `call`.

    Outside of `watching` it does nothing, so an exported model is the same with it.

    Args:
        name: What it is called: "query_embedding", say.
        value: The value; or, where making it takes time, a function that makes it,
            which is called only if the name is being looked for.
    """
    watched = _WATCHED.get()
    if watched is not None and name in watched[0]:
        watched[1][name] = value() if callable(value) else value


@contextmanager
def watching(model: Any, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect inner outputs of a model that is called inside the block.

    Args:
        model: The model; where it is no Keras model, it can only expose.
        names: What to look for. A layer is named by its name, or by the end of its path
            of names: "hidden_0" or "query_tower/hidden_0".

    Yields:
        The outputs by name, filled in as the model runs. What is not there after the
        block was neither exposed nor the output of a layer that was called. A name that
        is both exposed and a layer's is the exposed value.

    Raises:
        ValueError: If a name fits several layers, or its layer is called twice.

    Example:
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
    layers = {name: _find_layer(model, name) for name in names}
    token = _WATCHED.set((frozenset(names), exposed))
    try:
        with _recording({k: v for k, v in layers.items() if v is not None}, called):
            yield found
    finally:
        _WATCHED.reset(token)
        found |= called | exposed


@contextmanager
def _recording(
    layers: dict[str, keras.layers.Layer], called: dict[str, Tensor]
) -> Iterator[None]:
    """Inside the block these layers leave a copy of their output in `called`."""
    by_layer: dict[int, tuple[keras.layers.Layer, list[str]]] = {}
    for name, layer in layers.items():
        by_layer.setdefault(id(layer), (layer, []))[1].append(name)
    for layer, names in by_layer.values():
        # In the instance's own dictionary, where Keras does not track it.
        vars(layer)["call"] = _recorded(layer.call, names, called)
    try:
        yield
    finally:
        for layer, _ in by_layer.values():
            del vars(layer)["call"]


def _recorded(
    call: Callable[..., Tensor], names: list[str], called: dict[str, Tensor]
) -> Callable[..., Tensor]:
    def record(*args: Any, **kwargs: Any) -> Tensor:
        output = call(*args, **kwargs)
        for name in names:
            # Keras calls an unbuilt model first in a graph of its own, to build it.
            if name in called and _graph(called[name]) is _graph(output):
                raise ValueError(
                    "A watched layer must be called once in a pass: let the model "
                    "`recdistill.distillation.layer_outputs.expose` what is meant. "
                    f"Received: two calls of {name!r}"
                )
            called[name] = output
        return output

    return record


def _graph(output: Tensor) -> Any:
    """The graph that a tensor is part of; None for an eager one."""
    return getattr(output, "graph", None)


def _find_layer(model: Any, name: str) -> keras.layers.Layer | None:
    """The one layer whose path ends in `name`; None where there is none."""
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
            f"A layer must be named by as much of its path as tells it from others. "
            f"Received: {name!r}, which fits {paths}"
        )
    return next((layer for _, layer in fitting.values()), None)


def layer_paths(
    layer: keras.layers.Layer, prefix: str = ""
) -> Iterator[tuple[str, keras.layers.Layer]]:
    """All layers inside a layer, each with its path of names.

    Args:
        layer: A model or a layer.
        prefix: What paths start with.

    Yields:
        Path and layer, such as "query_tower/hidden_0".
    """
    for child in layer._flatten_layers(include_self=False, recursive=False):
        path = f"{prefix}{child.name}"
        yield path, child
        yield from layer_paths(child, f"{path}/")


@keras.saving.register_keras_serializable(package="recdistill")
class Projection(keras.layers.Layer):  # type: ignore[misc]
    """An affine map from the student's width to the teacher's.

    It makes up for a student that is narrower than its teacher, and for axes that two
    models have no reason to share. It is trained with the student and left behind: the
    student never learns of it.

    Args:
        **kwargs: Arguments of a Keras layer. The type is float32 unless they say.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.widths: tuple[int, int] | None = None

    def build(self, widths: tuple[int, int]) -> None:
        """Create the weights.

        Args:
            widths: Width of the student's embedding and of the teacher's.

        Raises:
            ValueError: If a width is not known.
        """
        if None in widths:
            raise ValueError(
                "Embeddings must have a known width, to be projected. "
                f"Received: widths of student and teacher={tuple(widths)}"
            )
        self.widths = (int(widths[0]), int(widths[1]))
        self.kernel = self.add_weight(shape=self.widths, name="kernel")
        self.bias = self.add_weight(
            shape=self.widths[1:], initializer="zeros", name="bias"
        )

    def call(self, embeddings: Tensor) -> Tensor:
        """`(…, student's width)` to `(…, teacher's width)`."""
        return ops.matmul(embeddings, self.kernel) + self.bias
