"""Engines: where the work of steps is done, in this process or on a cluster.

Training is one program that all workers run in step (`recdistill.lists.replicas`).
Scoring and evaluation are a function of independent parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from recdistill.pipeline.artefacts.workspace import Draft
from recdistill.pipeline.training.training_checkpoints import kept_in

P = TypeVar("P")
R = TypeVar("R")
Run = TypeVar("Run")
Work = TypeVar("Work", contravariant=True)


class TrainingStep(Protocol[Work]):
    """A step that trains."""

    @property
    def name(self) -> str:
        """Name of the step."""

    def work(self, run: Work, draft: Draft) -> dict[str, Any]:
        """Writes the artefact into the draft's folder, and returns its record."""


class Engine(Protocol[Run]):
    """Does the work of the steps of a run."""

    def train(self, step: TrainingStep[Run], run: Run, draft: Draft) -> dict[str, Any]:
        """Does the work of a step that trains, and returns its record."""

    def map(
        self,
        open_work: Callable[[Run], Callable[[P], R]],
        parts: Iterable[P],
        run: Run,
    ) -> Iterator[tuple[P, R]]:
        """Each part and its result, in the order of the parts.

        Args:
            open_work: Loads what the parts need, and returns the function of a part. It
                is called once in each process that works, so it must be a function of a
                module, or a `functools.partial` of one. The results must not depend on
                the process.
            parts: The parts, which are read as they are needed.
            run: The run.
        """

    def close(self) -> None:
        """Gives back what the engine uses."""


class LocalEngine:
    """Runs everything in this process."""

    def train(self, step: TrainingStep[Run], run: Run, draft: Draft) -> dict[str, Any]:
        """Does the work of a step that trains, and returns its record.

        If this process is killed, the next one goes on after a validation.
        """
        name = draft.final.name
        with kept_in(draft.final.with_name(f".training-{name}")) as earlier:
            # The step's own files can be older than the state of its training.
            draft.earlier = max(draft.earlier, earlier)
            return step.work(run, draft)

    def map(
        self,
        open_work: Callable[[Run], Callable[[P], R]],
        parts: Iterable[P],
        run: Run,
    ) -> Iterator[tuple[P, R]]:
        """Each part and its result, in the order of the parts."""
        work: Callable[[P], R] | None = None
        for part in parts:
            work = work or open_work(run)
            yield part, work(part)

    def close(self) -> None:
        """Does nothing."""
