"""The whole configuration of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from recdistill.export.layout import LENGTH, RESERVED
from recdistill.features.settings import LARGEST_SEED
from recdistill.features.specs import CandidateSpec, HistorySpec, IdSpec, QuerySpec
from recdistill.pipeline.config.dataset_section import DatasetConfig, Url
from recdistill.pipeline.config.distill_section import DistillConfig
from recdistill.pipeline.config.engine_section import EngineConfig
from recdistill.pipeline.config.evaluate_section import EvaluateConfig
from recdistill.pipeline.config.export_section import ExportConfig
from recdistill.pipeline.config.guard_section import GuardConfig
from recdistill.pipeline.config.lists_section import ListsConfig
from recdistill.pipeline.config.section import Section
from recdistill.pipeline.config.split_section import SplitConfig
from recdistill.pipeline.config.student_section import StudentConfig
from recdistill.pipeline.config.sweep_section import SweepConfig
from recdistill.pipeline.config.teacher_section import (
    TEACHER,
    SequenceTeacherConfig,
    TeacherConfig,
    check_inputs,
    has_partial_scores,
    is_linear,
    members_of,
)
from recdistill.pipeline.config.tracking_section import TrackingConfig
from recdistill.pipeline.config.tune_section import TuneConfig

ARGUMENTS = ("self", "training", "mask")
"""Names that Keras and TensorFlow use for their own arguments."""


def _name_of_an_input(name: str) -> str:
    """Checks the name of a feature, which becomes an input of the exported model."""
    plain = name.isascii() and name.isidentifier() and not name.startswith("_")
    if not plain or name in ARGUMENTS:
        raise ValueError(
            "a feature's name must begin with a letter, have only the letters a to z, "
            f"digits and '_', and not be {' or '.join(map(repr, ARGUMENTS))}, because "
            "it becomes an input of the exported model. Give it another name, and name "
            f"its column with `column`. Received: {name!r}"
        )
    return name


FeatureName = Annotated[str, AfterValidator(_name_of_an_input)]
"""Name of a feature and of an input of the exported model."""


class Config(Section):
    """Configuration of one pipeline."""

    name: str = Field(
        pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$",
        description="Name of the run's folder and of the exported model.",
    )
    LARGEST: ClassVar[Mapping[str, int]] = {"seed": LARGEST_SEED}

    seed: int = Field(default=1, ge=0, description="Seed of all random numbers.")
    workdir: Url | Path = Field(
        default=Path("runs"),
        description="Folder of the artefacts of all runs, relative to the current "
        "directory; or an fsspec URL, such as `s3://bucket/runs`, to which finished "
        "artefacts are copied. The work is then done in the cache.",
    )
    dataset: DatasetConfig = Field(description="Source of the interactions.")
    query: dict[FeatureName, QuerySpec] = Field(
        min_length=1, description="Query features by name."
    )
    candidate: dict[FeatureName, CandidateSpec] = Field(
        min_length=1, description="Candidate features by name."
    )
    split: SplitConfig = Field(
        default=SplitConfig(), description="Training, validation and test parts."
    )
    lists: ListsConfig = Field(
        default=ListsConfig(), description="Contents of the training lists."
    )
    teacher: TeacherConfig = Field(description="The teacher.")
    student: StudentConfig = Field(
        default=StudentConfig(), description="The student and its training."
    )
    distill: DistillConfig = Field(
        default=DistillConfig(),
        description="Losses and soft targets of the distillation, and the gate.",
    )
    evaluate: EvaluateConfig = Field(
        default=EvaluateConfig(),
        description="Metrics, intervals and latency measurements.",
    )
    guard: GuardConfig = Field(
        default=GuardConfig(),
        description="The check of each slice of the test lists against the baseline.",
    )
    export: ExportConfig = Field(
        default=ExportConfig(), description="The exported SavedModel."
    )
    tracking: TrackingConfig = Field(
        default=TrackingConfig(), description="Tracking of the run in MLflow."
    )
    engine: EngineConfig = Field(
        default=EngineConfig(),
        description="Where the steps run: in this process, or on a Ray cluster "
        "(`docs/scale.md`, which says what of the results can differ).",
    )
    sweep: SweepConfig = Field(
        default=SweepConfig(), description="The students of `recdistill sweep`."
    )
    tune: TuneConfig = Field(
        default=TuneConfig(), description="The search of `recdistill tune`."
    )

    @property
    def local_workdir(self) -> Path:
        """The folder in which the work is done: `workdir`, or one in the cache."""
        if isinstance(self.workdir, Path):
            return self.workdir
        from recdistill.data.remote_folder import folder_of_url

        return folder_of_url(self.workdir)

    @model_validator(mode="after")
    def _feature_names_are_unique(self) -> Self:
        histories = self._histories()
        if len(histories) > 1:
            raise ValueError(
                "`query` can have at most one feature of kind 'history'. "
                f"Received: {histories}"
            )
        taken = {*RESERVED, *(f"{history}{LENGTH}" for history in histories)}
        clash = taken & {*self.query, *self.candidate}
        for specs in (self.query, self.candidate):
            lists = [name for name, spec in specs.items() if spec.kind == "categories"]
            # It would be read as the number of entries of the list.
            clash |= {f"{name}{LENGTH}" for name in lists} & set(specs)
        if clash:
            raise ValueError(
                "a feature must not have the name of another input of the exported "
                f"model. Received: {sorted(clash)}"
            )
        shared = set(self.query) & set(self.candidate)
        if shared:
            raise ValueError(
                "a feature name must be used once, in `query` or in `candidate`. "
                f"Received in both: {sorted(shared)}"
            )
        return self

    @model_validator(mode="after")
    def _artefacts_and_exports_have_their_own_folders(self) -> Self:
        if self.local_workdir.resolve() == self.export.path.resolve():
            raise ValueError(
                "`export.path` must be another folder than `workdir`. "
                f"Received: {self.workdir} for both"
            )
        return self

    @model_validator(mode="after")
    def _can_be_converted_for_devices(self) -> Self:
        if self.export.on_device and self.student.encoder == "gru":
            raise ValueError(
                "`export.on_device` needs a `student.encoder` that LiteRT can run: "
                "none or 'attention'. Received: encoder='gru'"
            )
        return self

    @model_validator(mode="after")
    def _has_the_features_it_needs(self) -> Self:
        if not any(isinstance(s, IdSpec) for s in self.candidate.values()):
            raise ValueError(
                "`candidate` must have the item id as a feature of kind 'id'. "
                f"Received: {sorted(self.candidate)}"
            )
        members = members_of(self.teacher)
        for needs_it, what in (
            (any(map(is_linear, members)), "a linear teacher"),
            (
                any(isinstance(m, SequenceTeacherConfig) for m in members),
                "a sequence teacher",
            ),
            (self._has_affinity(), "an affinity"),
            (self.student.encoder is not None, "`student.encoder`"),
        ):
            if needs_it and not self._histories():
                raise ValueError(
                    f"`query` must have a feature of kind 'history' for {what}. "
                    f"Received: {sorted(self.query)}"
                )
        if self.evaluate.sampled_candidates and has_partial_scores(self.teacher):
            raise ValueError(
                "`evaluate.sampled_candidates` must be left out for a teacher with "
                "partial scores, because the scored items are the candidates. "
                f"Received: {self.evaluate.sampled_candidates}"
            )
        if self.lists.size == "retrieved" and has_partial_scores(self.teacher):
            raise ValueError(
                "`lists.size` must be left out for a teacher with partial scores, "
                "because the scored items are the candidates. Received: 'retrieved'"
            )
        check_inputs(
            self.teacher,
            {name: spec.kind for name, spec in self.query.items()},
            {name: spec.kind for name, spec in self.candidate.items()},
        )
        return self

    @model_validator(mode="after")
    def _student_has_features(self) -> Self:
        for side in ("query", "candidate"):
            specs: Mapping[str, Any] = getattr(self, side)
            if all(spec.teacher_only for spec in specs.values()):
                raise ValueError(
                    f"`{side}` must have a feature that the student reads. Received: "
                    f"`teacher_only` for all of {sorted(specs)}"
                )
        ids = [s for s in self.candidate.values() if isinstance(s, IdSpec)]
        if self.student.shared_items and all(spec.teacher_only for spec in ids):
            raise ValueError(
                "`student.shared_items` must be false if the item id is "
                "`teacher_only`. Received: true"
            )
        return self

    @model_validator(mode="after")
    def _assistant_has_a_width(self) -> Self:
        if self.distill.assistant is not None and self.student.factory is not None:
            raise ValueError(
                "`distill.assistant` must be left out with `student.factory`, because "
                "an assistant is the built-in student of another width. Received: "
                f"dim={self.distill.assistant.dim}"
            )
        return self

    @property
    def uses_assistant(self) -> bool:
        """Whether the student is narrower than a configured assistant."""
        assistant = self.distill.assistant
        return assistant is not None and assistant.dim > self.student.dim

    def for_catalogue(self, items: int) -> Config:
        """The configuration with `lists.size` decided by the number of items."""
        partial = has_partial_scores(self.teacher)
        lists = self.lists.for_catalogue(0 if partial else items)
        return self.model_copy(update={"lists": lists})

    def for_probabilities(self) -> Config:
        """The configuration for a teacher whose scores are probabilities."""
        lists = self.lists.for_probabilities()
        return self.model_copy(update={"lists": lists})

    def for_teacher(self, chosen: Mapping[str, Any]) -> Config:
        """The configuration with the section `teacher` that a search has found."""
        return self.model_copy(update={"teacher": TEACHER.validate_python(chosen)})

    def _has_affinity(self) -> bool:
        return any(spec.kind == "affinity" for spec in self.candidate.values())

    def _histories(self) -> list[str]:
        return [k for k, spec in self.query.items() if isinstance(spec, HistorySpec)]
