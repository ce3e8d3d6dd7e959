"""The `lists` section: the candidates of a training list."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recdistill.pipeline.config.section import Section


class ListsConfig(Section):
    """Contents of the training lists."""

    seen: Literal["exclude", "include", "auto"] = Field(
        default="auto",
        description="Whether items that the query has interacted with before are "
        "candidates, in training, evaluation and serving. `exclude`: they are not; "
        "repeated interactions are left out of the lists, and the exported model does "
        "not return the items of the history that is sent with a query. `include`: "
        "they are. `auto`: `include` if at least 10% of the training interactions are "
        "repeats, not counting the first ones of each query; else `exclude`.",
    )
    size: Literal["catalogue", "sampled"] = Field(
        default="catalogue",
        description="`catalogue`: the candidates of a list are all items, without seen "
        "ones if `seen` excludes them. `sampled`: the positive, the candidates with "
        "the highest teacher scores, and a uniform sample.",
    )
    teacher_top: int = Field(
        default=200,
        gt=0,
        description="For sampled lists: number of candidates with the highest teacher "
        "scores.",
    )
    tail: int = Field(
        default=300,
        gt=0,
        description="For sampled lists: number of uniformly drawn candidates, without "
        "replacement. Each item that is not a candidate already is drawn with the same "
        "probability: this number divided by the number of such items.",
    )
    contexts: int = Field(
        default=100_000,
        gt=0,
        description="Number of training lists that the teacher scores for the student.",
    )
    per_query: int | None = Field(
        default=None,
        gt=0,
        description="Maximum number of training lists per query; the latest ones are "
        "kept. No limit by default.",
    )
    scores_dtype: Literal["float16", "float32"] = Field(
        default="float16",
        description="Type of the stored teacher scores. `float16` takes half the "
        "space; it keeps three decimal digits and values up to 65,504.",
    )
