"""The `student` section: the towers, and how baseline and student are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from recdistill.pipeline.config.section import Section

IMPORT_PATH = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"


class TwoTowerConfig(Section):
    """Arguments of `recdistill.TwoTowerStudent`."""

    dim: int = Field(default=32, gt=1, description="Width of the two embeddings.")
    embedding_dim: int = Field(
        default=32, gt=0, description="Width of each feature's embedding."
    )
    hidden: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        default=(128,),
        description="Widths of the query tower's hidden layers; the candidate tower is "
        "linear.",
    )
    decays: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(0.7, 0.97),
        description="One weighted pool of the history per entry; its weights start at "
        "decay ** age.",
    )
    encoder: Literal["attention", "gru"] | None = Field(
        default=None,
        description="Sequence encoder of the history in the query tower, beside the "
        "pools: `attention` is one block of causal self-attention, `gru` a recurrent "
        "layer, both over the latest 50 items. It runs once a request. By default "
        "there are only the pools.",
    )
    shared_items: bool = Field(
        default=False,
        description="Whether history and candidates have one embedding of item ids.",
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the query tower's inputs dropped in training.",
    )
    popularity_bias: bool = Field(
        default=True, description="Whether each candidate has a bias."
    )
    l2: float = Field(
        default=0.0, ge=0, description="Penalty on the embeddings' mean square."
    )
    id_dropout: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share of candidates whose id is hidden from the student in a "
        "training step, so that a new item ranks by its other features. Without other "
        "features no id is hidden.",
    )


class StudentConfig(TwoTowerConfig):
    """The student and its training; the baseline is the same without distillation."""

    factory: str | None = Field(
        default=None,
        pattern=IMPORT_PATH,
        description="Function that builds your own towers, `package.module:function`. "
        "It is called with the schema and the catalogue and returns (query tower, "
        "candidate tower): two Keras layers or models that map dicts of looked-up "
        "features to embeddings `(rows, dim)`. The keys of the built-in towers, except "
        "`l2` and `id_dropout`, must then be left out. By default the built-in towers "
        "are used.",
    )
    steps: int = Field(
        default=5_000,
        gt=0,
        description="Training steps. The checkpoint that is best on validation is "
        "kept.",
    )
    batch_size: int = Field(default=256, gt=0, description="Lists per training step.")
    warm_start: Literal["baseline"] | Path | None = Field(
        default=None,
        description="Folder of an earlier run, such as `runs/shop-monday`. Student and "
        "baseline start with the weights of that run's student and baseline, and the "
        "vocabularies of that run are extended. Or `baseline`: the student starts with "
        "the weights of the baseline of this run. (A folder of that name is "
        "`./baseline`.)",
    )
    seeds: int = Field(
        default=1,
        gt=0,
        le=100,
        description="Number of seeds with which baseline and student are trained: "
        "`seed`, `seed` + 1, … The report has mean and standard deviation over these. "
        "The model that is best on validation is evaluated in detail and exported. "
        "Learning rates are compared with the first seed. The teacher is trained once.",
    )
    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(0.001, 0.003),
        min_length=1,
        description="Learning rates to try, for the student and for the baseline "
        "separately; the one that is best on validation is kept.",
    )

    @model_validator(mode="after")
    def _has_one_kind_of_towers(self) -> Self:
        own_towers = set(TwoTowerConfig.model_fields) - {"l2", "id_dropout"}
        given = sorted(self.model_fields_set & own_towers)
        if self.factory is not None and given:
            raise ValueError(
                f"`{given[0]}` is a setting of the built-in towers and must not be "
                f"given with `factory`. Received: factory={self.factory!r}"
            )
        return self
