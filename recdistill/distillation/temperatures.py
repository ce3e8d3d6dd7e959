"""A temperature that is learned during training (curriculum temperature)."""

from math import isfinite, log
from typing import Any

import keras
from keras import ops

from recdistill.distillation.schedules import Scheduled, bounds, described, value_at
from recdistill.lists.masked_ops import Tensor

__all__ = ["LearnedTemperature"]


@keras.saving.register_keras_serializable(package="recdistill")
class LearnedTemperature(keras.layers.Layer):  # type: ignore[misc]
    r"""Temperature that is learned adversarially, within bounds (CTKD).

    The temperature depends on one variable $\theta$, which the optimizer of the
    distiller trains together with the student. The variable belongs to the distiller,
    not to the student:

    $$ \tau = \tau_\text{lowest} \left( \frac{\tau_\text{highest}}{\tau_\text{lowest}}
       \right)^{\mathrm{sigmoid}(\theta)} $$

    Minimising the loss over the temperature would not help the student: the factor
    $\tau^2$ takes a divergence to 0 as $\tau \to 0$, for any scores, and
    without that factor the divergence is 0 at $\tau \to \infty$. The gradient of
    $\theta$ is therefore reversed: it searches for the temperature at which student and
    teacher differ most, and the student is trained there. The two bounds keep this
    search finite. The interpolation is linear in the logarithm of $\tau$, so that
    $\tau$ stays positive and a doubling is an equally large step everywhere. The
    initial temperature is the geometric mean of the bounds.

    `strength` scales the reversed gradient. A strength that rises from 0 to 1 over the
    first part of training is a curriculum: the student starts at an easy temperature,
    which becomes harder as the student learns. (An optimizer that normalises gradients,
    such as Adam, cancels a constant strength, but not a change of it.)

    Args:
        lowest: Lowest temperature, above 0.
        highest: Highest temperature, above `lowest`.
        strength: At least 0; a number or a schedule
            (`recdistill.distillation.schedules`).
        name: Name of the layer.
        **kwargs: Other arguments of a Keras layer.

    Raises:
        ValueError: If the bounds or the strength are out of range.

    Reference: Li et al. (2023), "Curriculum Temperature for Knowledge Distillation",
        which also predicts a temperature for each example; here one temperature is
        shared by all examples.

    Examples:
        >>> temperature = LearnedTemperature(1.0, 4.0)
        >>> float(temperature(0))
        2.0
    """

    def __init__(
        self,
        lowest: float = 1.0,
        highest: float = 10.0,
        strength: Scheduled = 1.0,
        name: str = "learned_temperature",
        **kwargs: Any,
    ) -> None:
        # Half precision is too coarse for a variable that moves in small steps.
        super().__init__(name=name, **{"dtype": "float32", **kwargs})
        if not (0.0 < lowest < highest and isfinite(highest)):
            raise ValueError(
                "`lowest` and `highest` must be finite, above 0 and in that order. "
                f"Received: lowest={lowest}, highest={highest}"
            )
        least, most = bounds(strength)
        if not (least >= 0.0 and isfinite(most)):
            raise ValueError(
                "`strength` must be finite and at least 0. "
                f"Received: strength={described(strength)}"
            )
        self.lowest, self.highest, self.strength = lowest, highest, strength
        self.position = self.add_weight(shape=(), initializer="zeros", name="position")
        self.built = True

    def __call__(self, step: Tensor) -> Tensor:
        """The temperature at a step, a scalar; see `call`."""
        return super().__call__(ops.convert_to_tensor(step))

    def call(self, step: Tensor) -> Tensor:
        """The temperature, a scalar.

        Args:
            step: Number of updates that the optimizer has made; `strength` may depend
                on it.
        """
        strength = value_at(self.strength, step)
        position = ops.convert_to_tensor(self.position)
        # This equals `position`, and its derivative is minus `strength`.
        reversed_ = (1.0 + strength) * ops.stop_gradient(position) - strength * position
        width = log(self.highest) - log(self.lowest)
        return self.lowest * ops.exp(width * ops.sigmoid(reversed_))

    def get_config(self) -> dict[str, Any]:
        """Bounds and strength, as a serialisable dict."""
        strength = keras.saving.serialize_keras_object(self.strength)
        own = {"lowest": self.lowest, "highest": self.highest, "strength": strength}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LearnedTemperature":
        """Create a temperature from the result of `get_config`."""
        return cls(**keras.saving.deserialize_keras_object(config))
