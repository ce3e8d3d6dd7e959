r"""Row-sparse optimizers: lazy Adam and row-wise Adagrad.

Keras optimizers update every row of an embedding table at every step: with 20,000 ids
in a batch and a table of a million rows, almost all of that work is on rows without a
gradient. The optimizers here update only the rows in the gradient, so that the cost of
a step does not depend on the size of the table. If a row occurs several times in a
batch, its gradients are summed first.

They are plain Keras optimizers with schedules, clipping, decoupled weight decay,
gradient accumulation, loss scaling, `get_config`, saving and loading. A dense gradient
touches all rows. Clipping by norm uses the gradient after the summation, as a dense
optimizer does; a row that is not touched has no weight decay either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from recdistill.lists.replicas import replicas

__all__ = ["LazyAdam", "RowwiseAdagrad"]

Gradient: TypeAlias = Any
"""A tensor, or `tf.IndexedSlices`."""


def summed(gradient: Gradient) -> Gradient:
    """The gradient with each row once; the gradients of repeated rows are summed."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    rows, place = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, place, tf.size(rows))
    return tf.IndexedSlices(values, rows, gradient.dense_shape)


def _divided(gradient: Gradient | None, scale: float) -> Gradient | None:
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values / scale
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return None if gradient is None else gradient / scale


class RowOptimizer(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Base of the row-sparse optimizers.

    A subclass creates its state in `build` and implements `row_step`.

    Args:
        learning_rate: A number, or a `keras.optimizers.schedules` schedule.
        name: Name of the optimizer.
        **options: `weight_decay`, `clipnorm`, `clipvalue`, `global_clipnorm`,
            `loss_scale_factor` and `gradient_accumulation_steps`, as of all Keras
            optimizers.

    Raises:
        ValueError: If `use_ema` is set: a moving average of the weights costs the whole
            table at every step.
    """

    loss_scale_factor: float | None

    def __init__(self, learning_rate: Any, name: str, **options: Any) -> None:
        if options.get("use_ema"):
            raise ValueError(
                "`use_ema` must be False: a moving average of the weights updates all "
                "rows of a table at every step. Received: use_ema=True"
            )
        super().__init__(learning_rate=learning_rate, name=name, **options)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the optimizer's variables.

        Args:
            variables: The variables to train.
        """
        super().build(variables)
        if self.gradient_accumulation_steps:
            self._touched = [
                self.row_variable(each, f"touched_{i}", "bool")
                for i, each in enumerate(variables)
            ]

    def row_variable(
        self, variable: keras.Variable, name: str, dtype: str, value: float = 0.0
    ) -> keras.Variable:
        """A new optimizer variable with one number for each row of `variable`."""
        return self.add_variable(
            shape=variable.shape[:1],
            dtype=dtype,
            initializer="zeros" if not value else keras.initializers.Constant(value),
            name=name,
        )

    def row_step(
        self, gradient: tf.Tensor, rows: tf.Tensor | None, index: int, rate: tf.Tensor
    ) -> tf.Tensor:
        """The change to subtract from the touched rows; updates their state.

        Args:
            gradient: `(touched, …)`.
            rows: `(touched,)`, row numbers, each once; None for all rows.
            index: Number of the variable in the list given to `build`.
            rate: Learning rate, a scalar.

        Returns:
            Like `gradient`.
        """
        raise NotImplementedError

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates the touched rows of one variable.

        Args:
            gradient: `tf.IndexedSlices` touch their rows, a tensor touches all.
            variable: The variable to train.
            learning_rate: Current learning rate.
        """
        rows = None
        if not self._has_summed:
            gradient = summed(gradient)
        if isinstance(gradient, tf.IndexedSlices):
            gradient, rows = gradient.values, gradient.indices
        rate = tf.cast(learning_rate, variable.dtype)
        gradient = tf.cast(gradient, variable.dtype)
        value = taken(variable, rows)
        step = self.row_step(gradient, rows, self._get_variable_index(variable), rate)
        if self.weight_decay is not None and self._use_weight_decay(variable):
            step += value * rate * tf.cast(self.weight_decay, variable.dtype)
        put(variable, rows, value - step)

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Updates the variables.

        Args:
            grads: One gradient for each variable.
            trainable_variables: The variables; by default those of `build`.
        """
        scale = self.loss_scale_factor
        if scale is None:
            super().apply(grads, trainable_variables)
            return
        # Keras's own division does not accept `tf.IndexedSlices`.
        self.loss_scale_factor = None
        try:
            super().apply([_divided(g, scale) for g in grads], trainable_variables)
        finally:
            self.loss_scale_factor = scale

    @property
    def _clips(self) -> bool:
        return bool(self.clipnorm or self.clipvalue or self.global_clipnorm)

    @property
    def _has_summed(self) -> bool:
        """Whether each row occurs once in the gradients that `update_step` gets.

        Under XLA, to sum them again would lose them. Replicas join their rows after
        each has summed its own.
        """
        summed_before = self._clips or bool(self.gradient_accumulation_steps)
        return summed_before and replicas() == 1

    def _apply_weight_decay(self, variables: Any) -> None:
        """Does nothing: `update_step` decays the rows that it updates."""

    def _clip_gradients(self, grads: Any) -> Any:
        if not self._clips:
            return grads
        if not self.gradient_accumulation_steps:  # Accumulated rows occur once.
            grads = [summed(each) for each in grads]
        values = [getattr(each, "values", each) for each in grads]
        return [
            tf.IndexedSlices(clipped, each.indices, each.dense_shape)
            if isinstance(each, tf.IndexedSlices)
            else clipped
            for each, clipped in zip(
                grads, super()._clip_gradients(values), strict=True
            )
        ]

    def _backend_apply_gradients(self, grads: Any, trainable_variables: Any) -> None:
        steps = self.gradient_accumulation_steps
        if not steps:
            super()._backend_apply_gradients(grads, trainable_variables)
            return
        strategy = tf.distribute.get_strategy()
        if strategy.num_replicas_in_sync > 1:
            raise NotImplementedError(
                "`gradient_accumulation_steps` requires a single replica. Received: "
                f"{strategy.num_replicas_in_sync} replicas"
            )
        numbers = [self._get_variable_index(each) for each in trainable_variables]
        for gradient, number in zip(grads, numbers, strict=True):
            self._accumulate(gradient, number)

        def update() -> None:
            means = [self._mean(number) for number in numbers]
            self._backend_update_step(
                self._clip_gradients(means), trainable_variables, self.learning_rate
            )
            for mean, number in zip(means, numbers, strict=True):
                self._forget(mean, number)

        tf.cond((self._iterations.value + 1) % steps == 0, update, lambda: None)

    def _accumulate(self, gradient: Gradient, number: int) -> None:
        total = self._accumulated_gradients[number].value
        touched = self._touched[number].value
        if isinstance(gradient, tf.IndexedSlices):
            total.scatter_add(gradient)
            put(touched, gradient.indices, tf.ones_like(gradient.indices, tf.bool))
        else:
            total.assign_add(gradient)
            touched.assign(tf.ones_like(touched))

    def _mean(self, number: int) -> Gradient:
        """The mean of the accumulated gradients in the rows that they touched."""
        total = self._accumulated_gradients[number].value
        steps = self.gradient_accumulation_steps
        if not total.shape.rank:
            return total / steps
        rows = tf.where(self._touched[number].value)[:, 0]
        return tf.IndexedSlices(tf.gather(total, rows) / steps, rows, tf.shape(total))

    def _forget(self, mean: Gradient, number: int) -> None:
        """Clears the accumulated gradients of the rows in `mean`."""
        values, rows = mean, None
        if isinstance(mean, tf.IndexedSlices):
            values, rows = mean.values, mean.indices
            put(self._touched[number].value, rows, tf.zeros_like(rows, tf.bool))
        put(self._accumulated_gradients[number].value, rows, tf.zeros_like(values))


@keras.saving.register_keras_serializable("recdistill")
class LazyAdam(RowOptimizer):
    r"""Lazy Adam: Adam that updates only the rows in the gradient.

    For each row $r$ in the gradient $g$, with $t_r$ the number of times that the row
    has been in a gradient,

    $$ m_r \leftarrow \beta_1 m_r + (1 - \beta_1) g_r, \qquad
       v_r \leftarrow \beta_2 v_r + (1 - \beta_2) g_r^2, \qquad
       \theta_r \leftarrow \theta_r - \eta
         \frac{\sqrt{1 - \beta_2^{t_r}}}{1 - \beta_1^{t_r}}
         \frac{m_r}{\sqrt{v_r} + \epsilon}. $$

    A row that is in every gradient gets the values of `keras.optimizers.Adam`. The bias
    correction by row matters for rare rows: with the number of steps in its place, a
    row first touched after many steps would move by about $(1 - \beta_1) /
    \sqrt{1 - \beta_2}$ = 3.2 learning rates instead of one. See Kingma and Ba, "Adam"
    (2015); the name follows TensorFlow Addons, which corrects by step.

    Args:
        learning_rate: A number, or a `keras.optimizers.schedules` schedule.
        beta_1: Decay rate of the mean of the gradients, in [0, 1).
        beta_2: Decay rate of the mean of their squares, in [0, 1).
        epsilon: Constant for stability, as in Keras's Adam.
        name: Name of the optimizer.
        **options: Other arguments of Keras optimizers, such as `weight_decay`
            (decoupled, as in AdamW), `clipnorm` and `gradient_accumulation_steps`.

    Examples:
        >>> table = keras.Variable([[1.0], [1.0]])
        >>> gradient = tf.IndexedSlices([[5.0], [2.0]], [1, 1], [2, 1])
        >>> LazyAdam(0.1).apply([gradient], [table])
        >>> table.numpy().round(3)
        array([[1. ],
               [0.9]], dtype=float32)
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        name: str = "lazy_adam",
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, name, **options)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates both moments of each variable, and the step of each row.

        Args:
            variables: The variables to train.
        """
        if self.built:
            return
        super().build(variables)
        names = ["momentum", "velocity"]
        self._momentums, self._velocities = self.add_optimizer_variables(
            variables, names
        )
        self._steps = [
            self.row_variable(each, f"steps_{i}", "int32")
            for i, each in enumerate(variables)
        ]

    def row_step(
        self, gradient: tf.Tensor, rows: tf.Tensor | None, index: int, rate: tf.Tensor
    ) -> tf.Tensor:
        """The step of Adam for the touched rows; updates moments and steps."""
        states = self._momentums[index], self._velocities[index], self._steps[index]
        m, v, t = (taken(each.value, rows) for each in states)
        m += (1 - self.beta_1) * (gradient - m)
        v += (1 - self.beta_2) * (gradient**2 - v)
        t += 1
        for state, value in zip(states, (m, v, t), strict=True):
            put(state.value, rows, value)
        t = by_row(tf.cast(t, gradient.dtype), gradient)
        scale = tf.sqrt(one_minus_power(self.beta_2, t))
        scale /= one_minus_power(self.beta_1, t)
        return rate * scale * m / (tf.sqrt(v) + self.epsilon)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        own = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("recdistill")
class RowwiseAdagrad(RowOptimizer):
    r"""Row-wise Adagrad: Adagrad with one accumulator for each row of a table.

    For each row $r$ of width $d$ in the gradient $g$,

    $$ a_r \leftarrow a_r + \tfrac1d \lVert g_r \rVert^2, \qquad
       \theta_r \leftarrow \theta_r - \eta \frac{g_r}{\sqrt{a_r} + \epsilon}. $$

    Its state is one number for each row: $2d$ times less than that of Adam. It is the
    usual optimizer of large embedding tables (Mudigere et al., "Software-hardware
    co-design for fast and scalable training of deep learning recommendation models",
    ISCA 2022).

    Args:
        learning_rate: A number, or a `keras.optimizers.schedules` schedule.
        initial_accumulator_value: Start of the accumulators, at least 0.
        epsilon: Constant for stability.
        name: Name of the optimizer.
        **options: Other arguments of Keras optimizers, as for `LazyAdam`.

    Examples:
        >>> table = keras.Variable([[1.0, 1.0], [1.0, 1.0]])
        >>> gradient = tf.IndexedSlices([[3.0, 4.0]], [1], [2, 2])
        >>> RowwiseAdagrad(1.0).apply([gradient], [table])
        >>> table.numpy().round(3)  # 3 and 4 over the root of 12.5
        array([[ 1.   ,  1.   ],
               [ 0.151, -0.131]], dtype=float32)
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        initial_accumulator_value: float = 0.0,
        epsilon: float = 1e-7,
        name: str = "rowwise_adagrad",
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, name, **options)
        self.initial_accumulator_value = initial_accumulator_value
        self.epsilon = epsilon

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the accumulator of each row.

        Args:
            variables: The variables to train.
        """
        if self.built:
            return
        super().build(variables)
        start = self.initial_accumulator_value
        self._accumulators = [
            self.row_variable(each, f"accumulator_{i}", "float32", start)
            for i, each in enumerate(variables)
        ]

    def row_step(
        self, gradient: tf.Tensor, rows: tf.Tensor | None, index: int, rate: tf.Tensor
    ) -> tf.Tensor:
        """The step of Adagrad for the touched rows; updates their accumulators."""
        state = self._accumulators[index].value
        axes = list(range(1, gradient.shape.rank))
        square = tf.reduce_mean(tf.cast(gradient, state.dtype) ** 2, axes)
        total = taken(state, rows) + square
        put(state, rows, total)
        scale = by_row(tf.cast(tf.sqrt(total), gradient.dtype), gradient)
        return rate * gradient / (scale + self.epsilon)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        own = {
            "initial_accumulator_value": self.initial_accumulator_value,
            "epsilon": self.epsilon,
        }
        return {**super().get_config(), **own}


def taken(variable: tf.Variable, rows: tf.Tensor | None) -> tf.Tensor:
    """Rows of a variable; all of them if `rows` is None."""
    if rows is None:
        return tf.convert_to_tensor(variable)
    return tf.gather(variable, rows)


def put(variable: tf.Variable, rows: tf.Tensor | None, value: tf.Tensor) -> None:
    """Assigns rows of a variable; all of them if `rows` is None."""
    if rows is None:
        variable.assign(value)
    else:
        variable.scatter_update(tf.IndexedSlices(value, rows))


def one_minus_power(beta: float, t: tf.Tensor) -> tf.Tensor:
    """`1 - beta**t` without cancellation: in float32 1 - .999 has four digits."""
    return -tf.math.expm1(t * (math.log(beta) if beta else -math.inf))


def by_row(numbers: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    """One number for each row, in a shape that multiplies the rows of `gradient`."""
    ones = [1] * max(0, gradient.shape.rank - numbers.shape.rank)
    return tf.reshape(numbers, tf.concat([tf.shape(numbers), ones], 0))
