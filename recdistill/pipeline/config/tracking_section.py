"""The `tracking` section: MLflow."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from recdistill.pipeline.config.section import Section


class TrackingConfig(Section):
    """Tracking of the run in MLflow, in addition to the files in its folder."""

    mlflow: bool = Field(
        default=False,
        description="Whether the run is also logged to MLflow. It needs the extra "
        "`mlflow`.",
    )
    tracking_uri: str | None = Field(
        default=None,
        min_length=1,
        description="MLflow tracking server, such as `http://mlflow:5000`; by default "
        "the value of the environment variable MLFLOW_TRACKING_URI.",
    )
    experiment: str = Field(
        default="recdistill",
        min_length=1,
        description="Name of the MLflow experiment; created if it does not exist.",
    )

    @model_validator(mode="after")
    def _says_whether_to_track(self) -> Self:
        return self._needs("mlflow", "mlflow = true")
