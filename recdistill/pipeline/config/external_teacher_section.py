"""The `teacher` section for models, functions, servers and tables of scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from recdistill.pipeline.config.section import Section
from recdistill.pipeline.config.student_section import IMPORT_PATH

_OUTPUT = "Name of the output with the scores, if the model has several outputs."
_TRAINED_ON = (
    "Table of the examples that the teacher was trained on, Parquet or CSV; the gate "
    "compares it with the held-out lists. Columns: `query_id` and `item_id`; or "
    "`list_id`, row numbers from 0 of the interactions that are used (in all files "
    "together, without those that `dataset.keep` leaves out)."
)
_MODULES = (
    "Modules to import before the file is loaded, which define its custom layers."
)

Modules = tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*$")], ...]


class ExternalTeacherConfig(Section):
    """Keys of all teachers that read raw features."""

    inputs: dict[str, str] | None = Field(
        default=None,
        description="Feature name for each input of the teacher. By default the names "
        "are the same; a teacher that does not declare its inputs gets all features. A "
        "history also has its length, `<name>_length`; layout `lists` also has `mask`.",
    )
    batch_size: int = Field(
        default=4096, gt=0, description="Maximum number of candidates per call."
    )
    output_column: int | None = Field(
        default=None,
        ge=0,
        description="Column with the scores, counted from 0, if the teacher gives "
        "several numbers for each candidate, such as class probabilities.",
    )
    trained_on: Path | None = Field(default=None, description=_TRAINED_ON)


class ModelTeacherConfig(ExternalTeacherConfig):
    """Keys of all teachers that read tensors."""

    layout: Literal["pairs", "lists"] = Field(
        default="pairs",
        description="`pairs`: one row per query and candidate, `(rows, …)` to "
        "`(rows,)` or `(rows, 1)`. `lists`: queries `(batch, …)` and candidates "
        "`(batch, list_size, …)` to `(batch, list_size)`.",
    )


class KerasTeacherConfig(ModelTeacherConfig):
    """A Keras 3 model in a `.keras` file, loaded in safe mode."""

    kind: Literal["keras"] = "keras"
    path: Path = Field(
        description="The `.keras` file, relative to the current directory."
    )
    output: str | None = Field(default=None, description=_OUTPUT)
    modules: Modules = Field(default=(), description=_MODULES)


class SavedModelTeacherConfig(ModelTeacherConfig):
    """A SavedModel, written by any library."""

    kind: Literal["saved_model"] = "saved_model"
    path: Path = Field(
        description="The SavedModel folder, relative to the current directory."
    )
    signature: str = Field(
        default="serving_default", description="Name of the signature."
    )
    output: str | None = Field(default=None, description=_OUTPUT)


class TfKerasTeacherConfig(ModelTeacherConfig):
    """A Keras 2 or TFRS model, loaded in a separate process."""

    kind: Literal["tf_keras"] = "tf_keras"
    path: Path | None = Field(
        default=None,
        description="A SavedModel folder, a `.keras` or an `.h5` file, relative to the "
        "current directory; or the argument of `factory`.",
    )
    factory: str | None = Field(
        default=None,
        pattern=IMPORT_PATH,
        description="Function that returns the model, `package.module:function`.",
    )
    signature: str = Field(
        default="serving_default",
        description="Name of the signature, for a SavedModel folder.",
    )
    output: str | None = Field(default=None, description=_OUTPUT)
    modules: Modules = Field(default=(), description=_MODULES)

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if self.path is None and self.factory is None:
            raise ValueError("`path` or `factory` must be given. Received: neither")
        return self


class LightGBMTeacherConfig(ExternalTeacherConfig):
    """A LightGBM booster."""

    kind: Literal["lightgbm"] = "lightgbm"
    path: Path = Field(
        description="Text file written by `Booster.save_model`, relative to the "
        "current directory."
    )
    categorical: tuple[str, ...] = Field(
        default=(),
        description="Features that were pandas categories in training.",
    )


class CallableTeacherConfig(ModelTeacherConfig):
    """A Python function from a dict of arrays to an array of scores."""

    kind: Literal["callable"] = "callable"
    function: str = Field(
        pattern=IMPORT_PATH,
        description="Import path of the function, `package.module:function`.",
    )


class RemoteTeacherConfig(ModelTeacherConfig):
    """A model behind a TensorFlow Serving endpoint."""

    LARGEST: ClassVar[Mapping[str, int]] = {"version": 2**63 - 1}

    kind: Literal["remote"] = "remote"
    address: str = Field(
        pattern=r"^(https?|grpc)://\S+$",
        description="`http://host:8501` (REST, also https) or `grpc://host:8500`.",
    )
    model: str = Field(min_length=1, description="Name of the model on the server.")
    version: int | None = Field(
        default=None,
        ge=0,
        description="Version of the model; the latest by default. Set it: the answers "
        "of a server are not hashed, so stored scores are not renewed when the server "
        "loads another version.",
    )
    signature: str = Field(
        default="serving_default", description="Name of the signature."
    )
    output: str | None = Field(default=None, description=_OUTPUT)
    deadline_s: float = Field(
        default=30.0,
        gt=0,
        description="Timeout of a request in seconds, retries included.",
    )
    retries: int = Field(
        default=5,
        ge=0,
        description="Number of retries while the server is unavailable.",
    )


class ScoresTeacherConfig(Section):
    """Partial scores: stored scores of some candidates of some lists."""

    kind: Literal["scores"] = "scores"
    path: Path | None = Field(
        default=None,
        description="Parquet or CSV table with one row per (query, item), or a folder "
        "of such tables, relative to the current directory. By default the score "
        "column of a listwise data set.",
    )
    trained_on: Path | None = Field(default=None, description=_TRAINED_ON)
    columns: dict[Literal["query", "item", "score"], str] = Field(
        default_factory=dict,
        description="Column names of the table by role; `user_id`, `item_id` and "
        "`score` by default.",
    )

    @model_validator(mode="after")
    def _columns_belong_to_a_table(self) -> Self:
        if self.columns and self.path is None:
            raise ValueError(
                "`columns` requires `path`; the columns of the data set are set in "
                f"`dataset.columns`. Received: columns={self.columns}, no path"
            )
        return self
