r"""What a student is shown of its teacher: scores and inner outputs, stored or live.

What is stored in a batch wins. Where something is missing the teacher runs, once, with
`training=False`, and its layers are watched in that one pass. Several teachers become
one as in `recdistill.EnsembleTeacher`, by the weighted sum of their z-scores,

$$ t_i = \sum_m w_m \, \frac{t^{(m)}_i - \mathrm{mean}(t^{(m)})}
   {\mathrm{std}(t^{(m)})} $$

whether they run or are stored.
"""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple, TypeAlias

import tensorflow as tf
from keras import ops

from recdistill.distillation import layer_outputs
from recdistill.lists import masked_ops
from recdistill.lists.masked_ops import Tensor

__all__ = ["Batch", "Shown", "Targets", "Teacher", "TeacherWeights", "ensemble_scores"]

Batch: TypeAlias = dict[str, Any]
Teacher: TypeAlias = Callable[..., Tensor]
TeacherWeights: TypeAlias = Sequence[float] | Mapping[str, float] | None


class Shown(NamedTuple):
    """What the teacher says of a batch.

    Attributes:
        scores: `(batch, list_size)`; None where nobody asked.
        outputs: Its inner outputs by name, as they come.
    """

    scores: Tensor | None
    outputs: dict[str, Tensor]


class Targets:
    """The teachers of a distiller, kept where Keras neither tracks nor saves them.

    Args:
        teacher: One teacher, a sequence of them or a mapping from names to them; None
            where all is stored.
        weights: One for each of several teachers, by order or by name; an equal part of
            1 for each if not given.
        outputs: Names of inner outputs that losses compare with.
        with_scores: Whether some loss reads scores.

    Raises:
        ValueError: If there is an empty collection of teachers, or weights do not suit
            them.
    """

    def __init__(
        self,
        teacher: Teacher | Sequence[Teacher] | Mapping[str, Teacher] | None,
        weights: TeacherWeights = None,
        outputs: Sequence[str] = (),
        with_scores: bool = True,
    ) -> None:
        self.teachers: dict[str, Teacher] = {}
        self.several = isinstance(teacher, Mapping | Sequence)
        if isinstance(teacher, Mapping):
            self.teachers = dict(teacher)
        elif isinstance(teacher, Sequence):
            self.teachers = {str(k): each for k, each in enumerate(teacher)}
        elif teacher is not None:
            self.teachers = {"0": teacher}
        self.weights, self.outputs, self.with_scores = weights, outputs, with_scores
        if self.several and not self.teachers:
            raise ValueError("`teacher` must not be empty. Received: no teacher")
        if weights is not None:
            _check_weights(weights)
            if self.several:
                _weights_by_name(weights, list(self.teachers))
            elif teacher is not None:
                raise ValueError(
                    "`teacher_weights` must be None where there is one teacher. "
                    f"Received: teacher_weights={weights}"
                )

    def hidden(self, x: Batch) -> Batch:
        """A batch without what is stored of the teacher: what models may see.

        Args:
            x: The inputs of a batch.

        Returns:
            The same for all, whether the teacher is stored or runs.
        """
        stored = {"teacher_scores", *self.outputs}
        return {name: value for name, value in x.items() if name not in stored}

    def of(self, x: Batch) -> Shown:
        """What the student is compared with.

        Args:
            x: The inputs of a batch.

        Returns:
            Scores and inner outputs, without gradient.

        Raises:
            ValueError: If something is neither stored nor to be had from a teacher.
        """
        stored = {name: x[name] for name in self.outputs if x.get(name) is not None}
        missing = [name for name in self.outputs if name not in stored]
        scores = x.get("teacher_scores") if self.with_scores else None
        if missing or (self.with_scores and scores is None):
            live = self._run(x, missing)
            scores = live.scores if scores is None else scores
            stored |= live.outputs
        if self.with_scores:
            scores = ops.stop_gradient(self._joined(scores, x))
        else:
            scores = None
        return Shown(scores, {k: ops.stop_gradient(v) for k, v in stored.items()})

    def widths(self, x: Batch) -> dict[str, int]:
        """Widths of the inner outputs, as far as they can be known; no teacher runs.

        Args:
            x: The inputs of a batch.

        Returns:
            The last axis of each inner output that is stored or to be had.
        """
        outputs = {name: x[name] for name in self.outputs if x.get(name) is not None}
        missing = [name for name in self.outputs if name not in outputs]
        if missing and self.teachers:
            # A graph of its own that is never run: it only knows shapes.
            trace = tf.function(lambda: self._run(x, missing).outputs)
            outputs |= trace.get_concrete_function().structured_outputs
        return {name: value.shape[-1] for name, value in outputs.items()}

    def _run(self, x: Batch, names: list[str]) -> Shown:
        """One pass of each teacher."""
        if not self.teachers:
            raise ValueError(
                "`teacher` must be given, or each batch must hold "
                f"{self._needs()}: pass a teacher to `Distiller`, or store its "
                "scores (and embeddings) in the batches. "
                f"Received: teacher=None, a batch with keys={sorted(x)}"
            )
        scores: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}
        for key, teacher in self.teachers.items():
            with layer_outputs.watching(teacher, names) as seen:
                scores[key] = teacher(self.hidden(x), training=False)
            outputs |= {name: seen[name] for name in seen if name not in outputs}
        for name in names:
            if name not in outputs:
                raise ValueError(
                    "`teacher_output` must be a key of the batch, a name that the "
                    "teacher exposes, or one of its layers. Received: "
                    f"teacher_output={name!r}, a batch with keys={sorted(x)}, "
                    f"teachers {list(self.teachers.values())}"
                )
        return Shown(scores if self.several else scores["0"], outputs)

    def _needs(self) -> str:
        names = ["teacher_scores"] if self.with_scores else []
        return " and ".join(f"`{name}`" for name in [*names, *self.outputs])

    def _joined(self, scores: Any, x: Batch) -> Tensor:
        """The scores of several teachers as one."""
        if isinstance(scores, Mapping) or len(scores.shape) == 3:
            return ensemble_scores(scores, x["mask"], self.weights)
        return scores


def ensemble_scores(
    scores: Mapping[str, Tensor] | Tensor, mask: Tensor, weights: TeacherWeights = None
) -> Tensor:
    """The scores of several teachers as one: the weighted sum of their z-scores.

    Args:
        scores: By name, each `(batch, list_size)`; or `(batch, teachers, list_size)`.
        mask: `(batch, list_size)`, bool.
        weights: One for each, by name or by order; an equal part of 1 if not given.

    Returns:
        `(batch, list_size)`; 0 under padding.

    Raises:
        ValueError: If there is not one weight for each.

    Example:
        Two teachers on scales of their own, which disagree about the last two.

        >>> scores = np.array([[[9.0, 1.0, 5.0], [0.9, 0.5, 0.1]]], "float32")
        >>> ensemble_scores(scores, np.ones((1, 3), bool)).numpy().round(2)
        array([[ 1.22, -0.61, -0.61]], dtype=float32)
    """
    if not isinstance(scores, Mapping):
        scores = {str(k): scores[:, k] for k in range(scores.shape[1])}
    by_name = _weights_by_name(weights, list(scores))
    parts = []
    for weight, each in zip(by_name.values(), scores.values(), strict=True):
        mask, each = masked_ops.as_lists(mask, teacher_scores=each)
        parts.append(weight * masked_ops.standardize(each, mask))
    return sum(parts[1:], parts[0])


def _weights_by_name(weights: TeacherWeights, names: list[str]) -> dict[str, float]:
    """The weight of each teacher, in the order of their names."""
    if weights is None:
        return dict.fromkeys(names, 1.0 / len(names))
    if isinstance(weights, Mapping):
        if set(weights) == set(names):
            return {name: weights[name] for name in names}
    elif len(weights) == len(names):
        return dict(zip(names, weights, strict=True))
    raise ValueError(
        "`teacher_weights` must have one weight for each teacher. "
        f"Received: teacher_weights={weights} for the teachers {names}"
    )


def _check_weights(weights: Sequence[float] | Mapping[str, float]) -> None:
    values = list(weights.values() if isinstance(weights, Mapping) else weights)
    if not all(0.0 <= weight and isfinite(weight) for weight in values) or not any(
        values
    ):
        raise ValueError(
            "`teacher_weights` must be finite numbers, at least 0 and not all 0. "
            f"Received: teacher_weights={weights}"
        )
