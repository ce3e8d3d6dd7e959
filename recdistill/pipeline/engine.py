"""Engines: where the work of steps is done, in this process or on a cluster.

Training is one program that all workers run in step (`recdistill.lists.replicas`).
Scoring and evaluation are a function of independent parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import keras

from recdistill.pipeline.config.engine_section import EngineConfig
from recdistill.pipeline.training_checkpoints import kept_in

if TYPE_CHECKING:
    from recdistill.pipeline.run_context import RunContext
    from recdistill.pipeline.steps.step import Step
    from recdistill.pipeline.workspace import Draft


P = TypeVar("P")
R = TypeVar("R")


class Engine(Protocol):
    """Does the work of steps."""

    def train(self, step: Step, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Does the work of a step that trains, and returns its record."""

    def map(
        self,
        open_work: Callable[[RunContext], Callable[[P], R]],
        parts: Iterable[P],
        run: RunContext,
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

    def train(self, step: Step, run: RunContext, draft: Draft) -> dict[str, Any]:
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
        open_work: Callable[[RunContext], Callable[[P], R]],
        parts: Iterable[P],
        run: RunContext,
    ) -> Iterator[tuple[P, R]]:
        """Each part and its result, in the order of the parts."""
        work: Callable[[P], R] | None = None
        for part in parts:
            work = work or open_work(run)
            yield part, work(part)

    def close(self) -> None:
        """Does nothing."""


def open_engine(config: EngineConfig, warn: Callable[[str], None]) -> Engine:
    """The configured engine.

    Args:
        config: The `engine` section.
        warn: Callback for warnings.

    Raises:
        ConfigError: If Ray is not installed.
        EngineError: If the cluster cannot be reached.
    """
    if config.kind == "local":
        return LocalEngine()
    from recdistill.pipeline.ray_engine import RayEngine

    return RayEngine(config, warn)


def begin_like_a_new_process(seed: int) -> None:
    """Resets Keras's numbering of layer names, and all random generators.

    Names and numbers then do not depend on the steps that the process has run before,
    so that a step writes the same bytes in a run that was interrupted.
    """
    policy = keras.config.dtype_policy()
    keras.utils.clear_session(free_memory=False)
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(seed)
