"""The `lists` section: the candidates of a training list."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field

from recdistill.pipeline.config.section import Section

LARGEST_CATALOGUE = 5_000
"""Largest number of items with which `auto` makes a list of the whole catalogue."""


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
    size: Literal["auto", "catalogue", "retrieved"] = Field(
        default="auto",
        description="`catalogue`: the candidates of a list are all items, without seen "
        "ones if `seen` excludes them. `retrieved`: the positives and the items shown "
        "with them, the baseline's top items, popular items, and a uniform sample of "
        "the others; the teacher scores only these. `auto`: `catalogue` up to "
        f"{LARGEST_CATALOGUE:,} items, else `retrieved`.",
    )
    retriever_top: int = Field(
        default=200,
        gt=0,
        description="For retrieved lists: number of items with the highest scores of "
        "the baseline.",
    )
    popular: int = Field(
        default=50,
        ge=0,
        description="For retrieved lists: number of items with the most training "
        "interactions.",
    )
    tail: int = Field(
        default=300,
        gt=0,
        description="For retrieved lists: number of uniformly drawn candidates, "
        "without replacement. Each item that is not a candidate already is drawn with "
        "the same probability: this number divided by the number of such items. The "
        "losses give each drawn item the weight 1 / probability.",
    )
    student_top: int = Field(
        default=100,
        ge=0,
        description="For retrieved lists: number of items with the highest scores of "
        "a pilot student, which the second round adds to its lists. 0: there is no "
        "second round.",
    )
    contexts: int = Field(
        default=100_000,
        gt=0,
        description="Number of training lists that the teacher scores for the student.",
    )
    unlabelled: int = Field(
        default=100_000,
        ge=0,
        description="Maximum number of unlabelled lists (requests of the training "
        "part without an observed choice) that the teacher scores as well. The "
        "student learns the teacher's scores of these lists only. 0: none.",
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
        "space; it keeps three decimal digits and values up to 65,504. Scores between "
        "0 and 1 are stored as float32 unless `float16` is written here: it has no "
        "value between 0.9995 and 1, where the log-odds of probabilities differ most.",
    )

    def for_catalogue(self, items: int) -> Self:
        """The section with `size` decided by the number of items, if it is "auto"."""
        if self.size != "auto":
            return self
        size = "catalogue" if items <= LARGEST_CATALOGUE else "retrieved"
        return self.model_copy(update={"size": size})

    def for_probabilities(self) -> Self:
        """The section for scores between 0 and 1: float32, unless it says which."""
        if "scores_dtype" in self.model_fields_set:
            return self
        return self.model_copy(update={"scores_dtype": "float32"})

    @property
    def first_round(self) -> dict[str, Any]:
        """The keys that the lists and scores of the first round depend on."""
        names = {"size", "contexts", "unlabelled", "scores_dtype"}
        if self.size == "retrieved":
            names |= {"retriever_top", "popular", "tail"}
        return self.model_dump(mode="json", include=names)

    @property
    def drawn(self) -> int:
        """Items drawn for a list without teacher scores: a retrieved list's length."""
        return self.retriever_top + self.popular + self.tail

    @property
    def has_second_round(self) -> bool:
        """Whether the lists get the top items of a pilot student."""
        return self.size == "retrieved" and self.student_top > 0
