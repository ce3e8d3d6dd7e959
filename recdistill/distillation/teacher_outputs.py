"""Teacher outputs: the teacher's scores and intermediate representations for a batch.

Outputs that are stored in the batch are used. If one is missing, the teacher runs once,
with `training=False`, and its layers are recorded in that forward pass. Several
teachers, live or stored, are combined as in `recdistill.EnsembleTeacher`; see
`recdistill.distillation.ensemble_scores`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import tensorflow as tf
from keras import ops

from recdistill.distillation import layer_outputs
from recdistill.distillation.batch_arguments import Batch, declared_inputs, mask_of
from recdistill.distillation.ensemble_scores import (
    TeacherWeights,
    check_weights,
    ensemble_scores,
    weights_by_name,
)
from recdistill.lists.masked_ops import Tensor

__all__ = ["Teacher", "TeacherOutputs", "TeacherWeights", "Teachers", "scores_of"]

Teacher: TypeAlias = Callable[..., Tensor]


class TeacherOutputs(NamedTuple):
    """Outputs of the teacher for a batch.

    Attributes:
        scores: `(batch, list_size)`; None if no loss compares scores.
        outputs: Intermediate representations by name.
    """

    scores: Tensor | None
    outputs: dict[str, Tensor]


class Teachers:
    """The teachers of a distiller, held where Keras neither tracks nor saves them.

    Args:
        teacher: One teacher, a sequence of teachers or a mapping from names to
            teachers; None if all batches have stored teacher outputs.
        weights: One weight for each of several teachers, by order or by name; equal by
            default. Only ratios matter.
        outputs: Names of the intermediate representations that losses compare.
        with_scores: Whether a loss compares scores.

    Raises:
        ValueError: If the collection of teachers is empty, or the weights do not fit
            it.
    """

    def __init__(
        self,
        teacher: Teacher | Sequence[Teacher] | Mapping[str, Teacher] | None,
        weights: TeacherWeights = None,
        outputs: Sequence[str] = (),
        with_scores: bool = True,
    ) -> None:
        self.several = isinstance(teacher, Mapping | Sequence)
        teacher = [] if teacher is None else teacher
        if not isinstance(teacher, Mapping):
            listed = teacher if isinstance(teacher, Sequence) else [teacher]
            teacher = {str(k): each for k, each in enumerate(listed)}
        self.teachers: dict[str, Teacher] = dict(teacher)
        self.weights, self.outputs, self.with_scores = weights, outputs, with_scores
        if self.several and not self.teachers:
            raise ValueError("`teacher` must not be empty. Received: no teacher")
        if weights is not None:
            check_weights(weights)
            if self.several:
                weights_by_name(weights, list(self.teachers))
            elif self.teachers:
                raise ValueError(
                    "`teacher_weights` must be None if there is one teacher. "
                    f"Received: teacher_weights={weights}"
                )

    def visible(self, x: Batch) -> Batch:
        """The part of a batch that models may read: all but stored teacher outputs.

        Args:
            x: The inputs of a batch.

        Returns:
            The same for stored and for live teachers.
        """
        stored = {"teacher_scores", *self.outputs}
        return {name: value for name, value in x.items() if name not in stored}

    def outputs_for(self, x: Batch) -> TeacherOutputs:
        """The teacher's outputs for a batch, without gradient.

        Args:
            x: The inputs of a batch.

        Raises:
            ValueError: If an output is neither stored nor produced by a teacher.
        """
        outputs, missing = self._stored(x)
        scores: Any = x.get("teacher_scores") if self.with_scores else None
        if missing or (self.with_scores and scores is None):
            live = self._run(x, missing)
            scores = live.scores if scores is None else scores
            outputs |= live.outputs
        if not self.with_scores:
            scores = None
        elif isinstance(scores, Mapping) or len(scores.shape) == 3:
            scores = ensemble_scores(
                scores,
                tf.cast(mask_of(x), tf.bool),
                self.weights,
                item_weight=x.get("item_weight"),
            )
        return TeacherOutputs(
            None if scores is None else ops.stop_gradient(scores),
            {name: ops.stop_gradient(each) for name, each in outputs.items()},
        )

    def _stored(self, x: Batch) -> tuple[dict[str, Tensor], list[str]]:
        """The stored intermediate representations, and the names of the others."""
        stored = {name: x[name] for name in self.outputs if x.get(name) is not None}
        return stored, [name for name in self.outputs if name not in stored]

    def widths(self, x: Batch) -> dict[str, int]:
        """Widths of the intermediate representations, without running a teacher.

        Args:
            x: The inputs of a batch.

        Returns:
            The size of the last axis of each one that is stored or that a teacher
            produces.
        """
        outputs, missing = self._stored(x)
        if missing and self.teachers:
            # This separate graph is traced for its shapes and never run.
            trace = tf.function(lambda: self._run(x, missing).outputs, autograph=False)
            outputs |= trace.get_concrete_function().structured_outputs
        return {name: value.shape[-1] for name, value in outputs.items()}

    def _run(self, x: Batch, names: list[str]) -> TeacherOutputs:
        """One forward pass of each teacher."""
        if not self.teachers:
            needs = ["teacher_scores"] * self.with_scores + list(self.outputs)
            needed = " and ".join(f"`{name}`" for name in needs)
            raise ValueError(
                f"`teacher` must be given, or each batch must hold {needed}: pass a "
                "teacher to `Distiller`, or store its scores (and embeddings) in the "
                f"batches. Received: teacher=None, a batch with keys={sorted(x)}"
            )
        scores: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}
        for key, teacher in self.teachers.items():
            with layer_outputs.watching(teacher, names) as seen:
                called = scores_of if self.with_scores else _answer_of
                scores[key] = called(teacher, self.visible(x), training=False)
            outputs |= {name: seen[name] for name in seen if name not in outputs}
        for name in names:
            if name not in outputs:
                raise ValueError(
                    "`teacher_output` must be a key of the batch, a name that the "
                    "teacher exposes, or one of its layers. Received: "
                    f"teacher_output={name!r}, a batch with keys={sorted(x)}, "
                    f"teachers {list(self.teachers.values())}"
                )
        return TeacherOutputs(scores if self.several else scores["0"], outputs)


def _answer_of(teacher: Teacher, x: Batch, training: bool) -> Any:
    return teacher(declared_inputs(teacher, x), training=training)


def scores_of(teacher: Teacher, x: Batch, training: bool) -> Tensor:
    """Scores of one teacher, which receives the inputs that it declares.

    Args:
        teacher: A Keras model or a function.
        x: The inputs of a batch.
        training: Whether layers such as dropout are in training mode.

    Returns:
        `(batch, list_size)`.

    Raises:
        ValueError: If the teacher returns something else, or a Functional model has an
            input that is not in the batch.
    """
    scores = _answer_of(teacher, x, training)
    received = None
    if isinstance(scores, Mapping):
        received = f"a dict with the keys {sorted(scores)}"
    elif isinstance(scores, list | tuple):
        received = f"{len(scores)} outputs"
    else:
        shape = tf.TensorShape(scores.shape)
        if shape.rank not in (None, 2):
            received = f"the shape {tuple(shape)}"
    if received is None:
        return scores
    raise ValueError(
        "`teacher` must return the scores of the candidates, (batch, list_size). Wrap "
        "a model that returns something else in a function, such as "
        "`lambda x, training: model(x, training=training)['scores']`. Received: "
        f"{received} from {teacher}"
    )
