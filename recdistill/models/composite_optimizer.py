"""Composite optimizer: one optimizer for embedding tables, one for dense weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import keras

__all__ = ["CompositeOptimizer"]


@keras.saving.register_keras_serializable("recdistill")
class CompositeOptimizer(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Composite of two optimizers: one for embedding tables, one for dense weights.

    Clipping and weight decay are those of each optimizer and concern its variables.

    Args:
        tables: Optimizer of the embedding tables, such as `LazyAdam`.
        dense: Optimizer of all other variables: any Keras optimizer.
        table_pattern: Regular expression, searched for in the path of a variable:
            variables that match are tables. By default those of
            `keras.layers.Embedding`.
        name: Name of the optimizer.

    Raises:
        ValueError: If an optimizer has a `loss_scale_factor`.
        re.error: If `table_pattern` is not a regular expression.

    Examples:
        >>> from recdistill.models.optimizers import LazyAdam
        >>> optimizer = CompositeOptimizer(LazyAdam(0.01), keras.optimizers.SGD(0.1))
        >>> layer = keras.layers.Embedding(1_000, 4)
        >>> layer.build()
        >>> bias = keras.Variable([0.0], name="bias")
        >>> optimizer.build([*layer.trainable_variables, bias])
        >>> len(optimizer.tables.variables), len(optimizer.dense.variables)
        (5, 2)
    """

    def __init__(
        self,
        tables: keras.optimizers.Optimizer,
        dense: keras.optimizers.Optimizer,
        table_pattern: str = "(^|/)embeddings$",
        name: str = "composite",
    ) -> None:
        scaled = [each.name for each in (tables, dense) if each.loss_scale_factor]
        if scaled:
            raise ValueError(
                "`tables` and `dense` must not have a `loss_scale_factor`, because "
                f"there is one loss. Received: {', '.join(scaled)}"
            )
        super().__init__(learning_rate=0.0, name=name)
        self.tables, self.dense = tables, dense
        self.table_pattern = table_pattern
        re.compile(table_pattern)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Builds both optimizers on their variables.

        Args:
            variables: The variables to train.
        """
        if self.built:
            return
        super().build(variables)
        parts: tuple[list[Any], list[Any]] = ([], [])
        for each in variables:
            parts[re.search(self.table_pattern, each.path) is None].append(each)
        for optimizer, part in zip((self.tables, self.dense), parts, strict=True):
            optimizer.build(part)

    @property
    def variables(self) -> list[keras.Variable]:
        """Own variables and those of both optimizers."""
        return [*self._variables, *self.tables.variables, *self.dense.variables]

    @property
    def iterations(self) -> keras.Variable:
        """Number of updates of the dense weights, or of the tables if there are none.

        It does not count the batches whose gradients are accumulated.
        """
        parts = [each for each in (self.dense, self.tables) if each.built]
        parts = [each for each in parts if each._trainable_variables]
        return parts[0].iterations if parts else self._iterations

    def save_own_variables(self, store: Any) -> None:
        """Writes the own variables; Keras saves both optimizers by themselves."""
        for number, variable in enumerate(self._variables):
            store[str(number)] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Reads what `save_own_variables` has written."""
        for number, variable in enumerate(self._variables):
            variable.assign(store[str(number)])

    def exclude_from_weight_decay(
        self,
        var_list: Sequence[keras.Variable] | None = None,
        var_names: Sequence[str] | None = None,
    ) -> None:
        """Excludes variables from the weight decay of both optimizers.

        Args:
            var_list: The variables.
            var_names: Regular expressions; variables whose path has one are excluded.
        """
        for optimizer in (self.tables, self.dense):
            optimizer.exclude_from_weight_decay(var_list, var_names)

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        """Writes the averages of weights, where an optimizer keeps them."""
        for optimizer in (self.tables, self.dense):
            known = {id(each) for each in optimizer._trainable_variables}
            optimizer.finalize_variable_values([v for v in var_list if id(v) in known])

    @property
    def learning_rate(self) -> Any:
        """Learning rate of the dense weights."""
        return self.dense.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        raise AttributeError(
            "Set `optimizer.tables.learning_rate` and `optimizer.dense.learning_rate`: "
            "a composite optimizer has two learning rates."
        )

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Applies each gradient by the optimizer of its variable.

        Args:
            grads: One gradient for each variable.
            trainable_variables: The variables; by default those of `build`.

        Raises:
            ValueError: If the optimizer was built without one of the variables, or no
                variable has a gradient.
        """
        variables = list(trainable_variables or self._trainable_variables)
        if not self.built:
            self.build(variables)
        self._check_variables_are_known(variables)
        # Warns about the variables without a gradient.
        grads, variables = self._filter_empty_gradients(grads, variables)
        for optimizer in (self.tables, self.dense):
            known = {id(each) for each in optimizer._trainable_variables}
            pairs = [
                (gradient, each)
                for gradient, each in zip(grads, variables, strict=True)
                if id(each) in known
            ]
            if pairs:
                optimizer.apply(*zip(*pairs, strict=True))
        self._iterations.assign_add(1)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor; both optimizers are serialised."""
        return {
            "tables": keras.saving.serialize_keras_object(self.tables),
            "dense": keras.saving.serialize_keras_object(self.dense),
            "table_pattern": self.table_pattern,
            "name": self.name,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Any = None
    ) -> CompositeOptimizer:
        """The optimizer that `get_config` describes.

        Args:
            config: Result of `get_config`.
            custom_objects: Classes by name, as for Keras optimizers.
        """
        parts = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("tables", "dense")
        }
        return cls(**{**config, **parts})
