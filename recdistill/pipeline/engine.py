"""Engines: where the parts of a step run, in this process or on a cluster.

A step's work on one part of its data is a function of the run and that part, and any
engine calls it; results come in the order of the parts. Training is one program that
all workers run in step (`recdistill.lists.replicas`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import keras

from recdistill.pipeline.config.engine_section import EngineConfig

if TYPE_CHECKING:
    from recdistill.pipeline.run_context import RunContext
    from recdistill.pipeline.steps.step import Step
    from recdistill.pipeline.workspace import Draft

Part = TypeVar("Part")
Result = TypeVar("Result")


class Engine(Protocol):
    """Runs the parts of a step."""

    def map(
        self,
        run: RunContext,
        open_worker: Callable[[RunContext], Callable[[Part], Result]],
        parts: Sequence[Part],
    ) -> Iterator[Result]:
        """The results of all parts, in their order.

        Args:
            run: The run.
            open_worker: Function of the run that returns the function of a part, with
                all that it loads once. It must be importable, or a `partial` of such a
                function.
            parts: The parts. The work on a part must not have side effects, because a
                part whose worker is lost is done again.
        """

    def train(self, step: Step, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Does the work of a step that trains, and returns its record."""

    def close(self) -> None:
        """Gives back what the engine uses."""


class LocalEngine:
    """Runs everything in this process."""

    def map(
        self,
        run: RunContext,
        open_worker: Callable[[RunContext], Callable[[Part], Result]],
        parts: Sequence[Part],
    ) -> Iterator[Result]:
        """The results of all parts, in their order."""
        if parts:
            yield from map(open_worker(run), parts)

    def train(self, step: Step, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Does the work of a step that trains, and returns its record."""
        return step.work(run, draft)

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
