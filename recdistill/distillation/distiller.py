r"""Distiller: trains a student on observed relevance and on the scores of a teacher.

It is a plain `keras.Model` around the student. `compile`, `fit`, `evaluate`, `predict`
and callbacks work as in any Keras model; only the loss differs:

$$ L = w \, L_\text{relevance} + \sum_i w_i \, L_{\text{distillation}, i} + R $$

with $w$ the `student_loss_weight`, $w_i$ the `distillation_loss_weights` and $R$ the
student's regularisation losses. `fit` and `evaluate` report $L$ as `loss` and, before
weighting, `relevance_loss`, `distillation_loss` (the weighted mean of all distillation
losses) and, if there are several, each of them as `distillation_loss_<its name>`.

A batch is `(x, y)` or `(x, y, sample_weight)`:

- `x` is a dict. `query` holds features `{name: (batch, …)}`; `candidate_index` is
  `(batch, list_size)`, or `(list_size,)` if all lists share their candidates; `mask` is
  `(batch, list_size)`, bool; the optional `teacher_scores` are `(batch, list_size)`,
  float. The scores of several teachers are a dict of such arrays, or one array `(batch,
  teachers, list_size)`. The optional `item_weight`, `(batch, list_size)`, is the number
  of items that each candidate stands for, if candidates were drawn from a larger
  catalogue; the losses on scores take it. `stratum`, shaped as `candidate_index`, is
  for `losses.StratifiedKLDivergence`. The optional `teacher_weight`, `(batch,)`, is a
  factor of each list's weight in the distillation losses: 0 for a list about which the
  teacher says nothing. Stored embeddings, for losses that compare these, are further
  entries under their own names. Only `mask` is required: student and teacher read what
  they need of `x`, and the teacher may read further features.
- `y` is relevance alone, or `{"labels": relevance}`. It may also have a "mask", for
  relevance that is known for some of the candidates only; then the relevance loss takes
  the "item_weight" of `y`, if it has one, and not that of `x`.
- `sample_weight` is `(batch,)`, one weight for each list, or `(batch, list_size)`, one
  for each candidate; or a dict shaped like `y`, whose "labels" are used.

`fit` and `evaluate` also take NumPy arrays. Candidates that all lists share need a
dataset, because Keras slices every array along its first axis.

With `gradient_accumulation_steps` of a Keras optimizer, n small batches train like one
large batch if their weights are equal, because their means are averaged. Embedding
tables under Adam are an exception in Keras 3.15: it squares the gradient of each
occurrence of a row in a batch, but the sum over the occurrences if gradients are
accumulated. `recdistill.models.LazyAdam` sums the occurrences in both cases.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import ops

from recdistill.distillation import keras_losses, layer_outputs, loss_terms
from recdistill.distillation.batch_arguments import (
    Batch,
    array_weight,
    declared_inputs,
    first_replica,
    labels_and_mask,
    refuse_class_weight,
    weight_like,
    weighted_mask,
)
from recdistill.distillation.compile_arguments import CompileArguments
from recdistill.distillation.loss_terms import Losses, Temperatures
from recdistill.distillation.schedules import Scheduled, described, value_at
from recdistill.distillation.teacher_outputs import Teacher, Teachers, TeacherWeights
from recdistill.lists.masked_ops import Tensor
from recdistill.lists.replicas import replicas
from recdistill.lists.shared_results import shared_results
from recdistill.losses.representation_loss import RepresentationLoss

__all__ = ["Distiller"]


@dataclass(frozen=True)
class _Pass:
    """Results of the student's last forward pass, which `call` keeps for the loss."""

    scores: Tensor | None = None
    outputs: dict[str, Tensor] = field(default_factory=dict)


@keras.saving.register_keras_serializable(package="recdistill")
class Distiller(keras.Model):  # type: ignore[misc]
    """Distiller: a Keras model that trains a student on relevance and teacher scores.

    If a batch has `teacher_scores`, they are used and no teacher runs. Otherwise the
    teacher runs once in each step, with `training=False`. The teacher is not part of
    the model: its variables are neither trained, counted nor saved. A saved distiller
    contains the student and is loaded with `teacher=None`. It also contains the other
    trained weights (projections of embeddings and learned temperatures), so that
    training can continue; `distiller.student`, the model to export, has none of these.

    Without teacher and distillation losses, and with `student_loss_weight=1.0`, the
    student trains on relevance alone. This is how the baseline is trained.

    The arguments up to `name` have the order of `keras.distillation.Distiller`.

    Args:
        teacher: A Keras model or a function of tensors, called as
            `teacher(x, training=False)`, that returns scores `(batch, list_size)`; or
            several of them, in a sequence or by name, which are combined into the
            weighted mean of their z-scores (as in `recdistill.EnsembleTeacher`). None
            if all batches have `teacher_scores`.
        student: A Keras model that turns `x`, without `teacher_scores`, into scores
            `(batch, list_size)`.
        distillation_losses: A Keras loss or a list of Keras losses, called with
            `y_true = {"labels": teacher_scores, "mask": mask}`; a
            `recdistill.losses.RepresentationLoss` is called with the embeddings that it
            names. Keras's own losses work too, and may be given by name
            (`recdistill.distillation.keras_losses`).
        distillation_loss_weights: A weight of at least 0 for each distillation loss, a
            number or a schedule, used without scaling. The default is an equal part of
            `1 - student_loss_weight` for each. (Keras's own Distiller also multiplies
            given weights by that number.)
        student_loss_weight: Weight of the relevance loss, from 0 to 1; a number or a
            schedule.
        name: Name of the model.
        teacher_weights: One weight for each of several teachers, by order or by name;
            equal by default. Only ratios matter.
        temperatures: For each distillation loss a number, a schedule, a
            `LearnedTemperature` or None. It replaces the `temperature` of the loss and
            is reported as `temperature`.
        **kwargs: `dtype` and `trainable`, as for any Keras model. The default `dtype`
            is the student's, so that mixed precision scales the loss if necessary.

    A schedule is a `keras.optimizers.schedules.LearningRateSchedule` or any function of
    the number of updates (`recdistill.distillation.schedules`).

    Raises:
        ValueError: If a loss is not a Keras loss that reduces a batch to one number, a
            weight is out of its range, the number of weights or temperatures differs
            from that of losses, or all weights are 0.

    Examples:
        A student with two trainable numbers, the scores of its two candidates.

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

        Half of the loss is minimal at the probabilities (0, 1) and half at (3/4, 1/4);
        the student learns the probabilities in between.

        >>> ops.softmax(distiller.predict(batches.take(1), verbose=0)).numpy().round(3)
        array([[0.375, 0.625]], dtype=float32)
    """

    def __init__(
        self,
        teacher: Teacher | Sequence[Teacher] | Mapping[str, Teacher] | None,
        student: keras.Model,
        distillation_losses: Losses = None,
        distillation_loss_weights: Sequence[Scheduled] | None = None,
        student_loss_weight: Scheduled = 0.5,
        name: str = "distiller",
        *,
        teacher_weights: TeacherWeights = None,
        temperatures: Temperatures = None,
        **kwargs: Any,
    ) -> None:
        # The student casts its own inputs.
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
            if isinstance(loss, RepresentationLoss) and loss.projection
            else None
            for number, loss in enumerate(losses)
        )
        self._teachers = Teachers(
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
                "`distillation_losses` must be given, with a weight above 0, if "
                "`student_loss_weight` is 0. "
                f"Received: distillation_losses={distillation_losses}, "
                f"distillation_loss_weights={distillation_loss_weights}"
            )
        self._compiled = CompileArguments()
        # Apart from projections the distiller has no variables to build.
        self.built = student.built and not any(self.projections)

    @property
    def teacher(self) -> Teachers | None:
        """The teachers, by name in `teacher.teachers`; None if there are none."""
        # Not the models: Keras saves those that it finds in an attribute.
        return self._teachers if self._teachers.teachers else None

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Sequence[Any] | None = None,
        weighted_metrics: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Configure training, as in `keras.Model`, for batches of lists.

        Losses and metrics of recdistill and keras-rs are called with `y` as
        `{"labels": …, "mask": …}` and the student's scores. Keras's own losses and
        metrics work candidate by candidate; see
        `recdistill.distillation.keras_losses`.

        Args:
            optimizer: A Keras optimizer or its name.
            loss: The relevance loss: a Keras loss, its name ("mse") or a function. It
                may be None if `student_loss_weight` is 0.
            metrics: Keras metrics, their names ("mae") or functions.
            weighted_metrics: The same; `sample_weight` applies to these. A name that
                `metrics` uses gets the prefix "weighted_".
            **kwargs: Other arguments of `keras.Model.compile` except `loss_weights`,
                for which there is `student_loss_weight`. XLA is off by default.

        Raises:
            ValueError: If the relevance loss is missing but has a weight, a loss or
                metric is invalid or treats candidates as classes, or `loss_weights` are
                given.
        """
        if kwargs.get("loss_weights") is not None:
            raise ValueError(
                "`loss_weights` must be None: `student_loss_weight` weighs the loss. "
                f"Received: loss_weights={kwargs['loss_weights']}"
            )
        if loss is None and not loss_terms.is_always_zero(self.student_loss_weight):
            raise ValueError(
                "`loss` must be given if `student_loss_weight` is above 0. Received: "
                f"loss=None, student_loss_weight={described(self.student_loss_weight)}"
            )
        names = ["loss"]
        names += ["relevance_loss"] if loss is not None else []
        names += ["distillation_loss"] if self.distillation_losses else []
        names += [name for term in self._terms for name in term.reported]
        compiled = CompileArguments(loss, metrics, weighted_metrics, names)
        super().compile(optimizer=optimizer, **{"jit_compile": False, **kwargs})
        self._compiled = compiled

    @functools.wraps(keras.Model.fit)
    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train, as in `keras.Model`; arrays may have weights `(n, list_size)`."""
        refuse_class_weight(super().fit, x, y, *args, **kwargs)
        if kwargs.get("sample_weight") is not None:
            kwargs["sample_weight"] = weight_like(y, kwargs["sample_weight"])
        validation = kwargs.get("validation_data")
        if isinstance(validation, list | tuple) and len(validation) == 3:
            x_, y_, weight = validation
            kwargs["validation_data"] = (x_, y_, weight_like(y_, weight))
        return super().fit(x, y, *args, **kwargs)

    @functools.wraps(keras.Model.evaluate)
    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluate, as in `keras.Model`; arrays may have weights `(n, list_size)`."""
        if kwargs.get("sample_weight") is not None:
            kwargs["sample_weight"] = weight_like(y, kwargs["sample_weight"])
        return super().evaluate(x, y, *args, **kwargs)

    @functools.wraps(keras.Model.train_on_batch)
    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Train on one batch, as in `keras.Model`."""
        refuse_class_weight(super().train_on_batch, *args, **kwargs)
        return super().train_on_batch(*args, **kwargs)

    def _maybe_symbolic_build(
        self, iterator: Any = None, data_batch: Any = None
    ) -> None:
        """Build from the batch of one replica.

        Keras averages a batch over the replicas of a `tf.distribute` strategy to learn
        its shapes, which fails for boolean masks.
        """
        if iterator is not None and self.distribute_strategy.num_replicas_in_sync > 1:
            _, _, batches = next(iter(iterator))
            iterator, data_batch = None, first_replica(next(batches))
        super()._maybe_symbolic_build(iterator, data_batch)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Metrics that `fit` and `evaluate` report: losses, then compiled metrics."""
        others = [metric for metric in super().metrics if metric.name != "loss"]
        return [*self._compiled.all_metrics, *others]

    def build(self, x_shape: Any = None) -> None:
        """Do nothing: the student builds itself, and projections need a batch."""

    def call(self, x: Batch, training: bool | None = None) -> Tensor:
        """The student's scores.

        Args:
            x: The inputs of a batch.
            training: Whether layers such as dropout are in training mode.

        Returns:
            `(batch, list_size)`.

        Raises:
            ValueError: If the student lacks an output that a loss compares.
        """
        with layer_outputs.watching(self.student, self._watched) as outputs:
            inputs = declared_inputs(self.student, self._teachers.visible(x))
            scores = self.student(inputs, training=training)
        layer_outputs.check_found(self.student, self._watched, outputs)
        self._pass = _Pass(scores, outputs)
        self._build_projections(x)
        return scores

    def _build_projections(self, x: Batch) -> None:
        """Create the projections once both widths are known."""
        pairs = [
            (layer, loss)
            for layer, loss in zip(
                self.projections, self.distillation_losses, strict=True
            )
            if layer is not None and not layer.built
        ]
        widths = self._teachers.widths(x) if pairs else {}
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
        """The loss of a batch; Keras calls this in each training and test step.

        Args:
            x: The inputs of the batch.
            y: `{"labels": …, "mask": …}`, or relevance alone, `(batch, list_size)`.
            y_pred: The student's scores, `(batch, list_size)`; computed if None.
            sample_weight: `(batch,)` or `(batch, list_size)`, or a dict shaped like
                `y`.
            training: Whether the student is in training mode, if its scores are
                computed here.

        Returns:
            A scalar.

        Raises:
            ValueError: If relevance is required but missing, or teacher scores are
                required but neither stored in `x` nor available from a teacher.
        """
        # A second term with the same softmax or the same mask uses the first one's.
        with shared_results():
            return self._loss_of(x, y, y_pred, sample_weight, training)

    # Not `_compute_loss`: that is a method of Keras, which calls `compute_loss`.
    def _loss_of(
        self, x: Batch, y: Any, y_pred: Any, sample_weight: Any, training: bool
    ) -> Tensor:
        scores, outputs = self._student_pass(x, y_pred, training)
        sample_weight = array_weight(sample_weight)
        # Gradients are summed over replicas, so losses are divided by their number.
        loss = sum(ops.cast(ops.sum(each), "float32") for each in self.losses)
        loss = ops.convert_to_tensor(loss, "float32") / replicas()
        step, parts = self._step, {}
        if self._compiled.loss is not None:
            relevance = labels_and_mask(x, y)
            value = keras_losses.loss_value(
                self._compiled.loss, relevance, scores, sample_weight
            )
            parts["relevance_loss"] = value
            loss += value_at(self.student_loss_weight, step) * value
        if self._terms:
            teacher, weights, values = self._teachers.outputs_for(x), [], []
            about = weighted_mask(x), sample_weight, x.get("teacher_weight")
            for term in self._terms:
                weights.append(value_at(term.weight, step))
                pair = term.compared(teacher, scores, outputs)
                value, reported = term.value(pair, *about, step)
                values.append(value)
                parts |= reported
                loss += weights[-1] * value
            parts["distillation_loss"] = loss_terms.weighted_mean(values, weights)
        self._compiled.update_means({"loss": loss, **parts}, x, sample_weight)
        return loss

    @property
    def _step(self) -> Tensor:
        """Number of updates that the optimizer has made; schedules depend on it."""
        optimizer = self.optimizer if self.compiled else None
        return 0 if optimizer is None else ops.convert_to_tensor(optimizer.iterations)

    def _student_pass(
        self, x: Batch, y_pred: Tensor | None, training: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Scores and intermediate representations from the same forward pass."""
        scores = self(x, training=training) if y_pred is None else y_pred
        last, self._pass = self._pass, _Pass()
        if self._watched and last.scores is not scores:
            raise ValueError(
                "`y_pred` must come from this distiller's last call, or be None, if a "
                "loss compares embeddings. Received: other scores"
            )
        return scores, last.outputs

    def compute_metrics(
        self,
        x: Batch,
        y: dict[str, Tensor] | Tensor | None,
        y_pred: Tensor,
        sample_weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Update the compiled metrics with a batch.

        Args:
            x: The inputs of the batch.
            y: `{"labels": …, "mask": …}`, or relevance alone, `(batch, list_size)`.
            y_pred: The student's scores, `(batch, list_size)`.
            sample_weight: For the weighted metrics; as for `compute_loss`.

        Returns:
            The value of each metric by name.
        """
        if self._compiled.metrics or self._compiled.weighted_metrics:
            relevance = labels_and_mask(x, y)
            # Metrics are those of the candidates at hand.
            relevance.pop("item_weight", None)
            weight = array_weight(sample_weight)
            self._compiled.update_metrics(relevance, y_pred, weight)
        results: dict[str, Tensor] = self.get_metrics_result()
        return results

    def get_config(self) -> dict[str, Any]:
        """The arguments without the teacher, as a serialisable dict."""
        own = {
            "student": self.student,
            "distillation_losses": list(self.distillation_losses),
            "distillation_loss_weights": list(self.distillation_loss_weights),
            "student_loss_weight": self.student_loss_weight,
            "teacher_weights": self._teachers.weights,
            "temperatures": list(self.temperatures),
        }
        return {**super().get_config(), **keras.saving.serialize_keras_object(own)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Distiller":
        """Create a distiller, without a teacher, from the result of `get_config`."""
        return cls(teacher=None, **keras.saving.deserialize_keras_object(config))

    def get_build_config(self) -> dict[str, Any] | None:
        """Widths of the projections; the student saves its own build config."""
        if not any(layer and layer.built for layer in self.projections):
            return None
        widths = [layer and layer.widths for layer in self.projections]
        return {"projection_widths": widths}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Create the projections of a saved distiller."""
        for layer, widths in zip(
            self.projections, config["projection_widths"], strict=True
        ):
            if layer and widths:
                layer.build(widths)

    def get_compile_config(self) -> dict[str, Any]:
        """The arguments of `compile`, as a serialisable dict."""
        config = super().get_compile_config()
        return {**config, **self._compiled.get_config()} if config else {}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile with the result of `get_compile_config`."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built and self.student.built:
            self.optimizer.build(self.trainable_variables)
