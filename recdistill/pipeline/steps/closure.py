"""The step `closure`: the second round of the training lists and their scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from recdistill.pipeline.steps.pilot import require_second_round
from recdistill.pipeline.steps.step import Step, sections

if TYPE_CHECKING:
    from recdistill.pipeline.artefacts.workspace import Draft
    from recdistill.pipeline.config import Config
    from recdistill.pipeline.run_context import RunContext
    from recdistill.pipeline.scores.score_writing import Proposer


class Closure(Step):
    """Adds the pilot student's highest items to the lists and scores what is new.

    A listwise loss on a subset of the catalogue bounds the ranking metric of the whole
    only if the subset holds what the student itself ranks first (closure; Zhu and
    Zhang, 2026).
    """

    name = "closure"
    summary = "Score the pilot student's own top items with the teacher."
    shared = True
    resumes = True
    reads_teacher = True

    def needs(self, config: Config) -> tuple[str, ...]:
        """The lists of the first round, and the pilot student."""
        return ("prepare", "teacher", "score", "pilot")

    def before(self, run: RunContext) -> None:
        """Checks that there is a second round."""
        require_second_round(run.config, self.name)

    def inputs(self, run: RunContext) -> dict[str, Any]:
        """Number of the pilot student's items."""
        top = {"student_top": run.config.lists.student_top}
        return {**top, **sections(run.config, "seed")}

    def work(self, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Writes the files of the first round again, with more candidates."""
        from recdistill.pipeline.steps.score import write_scores

        record = write_scores(run, draft, _second_round)
        before = run.artefacts["score"].record["candidates"]
        return {**record, "added": record["candidates"] - before}

    def details(self, record: Mapping[str, Any]) -> Iterator[str]:
        """Number of new candidates."""
        each = record["added"] / max(1, record["lists"])
        share = record["added"] / max(1, record["candidates"])
        yield (
            f"{record['added']:,} candidates are new, {each:.1f} in a list "
            f"({share:.1%} of all candidates)"
        )

    def gist(self, record: Mapping[str, Any]) -> str:
        """Number of lists and of new candidates."""
        from recdistill.pipeline.scores.score_store import lists_in_words

        return f"{lists_in_words(record)}; {record['added']:,} new candidates"


def _second_round(run: RunContext) -> Proposer:
    """The candidates of the first round and the pilot student's highest items."""
    from recdistill.pipeline.candidates.retriever import SecondRound
    from recdistill.pipeline.ranking.two_tower_catalogue import TwoTowerCatalogue

    number = run.config.lists.student_top
    pilot = TwoTowerCatalogue(run.student_model("pilot"))
    return SecondRound(
        partial(pilot.top, count=number),
        run.intact("score").path,
        number,
    )
