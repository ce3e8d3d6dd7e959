"""Search for the members of an automatic teacher, within a time budget.

Candidates are tried in the order of their cost. Of each kind, the one that is best on
validation becomes a member of an ensemble, whose weights are chosen as for any other
ensemble (`recdistill.pipeline.teacher_training.ensemble_weights`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from recdistill.atomic import read_sealed, write_sealed
from recdistill.errors import ConfigError, TrainingError
from recdistill.features.specs import AffinitySpec, HistorySpec
from recdistill.models.transitions import FOLDS
from recdistill.pipeline.config.teacher_section import (
    EnsembleTeacherConfig,
    LinearTeacherConfig,
    ReferenceTeacherConfig,
    SequenceTeacherConfig,
    TransitionTeacherConfig,
    given,
    is_trained,
    named,
)
from recdistill.pipeline.models.model_building import TeacherBuilder
from recdistill.pipeline.models.scorers import PopularityScorer, compiled
from recdistill.pipeline.teacher_training.ensemble_weights import number_of_weights
from recdistill.pipeline.teacher_training.member_training import TRIED, MemberTraining
from recdistill.pipeline.training.training import TIMED_LISTS

if TYPE_CHECKING:
    from recdistill.pipeline.config import Config
    from recdistill.pipeline.config.section import Section
    from recdistill.pipeline.run_context import RunContext

PENALTIES = (100.0, 300.0, 1_000.0)
"""Ridge penalties of the linear item models."""

SEQUENCES: tuple[dict[str, Any], ...] = (
    {"steps": 500},
    {"steps": 1_500},
    {"steps": 1_500, "dim": 128},
)
"""Settings of the sequence rankers."""

LONGEST_ATTENTION = 100
"""Largest number of history items in the attention."""


def candidates(config: Config) -> Iterator[Any]:
    """The teachers that suit the features, in the order of their cost."""
    histories = [s for s in config.query.values() if isinstance(s, HistorySpec)]
    affinities = [s for s in config.candidate.values() if isinstance(s, AffinitySpec)]
    longest = min(LONGEST_ATTENTION, max((s.length for s in histories), default=1))
    if histories:
        yield from (LinearTeacherConfig(l2=penalty) for penalty in PENALTIES)
        yield TransitionTeacherConfig()
        first, *others = (
            SequenceTeacherConfig(attention_length=longest, **settings)
            for settings in SEQUENCES
        )
        yield first
    yield ReferenceTeacherConfig(attention_length=longest, affinities=bool(affinities))
    if histories:
        yield from others


@dataclass(frozen=True)
class TeacherSearch:
    """Tries candidates until the budget is used up.

    Attributes:
        run: The run.
        folder: Folder of the step. A stopped attempt goes on after the last candidate
            in it, with the rest of the budget.
        budget: Seconds.
    """

    run: RunContext
    folder: Path
    budget: float

    def members(self) -> tuple[EnsembleTeacherConfig, list[dict[str, Any]]]:
        """The best candidate of each kind, and what was tried.

        Returns:
            An ensemble whose weights are to be chosen; and of each candidate its
            `settings`, the metric on validation (`valid`), the `estimated_seconds` and
            the `seconds` that it took, and the `reason` why it was left out, or None.

        Raises:
            TrainingError: If no candidate could be trained or fitted.
        """
        tried = self._tried()
        for settings in list(candidates(self.run.config))[len(tried) :]:
            tried.append(self._try(settings, tried))
            write_sealed(self.folder / TRIED, {"tried": tried})
        best: dict[str, dict[str, Any]] = {}
        for each in tried:
            kind, valid = each["settings"]["kind"], each["valid"]
            if valid is not None and valid > best.get(kind, {"valid": -1.0})["valid"]:
                best[kind] = each
        if not best:
            reasons = (f"{named(each['settings'])}: {each['reason']}" for each in tried)
            raise TrainingError(
                "An automatic teacher needs a kind of teacher that suits the data. "
                f"Received: none. {'; '.join(reasons)}"
            )
        members = [each["settings"] for each in best.values()]
        found = EnsembleTeacherConfig.model_validate({"members": members})
        return found, tried

    def _tried(self) -> list[dict[str, Any]]:
        try:
            return list(read_sealed(self.folder / TRIED)["tried"])
        except (OSError, ValueError):
            return []

    def _try(self, settings: Section, tried: Sequence[Any]) -> dict[str, Any]:
        """Trains or fits a candidate if the rest of the budget is enough for it."""
        begin = perf_counter()
        self.run.progress(f"Trying {named(given(settings))}", 0, None)
        needed, valid, reason = 0.0, None, None
        try:
            left = self._left(tried)
            needed = self._needed(settings, tried, left)
            left -= perf_counter() - begin
            if needed > left:
                reason = (
                    f"needs {needed:.0f} s or more, {max(left, 0.0):.0f} s are left"
                )
            else:
                valid = self._valid(settings)
        except (ConfigError, TrainingError) as error:
            reason = str(error)
        return {
            "settings": given(settings),
            "valid": valid,
            "estimated_seconds": round(needed, 1),
            "seconds": round(perf_counter() - begin, 1),
            "reason": reason,
        }

    def _left(self, tried: Sequence[Any]) -> float:
        """Seconds of the budget that are left, without the choice of the weights."""
        if not tried:
            return float("inf")  # There must be a teacher.
        done = [each for each in tried if each["valid"] is not None]
        kinds = {each["settings"]["kind"] for each in done}
        weights = number_of_weights(len(kinds) + 1)
        spent = sum(each["seconds"] for each in tried)
        return float(self.budget - spent - weights * self._seconds_to_rank())

    def _seconds_to_rank(self) -> float:
        """Estimate of the seconds in which the validation lists are ranked once."""
        validation = self.run.teacher_validation
        sample = validation.first(TIMED_LISTS)
        begin = perf_counter()
        sample(PopularityScorer(self.run.prepared.popularity))
        return (perf_counter() - begin) * len(validation) / len(sample)

    def _needed(self, settings: Any, tried: Sequence[Any], left: float) -> float:
        """Estimate of the seconds that a candidate takes, by what was measured."""
        seconds = {
            kind: max(
                (
                    max(each["seconds"], each["estimated_seconds"])
                    for each in tried
                    if each["settings"]["kind"] == kind
                ),
                default=0.0,
            )
            for kind in ("linear", settings.kind)
        }
        if isinstance(settings, TransitionTeacherConfig):
            # It has a matrix for each fold, and one of all folds.
            return (FOLDS + 1) * seconds["linear"]
        earlier = seconds[settings.kind]
        if not is_trained(settings) or earlier > left:
            # Later candidates of a kind do not take less.
            return earlier
        model: Any = self._builder().member(settings)
        return self.run.teacher_trainer.teacher_seconds(model, settings)

    def _valid(self, settings: Section) -> float:
        """The metric of a candidate on validation."""
        training = MemberTraining(self.run, self._builder(), self.folder)
        model, result = training.member(settings)
        if result is not None:
            return float(result["best"])
        return self.run.teacher_validation(compiled(model))

    def _builder(self) -> TeacherBuilder:
        run = self.run
        return TeacherBuilder(run.config, run.prepared, run.external, fit=True)
