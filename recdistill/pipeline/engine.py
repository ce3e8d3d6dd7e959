"""Engines: where models are trained, in this process or on a cluster.

Training is one program that all workers run in step (`recdistill.lists.replicas`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import keras

from recdistill.pipeline.config.engine_section import EngineConfig

if TYPE_CHECKING:
    from recdistill.pipeline.run_context import RunContext
    from recdistill.pipeline.steps.step import Step
    from recdistill.pipeline.workspace import Draft


class Engine(Protocol):
    """Does the work of steps that train."""

    def train(self, step: Step, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Does the work of a step that trains, and returns its record."""

    def close(self) -> None:
        """Gives back what the engine uses."""


class LocalEngine:
    """Runs everything in this process."""

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
