"""The `engine` section: this process, or the workers of a Ray cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from recdistill.pipeline.config.section import Section


class EngineConfig(Section):
    """Where the steps run. The other keys are those of the kind `ray`."""

    LARGEST: ClassVar[Mapping[str, int]] = {"workers": 10_000, "cpus": 1_024}

    kind: Literal["local", "ray"] = Field(
        default="local",
        description="`local` runs the steps in this process. `ray` trains, scores "
        "and evaluates on the workers of a Ray cluster; it needs the extra `ray`.",
    )
    address: str | None = Field(
        default=None,
        min_length=1,
        description="Address of the Ray cluster, such as `10.0.0.5:6379`; by default "
        "the environment variable RAY_ADDRESS, or a cluster that runs on this machine. "
        "Without any of these, Ray is started on this machine for the run.",
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        description="Number of workers; by default one for each node of the cluster.",
    )
    cpus: int | None = Field(
        default=None,
        ge=1,
        description="Cores of a worker; by default the cores of a node are divided "
        "equally among its workers.",
    )
    gpus: float = Field(default=0.0, ge=0, description="GPUs of a worker.")
    memory_gib: float | None = Field(
        default=None,
        gt=0,
        description="Memory that Ray reserves for a worker, in GiB; by default none.",
    )

    @model_validator(mode="after")
    def _has_a_kind(self) -> Self:
        """With `kind` written, its other keys may stay for a run on one machine."""
        return self._needs("kind", 'kind = "ray"')
