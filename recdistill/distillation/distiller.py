r"""The Distiller: trains a student on what people chose and on what its teacher thinks.

It is a plain `keras.Model` around the student. `compile`, `fit`, `evaluate`, `predict`
and callbacks work as ever; only the loss is new:

$$ L = w \, L_\text{relevance} + \sum_i w_i \, L_{\text{distillation}, i} + R $$

with $w$ the `student_loss_weight`, $w_i$ the `distillation_loss_weights` and $R$ the
student's own regularisation. `fit` and `evaluate` report $L$ as `loss`, and, before
weighting, `relevance_loss`, `distillation_loss` (the weighted mean of all) and, where
there are several, each of them as `distillation_loss_<its name>`.

A batch is `(x, y)` or `(x, y, sample_weight)`, where

- `x` is a dict. `query` holds features `{name: (batch, …)}`, `candidate_index` is
  `(batch, list_size)`, or `(list_size,)` where all lists share their candidates, `mask`
  is `(batch, list_size)`, bool, and so is `teacher_scores`, if there, in floats. Of
  several teachers it is a dict of such scores, or `(batch, teachers, list_size)`.
  Stored embeddings, for losses that ask for them, stand beside it under their names;
- `y` is `{"labels": relevance, "mask": mask}`, or relevance alone;
- `sample_weight` is `(batch,)`, one weight a list; or `(batch, list_size)`, one a
  candidate, for losses that take those.

The student reads from `x` what it likes, and so does the teacher, which may use
features that no student will ever have. Neither sees what is stored of the teacher.

With `gradient_accumulation_steps` of a Keras optimizer, n small batches train like one
large batch as far as they weigh the same: the mean of their means is taken. (Embedding
tables under Adam and its kin are an exception of Keras 3.15: those square the gradient
of each mention of a row in a batch, but of the row's sum when it is accumulated.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import ops

from recdistill.distillation import layer_outputs, loss_terms
from recdistill.distillation.loss_terms import Losses, Temperatures, Weight, replicas
from recdistill.distillation.teacher_outputs import (
    Batch,
    Targets,
    Teacher,
    TeacherWeights,
)
from recdistill.lists.masked_ops import Tensor
from recdistill.losses.representation_loss import RepresentationLoss, lists_and_rows

__all__ = ["Distiller"]


@dataclass(frozen=True)
class _Compiled:
    """What `compile` was given, kept out of reach of Keras's attribute tracking.

    Keras itself would hand `y` to losses and metrics without its mask.
    """

    loss: keras.losses.Loss | None
    metrics: Sequence[keras.metrics.Metric]
    weighted_metrics: Sequence[keras.metrics.Metric]
    means: dict[str, keras.metrics.Mean]


@dataclass(frozen=True)
class _Pass:
    """The last forward pass of the student, on its way from `call` to the loss."""

    scores: Tensor | None = None
    outputs: dict[str, Tensor] = field(default_factory=dict)


_SERIALIZED = (
    "student",
    "distillation_losses",
    "distillation_loss_weights",
    "student_loss_weight",
    "temperatures",
)
"""Arguments that are objects, or hold some."""


@keras.saving.register_keras_serializable(package="recdistill")
class Distiller(keras.Model):  # type: ignore[misc]
    """Trains a student model on relevance and on the scores of a teacher.

    Where a batch has `teacher_scores` they are used and no teacher runs. Else the
    teacher runs once a step, with `training=False`. The teacher is not part of the
    model: its variables are neither trained, counted nor saved. A saved distiller holds
    the student, and comes back with `teacher=None`. What it trains beside the student,
    projections of embeddings and learned temperatures, it saves, too, so that training
    can go on; it is not in `distiller.student`, which is what is exported.

    With neither teacher nor distillation losses and `student_loss_weight=1.0` the
    student trains on relevance alone. This is how its baseline, the baseline, is
    trained.

    The arguments up to `name` stand in the order of `keras.distillation.Distiller`.

    Args:
        teacher: Called as `teacher(x, training=False)`, it returns scores `(batch,
            list_size)`. A Keras model, or any such function; or several, in a sequence
            or by name, whose z-scores are averaged. None where all batches have
            `teacher_scores`.
        student: A Keras model that turns `x`, without `teacher_scores`, into scores
            `(batch, list_size)`.
        distillation_losses: A Keras loss or a list of them, called with `y_true =
            {"labels": teacher_scores, "mask": mask}`; or with the embeddings that it
            names, if it is a `recdistill.losses.RepresentationLoss`. None for none.
        distillation_loss_weights: A weight for each distillation loss, at least 0, used
            as it is, or a schedule. The default is an equal part of `1 -
            student_loss_weight` for each. (Keras's own Distiller multiplies given
            weights by that number, too.)
        student_loss_weight: Weight of the relevance loss, from 0 to 1, or a schedule.
        name: Name of the model.
        teacher_weights: One for each of several teachers, by order or by name. The
            default is an equal part of 1.
        temperatures: A schedule, a `LearnedTemperature` or None for each distillation
            loss (see `recdistill.distillation.temperatures`); it stands in for the
            loss's own
            `temperature`, and is reported as `temperature`.
        **kwargs: `dtype` and `trainable`, as for any Keras model. The default `dtype`
            is the student's, so that mixed precision scales the loss where it has to.

    Raises:
        ValueError: If a loss is not a Keras loss that reduces a batch to one number, a
            weight is out of its range, the number of weights or temperatures differs
            from that of losses, or there is nothing to learn from.

    Example:
        A student with two numbers to learn, the scores of its two candidates.

        >>> import tensorflow as tf
        >>> class Student(keras.Model):
        ...     def build(self, input_shape):
        ...         self.scores = self.add_weight(shape=(1, 2), initializer="zeros")
        ...     def call(self, x):
        ...         return self.scores + 0.0 * x["query"]["age"][:, None]
        >>> from recdistill.losses import ListwiseCrossEntropy, ListwiseKLDivergence
        >>> distiller = Distiller(None, Student(), ListwiseKLDivergence())
        >>> distiller.compile(keras.optimizers.SGD(4.0), loss=ListwiseCrossEntropy())
        >>> x = {
        ...     "query": {"age": tf.constant([40.0])},
        ...     "mask": tf.constant([[True, True]]),
        ...     "teacher_scores": tf.math.log([[3.0, 1.0]]),  # 3/4 and 1/4
        ... }
        >>> y = {"labels": tf.constant([[0.0, 1.0]]), "mask": x["mask"]}
        >>> batches = tf.data.Dataset.from_tensors((x, y)).repeat(100)
        >>> _ = distiller.fit(batches, shuffle=False, verbose=0)

        Half of the loss asks for (0, 1) and half for (3/4, 1/4); the student ends up in
        between.

        >>> ops.softmax(distiller.predict(batches.take(1), verbose=0)).numpy().round(3)
        array([[0.375, 0.625]], dtype=float32)
    """

    def __init__(
        self,
        teacher: Teacher | Sequence[Teacher] | Mapping[str, Teacher] | None,
        student: keras.Model,
        distillation_losses: Losses = None,
        distillation_loss_weights: Sequence[Weight] | None = None,
        student_loss_weight: Weight = 0.5,
        name: str = "distiller",
        *,
        teacher_weights: TeacherWeights = None,
        temperatures: Temperatures = None,
        **kwargs: Any,
    ) -> None:
        # The student casts its inputs itself, if it wants them cast.
        kwargs = {"dtype": student.dtype_policy, **kwargs}
        super().__init__(name=name, autocast=False, **kwargs)
        self.student = student
        self.student_loss_weight = loss_terms.as_student_weight(student_loss_weight)
        losses = self.distillation_losses = loss_terms.as_losses(distillation_losses)
        self.distillation_loss_weights = loss_terms.as_weights(
            distillation_loss_weights, len(losses), student_loss_weight
        )
        self.temperatures = loss_terms.as_temperatures(temperatures, losses)
        self.projections = tuple(
            layer_outputs.Projection(name=f"projection_{number}")
            if isinstance(loss, RepresentationLoss) and loss.projected
            else None
            for number, loss in enumerate(losses)
        )
        self._targets = Targets(
            teacher,
            teacher_weights,
            outputs=loss_terms.outputs_of(losses, "teacher"),
            with_scores=not all(isinstance(x, RepresentationLoss) for x in losses),
        )
        self._watched = loss_terms.outputs_of(losses, "student")
        self._pass = _Pass()
        self._terms = loss_terms.as_terms(
            losses, self.distillation_loss_weights, self.temperatures, self.projections
        )
        weights = [self.student_loss_weight, *self.distillation_loss_weights]
        if all(loss_terms.is_always_zero(weight) for weight in weights):
            raise ValueError(
                "`distillation_losses` must be given and have weight where "
                "`student_loss_weight` is 0. "
                f"Received: distillation_losses={distillation_losses}, "
                f"distillation_loss_weights={distillation_loss_weights}"
            )
        self._compiled = _Compiled(None, (), (), {})
        # The distiller has no weights of its own to build, but for projections.
        self.built = student.built and not any(self.projections)

    @property
    def teacher(self) -> Targets | None:
        """The teachers, for this distiller to ask; None where all is stored."""
        return self._targets if self._targets.teachers else None

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: keras.losses.Loss | None = None,
        metrics: Sequence[keras.metrics.Metric] | None = None,
        weighted_metrics: Sequence[keras.metrics.Metric] | None = None,
        **kwargs: Any,
    ) -> None:
        """Configure training. As in `keras.Model`, with whole lists in mind.

        Args:
            optimizer: A Keras optimizer or its name.
            loss: The relevance loss: called with `y` as `{"labels": …, "mask": …}`, the
                student's scores and `sample_weight`. It may be left out where
                `student_loss_weight` is 0.
            metrics: Called with `y` as above and the student's scores.
            weighted_metrics: Called with `sample_weight` besides.
            **kwargs: Other arguments of `keras.Model.compile`, but for `loss_weights`,
                whose part `student_loss_weight` plays.

        Raises:
            ValueError: If there is no relevance loss but a weight for it, a loss or
                metric is no Keras object, or there are `loss_weights`.
        """
        if kwargs.get("loss_weights") is not None:
            raise ValueError(
                "`loss_weights` must be None: `student_loss_weight` weighs the loss. "
                f"Received: loss_weights={kwargs['loss_weights']}"
            )
        if loss is None and not loss_terms.is_always_zero(self.student_loss_weight):
            raise ValueError(
                "`loss` must be given where `student_loss_weight` is above 0. "
                f"Received: loss=None, student_loss_weight={self.student_loss_weight}"
            )
        if loss is not None:
            loss_terms.check_loss("loss", loss)
        metrics, weighted_metrics = list(metrics or ()), list(weighted_metrics or ())
        for metric in metrics + weighted_metrics:
            if not isinstance(metric, keras.metrics.Metric):
                raise ValueError(
                    "`metrics` must be keras.metrics.Metric objects. "
                    f"Received: {metric!r}"
                )
        super().compile(optimizer=optimizer, **kwargs)
        names = ["loss"]
        names += ["relevance_loss"] if loss is not None else []
        names += ["distillation_loss"] if self.distillation_losses else []
        names += [name for term in self._terms for name in term.reported]
        means = {name: keras.metrics.Mean(name=name) for name in names}
        self._compiled = _Compiled(loss, metrics, weighted_metrics, means)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """What `fit` and `evaluate` report: the losses, then the compiled metrics."""
        compiled = self._compiled
        others = [metric for metric in super().metrics if metric.name != "loss"]
        return [
            *compiled.means.values(),
            *compiled.metrics,
            *compiled.weighted_metrics,
            *others,
        ]

    def build(self, x_shape: Any = None) -> None:
        """Nothing: the student builds itself, and projections need a batch."""

    def call(self, x: Batch, training: bool | None = None) -> Tensor:
        """The student's scores.

        Args:
            x: The inputs of a batch.
            training: Whether dropout and the like are on.

        Returns:
            `(batch, list_size)`.

        Raises:
            ValueError: If the student has no output that a loss asks for.
        """
        with layer_outputs.watching(self.student, self._watched) as outputs:
            scores = self.student(self._targets.hidden(x), training=training)
        for name in self._watched:
            if name not in outputs:
                layers = sorted(
                    path for path, _ in layer_outputs.layer_paths(self.student)
                )
                raise ValueError(
                    "`student_output` must be a name that the student exposes, or one "
                    f"of its layers. Received: student_output={name!r}, a student with "
                    f"the layers {layers}"
                )
        self._pass = _Pass(scores, outputs)
        self._build_projections(x)
        return scores

    def _build_projections(self, x: Batch) -> None:
        """Create the projections as soon as both widths are known."""
        pairs = [
            (layer, loss)
            for layer, loss in zip(
                self.projections, self.distillation_losses, strict=True
            )
            if layer is not None and not layer.built
        ]
        widths = self._targets.widths(x) if pairs else {}
        for layer, loss in pairs:
            if loss.teacher_output in widths:
                student = self._pass.outputs[loss.student_output].shape[-1]
                layer.build((student, widths[loss.teacher_output]))

    def compute_loss(
        self,
        x: Batch,
        y: dict[str, Tensor] | Tensor | None = None,
        y_pred: Tensor | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        """The loss of a batch, as Keras calls it in each training and test step.

        Args:
            x: The inputs of the batch.
            y: `{"labels": …, "mask": …}`, or relevance alone, `(batch, list_size)`.
            y_pred: The student's scores, `(batch, list_size)`; computed where None.
            sample_weight: `(batch,)`, one weight a list.
            training: Whether the student trains, where its scores are computed here.

        Returns:
            A scalar.

        Raises:
            ValueError: If relevance is asked for and there is none, or teacher scores
                are and there is neither a teacher nor a column of them.
        """
        scores, outputs = self._student_pass(x, y_pred, training)
        # Gradients are summed over replicas: Keras divides its losses by their number.
        loss = sum(ops.cast(ops.sum(each), "float32") for each in self.losses)
        loss = ops.convert_to_tensor(loss, "float32") / replicas()
        step, parts = self._step, {}
        if self._compiled.loss is not None:
            relevance = _labels_and_mask(x, y)
            value = self._compiled.loss(relevance, scores, sample_weight)
            parts["relevance_loss"] = value
            loss += loss_terms.value_at(self.student_loss_weight, step) * value
        if self._terms:
            shown, weights, values = self._targets.of(x), [], []
            for term in self._terms:
                weights.append(loss_terms.value_at(term.weight, step))
                pair = term.compared(shown, scores, outputs)
                value, reported = term.value(*pair, _mask(x), sample_weight, step)
                values.append(value)
                parts |= reported
                loss += weights[-1] * value
            parts["distillation_loss"] = loss_terms.weighted_mean(values, weights)
        self._update_means({"loss": loss, **parts}, _mask(x), sample_weight)
        return loss

    @property
    def _step(self) -> Tensor:
        """The optimizer's updates so far, which schedules go by."""
        optimizer = self.optimizer if self.compiled else None
        return 0 if optimizer is None else ops.convert_to_tensor(optimizer.iterations)

    def _student_pass(
        self, x: Batch, y_pred: Tensor | None, training: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The scores of a batch and the inner outputs of the same pass."""
        scores = self(x, training=training) if y_pred is None else y_pred
        last, self._pass = self._pass, _Pass()
        if self._watched and last.scores is not scores:
            raise ValueError(
                "`y_pred` must come from this distiller's last call, or be None, where "
                "a loss compares embeddings. Received: other scores"
            )
        return scores, last.outputs

    def _update_means(
        self, values: dict[str, Tensor], mask: Tensor, sample_weight: Tensor | None
    ) -> None:
        """Add a batch to the reported means, where it counts by its weighted lists.

        So neither the batch size nor a list of padding changes what is reported, as
        long as each real list has some relevance. (Keras counts the rows of the first
        input, which may be candidates that lists share.)
        """
        list_weight, _ = lists_and_rows(sample_weight, mask)
        for name, mean in self._compiled.means.items():
            mean.update_state(values[name] * replicas(), ops.sum(list_weight))

    def compute_metrics(
        self,
        x: Batch,
        y: dict[str, Tensor] | Tensor | None,
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Update the compiled metrics with a batch, and report all so far.

        Args:
            x: The inputs of the batch.
            y: `{"labels": …, "mask": …}`, or relevance alone, `(batch, list_size)`.
            y_pred: The student's scores, `(batch, list_size)`.
            sample_weight: `(batch,)`, one weight a list; for the weighted metrics.

        Returns:
            The value of each metric by name.
        """
        for metric in self._compiled.metrics:
            metric.update_state(_labels_and_mask(x, y), y_pred)
        for metric in self._compiled.weighted_metrics:
            metric.update_state(_labels_and_mask(x, y), y_pred, sample_weight)
        results: dict[str, Tensor] = self.get_metrics_result()
        return results

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this distiller anew, without its teacher."""
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "student": serialize(self.student),
            "distillation_losses": list(map(serialize, self.distillation_losses)),
            "distillation_loss_weights": list(
                map(serialize, self.distillation_loss_weights)
            ),
            "student_loss_weight": serialize(self.student_loss_weight),
            "teacher_weights": serialize(self._targets.weights),
            "temperatures": list(map(serialize, self.temperatures)),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Distiller":
        """Make a distiller from `get_config`; it has no teacher."""
        made = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in _SERIALIZED
        }
        return cls(teacher=None, **{**config, **made})

    def get_build_config(self) -> dict[str, Any] | None:
        """The widths of projections; the student rebuilds itself."""
        if not any(layer and layer.built for layer in self.projections):
            return None
        widths = [layer and layer.widths for layer in self.projections]
        return {"projection_widths": widths}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Create the projections that a saved distiller had."""
        for layer, widths in zip(
            self.projections, config["projection_widths"], strict=True
        ):
            if layer and widths:
                layer.build(widths)

    def get_compile_config(self) -> dict[str, Any]:
        """The arguments of `compile`, for saving."""
        config = super().get_compile_config()
        if not config:
            return {}
        ours = {
            "loss": self._compiled.loss,
            "metrics": self._compiled.metrics,
            "weighted_metrics": self._compiled.weighted_metrics,
        }
        return {**config, **keras.saving.serialize_keras_object(ours)}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile with what `get_compile_config` returned."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built and self.student.built:
            self.optimizer.build(self.trainable_variables)


def _mask(x: Batch) -> Tensor:
    if "mask" not in x:
        raise ValueError(f'`x` must have the key "mask". Received: keys={sorted(x)}')
    return x["mask"]


def _labels_and_mask(
    x: Batch, y: dict[str, Tensor] | Tensor | None
) -> dict[str, Tensor]:
    """The relevance of a batch in the form that losses and metrics take."""
    if y is None:
        raise ValueError(
            "`y` must hold the relevance of the candidates where a relevance loss or a "
            "metric is compiled. Received: y=None"
        )
    return {"mask": _mask(x), **(y if isinstance(y, dict) else {"labels": y})}
