"""The default search space of `tune`, derived from the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdistill import losses
from recdistill.distillation.score_doctor import Examination
from recdistill.distillation.score_transforms import Transform
from recdistill.pipeline.config.search_space import Choices, Range, SearchSpace
from recdistill.pipeline.run_context import RunContext
from recdistill.pipeline.variants.changed_settings import Settings

_TRANSFORMS: tuple[Transform, ...] = ("z_score", "log", "rank")
"""Transforms that fit any scores."""

_AROUND = 4.0
"""Factor around a proposed temperature or a configured learning rate."""


def default_space(run: RunContext) -> SearchSpace:
    """The settings that are searched if the configuration does not say.

    Temperatures are searched around those that the score doctor proposes for each
    transform, rates and sizes around the configured ones.

    Args:
        run: A run with the step `score`.
    """
    config = run.config
    space: dict[str, Choices | Range] = {}
    if _reads_soft_targets(run):
        found = Examination.model_validate(run.artefacts["score"].record["doctor"])
        transforms = dict.fromkeys((run.soft_targets.transform, *_TRANSFORMS))
        proposed = [found.temperature_for(each) for each in transforms]
        proposed.append(run.soft_targets.teacher_temperature)
        space["distill.scores"] = Choices(tuple(transforms))
        space["distill.teacher_temperature"] = _around(min(proposed), max(proposed))
    space["distill.weight"] = Range(0.3, 1.0)
    space["distill.final_weight"] = Range(0.1, 1.0)
    rates = config.student.learning_rates
    space["student.learning_rates"] = _around(min(rates), max(rates))
    if config.student.factory is None:
        space["student.dim"] = _sizes(config.student.dim)
        space["student.dropout"] = Range(0.0, 0.4)
    if config.lists.size == "retrieved":
        space["lists.retriever_top"] = _sizes(config.lists.retriever_top)
        space["lists.tail"] = _sizes(config.lists.tail)
    return space


def configured_settings(run: RunContext, space: SearchSpace) -> Sequence[Settings]:
    """The settings of the configuration as points of a search space.

    `auto` is replaced by what it stands for. There is one point for each learning rate,
    if learning rates are searched. A value outside the space is left out.
    """
    config = run.config
    resolved = {
        "distill.scores": run.soft_targets.transform,
        "distill.teacher_temperature": run.soft_targets.teacher_temperature,
    }
    points: list[dict[str, Any]] = [{}]
    for key, allowed in space.items():
        section, _, name = key.partition(".")
        value = resolved.get(key, getattr(getattr(config, section), name))
        values = value if isinstance(value, tuple) else (value,)
        if key != "student.learning_rates" and len(values) > 1:
            values = ()  # Several numbers together, such as pools, are not one each.
        if isinstance(allowed, Choices):
            wanted = values if key == "student.learning_rates" else (value,)
            inside = [c for c in allowed.values if any(_same(c, v) for v in wanted)]
        else:
            numbers = [each for each in values if each is not None]
            if allowed.is_whole:
                numbers = [each for each in numbers if float(each).is_integer()]
            inside = [each for each in numbers if allowed.low <= each <= allowed.high]
        if inside:
            points = [{**point, key: each} for point in points for each in inside]
    return points


def _same(choice: Any, value: Any) -> bool:
    if value is None:
        return bool(choice == "none")
    if isinstance(choice, list):
        choice = tuple(choice)
    elif isinstance(value, tuple):
        choice = (choice,)  # A single value of a key that may hold several.
    return bool(choice == value)


def _around(low: float, high: float) -> Range:
    return Range(float(f"{low / _AROUND:.2g}"), float(f"{high * _AROUND:.2g}"))


def _sizes(size: int) -> Choices:
    return Choices(tuple(sorted({max(2, size // 2), size, 2 * size})))


def _reads_soft_targets(run: RunContext) -> bool:
    """Whether a distillation loss depends on the scale of the teacher's scores."""
    loss = run.config.distill.loss
    names = [loss] if isinstance(loss, str) else [term.name for term in loss]
    return any(
        issubclass(getattr(losses, name), losses.TemperedListLoss) for name in names
    )
