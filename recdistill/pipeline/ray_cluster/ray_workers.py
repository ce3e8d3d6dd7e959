"""What runs in the workers of a Ray cluster: training, and parts of other steps."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from recdistill import errors
from recdistill.pipeline.ray_cluster.worker_group import WorkerGroup, listening_socket

if TYPE_CHECKING:
    from recdistill.pipeline.artefacts.artefact import Artefact
    from recdistill.pipeline.run_context import RunContext
    from recdistill.pipeline.training.training_checkpoints import States


class LostError(Exception):
    """A worker of a group that ended, or could not be started."""


@dataclass(frozen=True)
class SharedRun:
    """What a worker needs of a run.

    Attributes:
        config: The configuration.
        artefacts: The finished artefacts, which are verified.
        workdir: The local folder of the artefacts of all runs.
        tables: DataFrames of the data set.
        with_test: Whether the test part may be read.
        folder: Working directory, to which paths are relative.
    """

    config: Any
    artefacts: Mapping[str, Artefact]
    workdir: Path
    tables: Any
    with_test: bool
    folder: Path

    @classmethod
    def of(cls, run: RunContext) -> SharedRun:
        """The state of a run at present."""
        return cls(
            run.config,
            dict(run.artefacts),
            run.config.local_workdir,
            run.tables,
            run.with_test,
            Path.cwd(),
        )

    def open(self, reports: Mapping[str, Any]) -> RunContext:
        """The run in this process.

        Args:
            reports: Callbacks by name: "progress", "warning" and "observed".

        Raises:
            EngineError: If a folder of the run is missing on this machine.
        """
        from recdistill.data.dataset import no_progress
        from recdistill.pipeline.run_context import RunContext

        artefacts, shared = self._local_artefacts(), self.folder
        if not isinstance(self.config.workdir, Path) and not shared.is_dir():
            # Nothing is read relative to it but a teacher's files.
            shared = Path.cwd()
        for folder in (shared, *(each.path for each in artefacts.values())):
            if not (shared / folder).is_dir():
                raise errors.EngineError(
                    f"The folder {shared / folder} must exist on each node of the "
                    f"Ray cluster. It is missing on {socket.gethostname()}. Run the "
                    "command in a folder of a file system that all nodes share under "
                    "the same path, and keep `workdir` on it; or let `workdir` be the "
                    "URL of a folder in object storage."
                )
        os.chdir(shared)
        run = RunContext(
            self.config,
            reports.get("progress", no_progress),
            reports.get("warning", _ignore),
            self.tables,
            reports.get("observed"),
            self.with_test,
        )
        run.artefacts.update(artefacts)
        run.trust(artefacts)
        return run

    def _local_artefacts(self) -> dict[str, Artefact]:
        """The artefacts on this machine, copied from object storage if necessary."""
        from recdistill.pipeline.artefacts.artefact_storage import artefact_storage

        storage = artefact_storage(self.config)
        if storage is None:
            return dict(self.artefacts)
        found = {}
        for step, artefact in self.artefacts.items():
            name = artefact.path.relative_to(self.workdir)
            path = self.config.local_workdir / name
            storage.fetch(path)
            found[step] = replace(artefact, path=path)
        return found


def _begin(cores: int, seed: int) -> None:
    """Sets up TensorFlow as the local engine does, with some cores."""
    import tensorflow as tf

    from recdistill.pipeline.seeding import begin_like_a_new_process

    try:
        tf.config.threading.set_intra_op_parallelism_threads(cores)
        tf.config.threading.set_inter_op_parallelism_threads(cores)
    except RuntimeError:
        pass  # This process has worked for an earlier step.
    tf.config.experimental.enable_op_determinism()
    begin_like_a_new_process(seed)


class PartWorker:
    """A process that does parts of a step's work, one after another.

    Args:
        cores: Cores of this worker.
    """

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._work: Callable[[Any], Any] = _ignore

    def open(
        self, shared: SharedRun, open_work: Callable[[RunContext], Callable[[Any], Any]]
    ) -> None:
        """Loads what the parts need; see `Engine.map`."""
        _begin(self._cores, shared.config.seed)
        self._work = open_work(shared.open({}))

    def result(self, part: Any) -> Any:
        """The result of a part."""
        return self._work(part)


class TrainingWorker:
    """A process of a group that does the work of one step together.

    Args:
        cores: Cores of this worker.
    """

    def __init__(self, cores: int) -> None:
        import ray

        self._cores, host = cores, ray.util.get_node_ip_address()
        self._listening, self._host = listening_socket(host), host
        self._messages: SimpleQueue[tuple[Any, ...]] = SimpleQueue()

    def address(self) -> tuple[str, int]:
        """Host and port at which the others reach this worker."""
        return self._host, int(self._listening.getsockname()[1])

    def train(
        self,
        rank: int,
        shared: SharedRun,
        step: str,
        addresses: Sequence[tuple[str, int]],
        token: bytes,
        states: States,
    ) -> Iterator[tuple[Any, ...]]:
        """Does the work of a step.

        Args:
            rank: Number of this worker.
            shared: The run.
            step: Name of the step.
            addresses: Addresses of all workers, in the order of rank.
            token: The group's token.
            states: States of the training runs in the last checkpoint.

        Yields:
            A kind and its values: "progress", "warning", "observed", "state"; at the
            end "done" with the record and the files, "lost", or "failed" with the
            error. Only the first worker yields others than the last.
        """
        arguments = (rank, shared, step, addresses, token, states)
        Thread(target=self._train, args=arguments, daemon=True).start()
        while True:
            message = self._messages.get()
            over = message[0] in ("done", "lost", "failed")
            if over or rank == 0:
                yield message
            if over:
                return

    def _train(
        self,
        rank: int,
        shared: SharedRun,
        step: str,
        addresses: Sequence[tuple[str, int]],
        token: bytes,
        states: States,
    ) -> None:
        group = None
        try:
            group = WorkerGroup(rank, self._listening, addresses, token)
            self._say("done", *self._worked(group, shared, step, states))
        except ConnectionError:
            self._say("lost")
        except Exception as error:
            if group is not None and group.broken:
                self._say("lost")
            else:
                self._say("failed", _known_kind(error), str(error))
        finally:
            if group is not None:
                group.close()

    def _worked(
        self, group: WorkerGroup, shared: SharedRun, step: str, states: States
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The record of the step, and its files in the first worker."""
        from recdistill.lists.replicas import joined
        from recdistill.pipeline.artefacts.workspace import Draft
        from recdistill.pipeline.steps import STEPS
        from recdistill.pipeline.training.training_checkpoints import (
            NewState,
            TrainingCheckpoints,
            keeping,
        )

        kinds = ("progress", "warning", "observed")
        reports = {kind: self._reporter(kind) for kind in kinds}
        run = shared.open(reports)
        report = self._reporter("state")

        def keep(key: str, state: NewState) -> None:
            if group.rank == 0:
                report(key, state())

        _begin(self._cores, run.config.seed)
        with (
            tempfile.TemporaryDirectory() as folder,
            joined(group),
            keeping(TrainingCheckpoints(states, keep)),
        ):
            draft = Draft(Path(folder) / step, "")
            draft.path.mkdir()
            record = STEPS[step].work(run, draft)
            files = {}
            if group.rank == 0:
                found = (path for path in draft.path.rglob("*") if path.is_file())
                files = {
                    path.relative_to(draft.path).as_posix(): path.read_bytes()
                    for path in found
                }
        return record, files

    def _reporter(self, kind: str) -> Callable[..., None]:
        return lambda *values: self._say(kind, *values)

    def _say(self, *message: Any) -> None:
        self._messages.put(message)


def _ignore(*values: Any) -> None:
    """Ignores a report."""


def _known_kind(error: Exception) -> str:
    """Name of the first class of an error that every process knows."""
    names = (kind.__name__ for kind in type(error).__mro__ if kind in _known_errors())
    return next(names, RuntimeError.__name__)


def error_of(kind: str, message: str) -> Exception:
    """The error of a worker: its name from `_known_kind`, and its message."""
    kinds = {known.__name__: known for known in _known_errors()}
    return kinds.get(kind, RuntimeError)(message)


def _known_errors() -> list[type[Exception]]:
    """The library's errors, and the errors of the file system."""
    own = [each for each in vars(errors).values() if isinstance(each, type)]
    return [each for each in own if issubclass(each, Exception)] + [OSError]
