"""Runs the steps of a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from copy import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import tensorflow as tf

from recdistill.allocation import return_freed_memory, return_large_arrays
from recdistill.atomic import locked_folder, require_writable
from recdistill.data.dataset import Progress, no_progress
from recdistill.errors import ConfigError, DataError, StorageError
from recdistill.pipeline.artefacts.artefact import Artefact
from recdistill.pipeline.artefacts.artefact_storage import artefact_storage
from recdistill.pipeline.artefacts.workspace import Workspace, earlier_seconds
from recdistill.pipeline.config import Config
from recdistill.pipeline.engine import Engine, LocalEngine
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.pipeline.run_context import RunContext
from recdistill.pipeline.seeding import begin_like_a_new_process
from recdistill.pipeline.steps import STEPS
from recdistill.pipeline.steps.export import check_litert
from recdistill.pipeline.steps.step import Step
from recdistill.pipeline.tracking.run_tracking import NoTracking, RunTracking
from recdistill.pipeline.training.soft_targets import SoftTargets, distillation_losses

if TYPE_CHECKING:
    import pandas as pd


PREPARE = "prepare"
"""Name of the first step."""


class Pipeline:
    """The steps of one configuration in one workspace.

    Args:
        config: The configuration.
        progress: Callback for progress.
        announce: Callback for each finished step, with its name and artefact.
        warn: Callback for warnings that do not stop the run.
        tables: DataFrames of the data set, for the reader `frames`.
        with_test: Whether the test part may be read after the step `prepare`.

    Raises:
        ConfigError: If a distillation loss does not accept its options, `workdir`
            cannot be written, or MLflow is asked for and not available.
        StorageError: If `workdir` is a URL that cannot be used.
    """

    def __init__(
        self,
        config: Config,
        progress: Progress = no_progress,
        announce: Callable[[str, Artefact], None] = lambda step, artefact: None,
        warn: Callable[[str], None] = lambda message: None,
        tables: Mapping[str, pd.DataFrame] | None = None,
        with_test: bool = True,
    ) -> None:
        # Invalid options of a loss fail here, before any work.
        distillation_losses(config.distill)
        self.config = config
        root, storage = config.local_workdir / config.name, artefact_storage(config)
        try:
            self.workspace = Workspace(root, storage)
        except OSError as error:
            raise _not_writable("workdir", config.local_workdir, error) from error
        tracking = RunTracking(config, self.workspace.root, warn)
        self._tracking: RunTracking | NoTracking = tracking
        self.context = RunContext(
            config, progress, warn, tables, tracking.observe, with_test
        )
        self._announce, self._with_test = announce, with_test
        self._on_cluster = self._exports = False

    def of(self, config: Config) -> Pipeline:
        """A pipeline with another configuration and the same callbacks and tables."""
        context = self.context
        return Pipeline(
            config,
            context.progress,
            self._announce,
            context.warn,
            context.tables,
            self._with_test,
        )

    def variant(
        self,
        config: Config,
        folder: Path,
        kept: Iterable[str],
        progress: Progress,
        observe: Callable[[str, int, Mapping[str, float]], None] = lambda *_: None,
    ) -> Pipeline:
        """A pipeline with other settings that starts from finished steps of this one.

        It is neither tracked nor announced.

        Args:
            config: The configuration. It has the same data and the same teacher.
            folder: Folder of the artefacts that it makes.
            kept: Names of the steps whose artefacts are used.
            progress: Callback for progress.
            observe: Called with the points of the training curves.
        """
        distillation_losses(config.distill)
        other = copy(self)
        other.config = config
        other.workspace = Workspace(folder, self.workspace.storage)
        other.context = self.context.variant(config, kept, progress, observe)
        other._tracking = NoTracking()
        other._on_cluster = False
        other._announce = lambda step, artefact: None
        return other

    @property
    def prepared(self) -> Prepared:
        """The prepared data; runs `prepare` if necessary."""
        if "prepare" not in self.context.artefacts:
            self.run("prepare")
        return self.context.prepared

    @property
    def soft_targets(self) -> SoftTargets:
        """Transform and temperatures of the soft targets; runs `score` if necessary."""
        if "score" not in self.context.artefacts:
            self.run("score")
        return self.context.soft_targets

    def run(self, until: str = "export") -> Artefact:
        """Runs a step and the steps it depends on; finished steps are skipped.

        Args:
            until: Name of the step.

        Returns:
            The artefact of the step.

        Raises:
            ValueError: If there is no such step.
            ConfigError: If a step needs LiteRT, and it is not installed, or the folder
                of the exports cannot be written.
            DataError: If the data is invalid.
            ArtefactError: If a file of an artefact that is used is damaged.
            GateError: If the teacher is not good enough.
            GuardError: If the student falls below the baseline on a slice.
            BusyError: If another process runs a pipeline of this name.
            StorageError: If `workdir` is a URL that cannot be read or written.
        """
        if until not in STEPS:
            raise ValueError(
                f"`until` must be one of {', '.join(STEPS)}. Received: {until!r}"
            )
        if until == "export":
            check_litert(self.config)
        self._exports = until == "export"
        # Equal seeds must give equal weights for any order of threads.
        tf.config.experimental.enable_op_determinism()
        with locked_folder(self.workspace.root):
            try:
                artefact = self._finished(STEPS[until])
                if artefact.reused:
                    artefact.verify(self.context.unread)
            except Exception:
                self._tracking.end(succeeded=False)
                # There is a report if the guard stops a run before the export.
                with suppress(StorageError):
                    self.workspace.store_files()
                raise
            finally:
                self._close_engine()
            self._tracking.end(succeeded=True)
            self.workspace.store_files()
            return artefact

    def require_export_folder(self) -> None:
        """Checks the folder of the exports before the work whose result it takes.

        Raises:
            ConfigError: If it cannot be written.
        """
        folder = self.config.export.path
        try:
            require_writable(folder)
        except OSError as error:
            raise _not_writable("export.path", folder, error) from error

    def _opened_engine(self) -> Engine[RunContext]:
        """The configured engine, which is opened when a step first has work for it."""
        if self.config.engine.kind == "ray" and not self._on_cluster:
            from recdistill.pipeline.ray_cluster.ray_engine import RayEngine

            self.context.engine = RayEngine(self.config.engine, self.context.warn)
            self._on_cluster = True
        return self.context.engine

    def _close_engine(self) -> None:
        """Disconnects from the cluster, if it was used."""
        self.context.engine.close()
        self.context.engine, self._on_cluster = LocalEngine(), False

    def _finished(self, step: Step) -> Artefact:
        """The artefact of a step, after those that it needs."""
        artefacts = self.context.artefacts
        if step.name not in artefacts:
            if step.name != PREPARE:
                # What a step needs depends on the number of items.
                self._finished(STEPS[PREPARE])
            for name in step.needs(self.context.config):
                self._finished(STEPS[name])
            step.before(self.context)
            artefact = self._produced(step)
            self.context.add(step.name, artefact)
            if step.name == PREPARE:
                return_large_arrays(artefact.record["items"])
            step.after(self.context, artefact)
            self._tracking.record(step.name, artefact)
            self._announce(step.name, artefact)
            for warning in step.warnings(self.context):
                self.context.warn(warning)
        return artefacts[step.name]

    def _produced(self, step: Step) -> Artefact:
        """The artefact of a step, written if it does not exist."""
        inputs = step.inputs(self.context)
        needed = step.needs(self.context.config)
        keys = {name: self.context.artefacts[name].key for name in needed}
        inputs |= {f"{name}_key": key for name, key in keys.items()}
        with self.workspace.produce(
            step.name, inputs, step.is_intact, step.shared
        ) as draft:
            if draft.done is None:
                if self._exports:
                    self.require_export_folder()
                if step.resumes:
                    draft.earlier = earlier_seconds(draft.path)
                else:
                    draft.restart()
                self.context.verify_again()
                for name in step.reads(self.context.config):
                    self.context.intact(name)
                begin_like_a_new_process(self.config.seed)
                return_freed_memory()
                self._tracking.begin(draft.final.name)
                try:
                    engine = self._opened_engine()
                    trains = step.trains(self.config)
                    work = partial(engine.train, step) if trains else step.work
                    draft.record = {"needs": keys, **work(self.context, draft)}
                    if step.reads_teacher:
                        self.context.verify_sources()
                except Exception as error:
                    # After bad input, files of a step that resumes are not trusted.
                    if not step.resumes or isinstance(error, DataError):
                        draft.abandon()
                    raise
        return draft.artefact()


def _not_writable(key: str, folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"`{key}` must be a folder that can be written. Received: {folder} "
        f"({error.strerror})"
    )
