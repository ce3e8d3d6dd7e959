"""Base class of the pipeline's steps."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from recdistill.pipeline.artefacts.artefact import Artefact
    from recdistill.pipeline.artefacts.workspace import Draft
    from recdistill.pipeline.config import Config
    from recdistill.pipeline.run_context import RunContext


class Step(ABC):
    """A step of the pipeline, which writes one artefact.

    Steps have no state. Modules that import TensorFlow are imported inside the methods,
    so that names and summaries are available without it.

    Attributes:
        name: Name of the step and of its command.
        summary: One line for `--help`.
        shared: Whether runs with other names use the same artefact.
        resumes: Whether a step that was killed continues with the files it wrote;
            otherwise it starts again with an empty folder.
        reads_teacher: Whether it reads files that the user names for the teacher.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    shared: ClassVar[bool] = False
    resumes: ClassVar[bool] = False
    reads_teacher: ClassVar[bool] = False

    @abstractmethod
    def needs(self, config: Config) -> tuple[str, ...]:
        """Names of the steps that must be finished before this step."""

    def reads(self, config: Config) -> tuple[str, ...]:
        """Names of the steps whose files `work` reads; they are verified before it."""
        return self.needs(config)

    @abstractmethod
    def inputs(self, run: RunContext) -> dict[str, Any]:
        """Values that determine the artefact, in addition to the artefacts it needs.

        Returns:
            JSON-ready values. Their hash and the keys of the needed artefacts are the
            artefact's key.
        """

    @abstractmethod
    def work(self, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Writes the artefact into `draft.path`.

        Returns:
            The record of the step, JSON-ready.
        """

    @abstractmethod
    def gist(self, record: Mapping[str, Any]) -> str:
        """The most important facts of a record, in a few words for the terminal."""

    def details(self, record: Mapping[str, Any]) -> Iterator[str]:
        """More facts of a record, one line each for the terminal."""
        yield from ()

    def trains(self, config: Config) -> bool:
        """Whether `work` is mostly training, which an engine can spread over workers.

        Every worker then calls `work`, and each trains on its part of the batches.
        """
        return False

    def before(self, run: RunContext) -> None:
        """Checks that must pass each time, even if the artefact exists.

        Raises:
            GateError, GuardError: If the run must stop here.
        """
        return

    def after(self, run: RunContext, artefact: Artefact) -> None:
        """Publishes results outside the artefact, even if the artefact existed."""
        return

    def warnings(self, run: RunContext) -> Iterator[str]:
        """Warnings about the finished artefact.

        Raises:
            GuardError: If the run must stop after this step.
        """
        yield from ()

    def is_intact(self, artefact: Artefact) -> bool:
        """Whether an existing artefact can still be used."""
        return True


class StudentStep(Step):
    """A step that trains a student."""

    def trains(self, config: Config) -> bool:
        """The student is trained."""
        return True

    def gist(self, record: Mapping[str, Any]) -> str:
        """The first metric on validation."""
        return f"validation {record['valid']:.4f}"


def compared(config: Config) -> tuple[str, str]:
    """The steps of baseline and teacher, which the gate compares.

    An external teacher is opened first: that it does not fit the data is then known
    before the baseline is trained.
    """
    from recdistill.pipeline.config.teacher_section import is_own, members_of

    if all(map(is_own, members_of(config.teacher))):
        return ("baseline", "teacher")
    return ("teacher", "baseline")


def sections(config: Config, *names: str) -> dict[str, Any]:
    """Sections of the configuration as JSON-ready values.

    Args:
        config: The configuration.
        names: Keys of the configuration.
    """
    dumped = json.loads(config.model_dump_json(include=set(names)))
    return {name: dumped[name] for name in names}
