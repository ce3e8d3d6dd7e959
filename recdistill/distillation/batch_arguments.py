"""Arguments `x`, `y` and `sample_weight` of a batch, in the forms that Keras allows."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from recdistill.lists.masked_ops import Tensor

__all__ = [
    "Batch",
    "array_weight",
    "declared_inputs",
    "first_replica",
    "labels_and_mask",
    "mask_of",
    "refuse_class_weight",
    "weight_like",
    "weighted_mask",
]

Batch: TypeAlias = dict[str, Any]


def mask_of(x: Batch) -> Tensor:
    """The mask of a batch, `(batch, list_size)`.

    Args:
        x: The inputs of a batch.

    Raises:
        ValueError: If `x` does not have the key "mask".
    """
    if "mask" not in x:
        raise ValueError(f'`x` must have the key "mask". Received: keys={sorted(x)}')
    return x["mask"]


def refuse_class_weight(method: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Checks that there are no weights of classes: Keras would read lists as classes.

    Args:
        method: A method of a Keras model with an argument `class_weight`.
        *args: Its positional arguments.
        **kwargs: Its other arguments.

    Raises:
        ValueError: If `class_weight` is among them.
    """
    given = inspect.signature(method).bind(*args, **kwargs).arguments
    if given.get("class_weight") is not None:
        raise ValueError(
            "`class_weight` must be None, because candidates are not classes. Give "
            "each candidate a weight with `sample_weight`, (n, list_size). Received: "
            f"class_weight={given['class_weight']}"
        )


def declared_inputs(model: Any, x: Any) -> Any:
    """The part of a batch that a Functional model declares as its inputs.

    Keras assigns the entries of a dict to the inputs of a Functional model by their
    order, so entries that the model does not declare must be removed first.

    Args:
        model: A model, or any function.
        x: The inputs of a batch.

    Returns:
        A dict with the structure of the model's inputs if these are a dict; else `x`.

    Raises:
        ValueError: If an input of the model is missing.
    """
    declared = getattr(model, "input", None) if hasattr(model, "inputs") else None
    return _selected(declared, x) if isinstance(declared, Mapping) else x


def _selected(declared: Any, x: Any) -> Any:
    if not isinstance(declared, Mapping) or not isinstance(x, Mapping):
        return x
    missing = [name for name in declared if name not in x]
    if missing:
        raise ValueError(
            f"`x` must have the inputs of the model, {list(declared)}. "
            f"Received: keys={sorted(x)}"
        )
    return {name: _selected(each, x[name]) for name, each in declared.items()}


def first_replica(batch: Any) -> Any:
    """The part of a distributed batch that the first local replica receives.

    Args:
        batch: A structure of `tf.distribute.DistributedValues` or of tensors.
    """
    distributed = tf.distribute.DistributedValues
    return keras.tree.map_structure(
        lambda value: value.values[0] if isinstance(value, distributed) else value,
        batch,
    )


def labels_and_mask(
    x: Batch, y: dict[str, Tensor] | Tensor | None
) -> dict[str, Tensor]:
    """Relevance and mask of a batch, in the form that losses and metrics take.

    Args:
        x: The inputs of a batch.
        y: `{"labels": …}` or relevance alone, `(batch, list_size)`. Without a "mask" it
            takes mask and `item_weight` of `x`. With one it takes its own
            "item_weight", if it has one.

    Returns:
        A dict with "labels" and "mask", and "item_weight" if candidates have weights.
        Strata are those of the teacher's scores, and are left out.

    Raises:
        ValueError: If `y` is None.
    """
    if y is None:
        raise ValueError(
            "`y` must hold the relevance of the candidates if a relevance loss or a "
            "metric is compiled. Received: y=None"
        )
    y = y if isinstance(y, dict) else {"labels": y}
    if y.get("mask") is not None:
        return dict(y)
    about = weighted_mask(x)
    about.pop("stratum", None)
    return {**y, **about}


def weighted_mask(x: Batch) -> dict[str, Tensor]:
    """The mask of a batch, and its "item_weight" and "stratum" if it has them.

    Args:
        x: The inputs of a batch.
    """
    names: tuple[str, ...] = ("item_weight", "stratum")
    further = {name: x[name] for name in names if name in x}
    return {"mask": mask_of(x), **further}


def array_weight(sample_weight: Any) -> Any:
    """Sample weights as an array, even if given as a dict shaped like `y`.

    Args:
        sample_weight: None, an array, or `{"labels": array, …}`.

    Raises:
        ValueError: If it is a dict without "labels".
    """
    if not isinstance(sample_weight, Mapping):
        return sample_weight
    if "labels" not in sample_weight:
        raise ValueError(
            '`sample_weight` must be an array or a dict with the key "labels". '
            f"Received: keys={sorted(sample_weight)}"
        )
    return sample_weight["labels"]


def weight_like(y: Any, sample_weight: Any) -> Any:
    """Sample weights in the structure of `y`, which Keras requires of arrays.

    Args:
        y: Relevance as passed to `fit` or `evaluate`.
        sample_weight: None, an array, or a dict shaped like `y`.

    Returns:
        A dict with the same array under each key of `y` if `y` is a dict; else the
        array.

    Raises:
        ValueError: If the weights are a dict without "labels".
    """
    weight = array_weight(sample_weight)
    if isinstance(y, Mapping) and weight is not None:
        return dict.fromkeys(y, weight)
    return weight
