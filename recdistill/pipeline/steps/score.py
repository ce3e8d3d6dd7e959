"""The step `score`: the teacher's scores of the training lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from recdistill.pipeline.steps.step import Step, sections

if TYPE_CHECKING:
    from recdistill.pipeline.config import Config
    from recdistill.pipeline.run_context import RunContext
    from recdistill.pipeline.workspace import Draft


class Score(Step):
    """Stores the teacher's scores of the training lists."""

    name = "score"
    summary = "Store the teacher's scores of the training lists."
    shared = True
    resumes = True
    reads_teacher = True

    def needs(self, config: Config) -> tuple[str, ...]:
        """The lists and the teacher."""
        return ("prepare", "teacher")

    def before(self, run: RunContext) -> None:
        """Stops a run whose teacher's scores are unusable."""
        from recdistill.pipeline.gate import check_usable

        check_usable(run.config, run.artefacts["teacher"], run.training_overlap)

    def inputs(self, run: RunContext) -> dict[str, Any]:
        """Settings of the scored lists and of the stored candidates."""
        return sections(run.config, "seed", "lists")

    def work(self, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Writes files of scored lists, one by one."""
        from recdistill.pipeline.earlier_scores import EarlierScores
        from recdistill.pipeline.model_building import members_of, needs_training_rows
        from recdistill.pipeline.score_store import examine_stored
        from recdistill.pipeline.score_writing import ScoreWriter
        from recdistill.pipeline.unknown_features import unknown_to_teacher

        config = run.config
        lists = run.artefacts["prepare"].record["lists"]["train"]
        same = self._identity(run)
        stores = sorted(draft.final.parent.parent.glob(f"*/{self.name}-*"))
        writer = ScoreWriter(
            run.scorer(
                run.teacher_model,
                "Scoring with the teacher",
                min(lists, config.lists.contexts),
            ),
            run.prepared,
            config.lists,
            config.seed,
            run.progress,
            training_rows=needs_training_rows(config, run.prepared),
            score_tables=run.score_tables,
            identity=same,
            # Looking up a table costs no more than looking up a store.
            earlier=None if run.score_tables else EarlierScores(stores, same),
        )
        record = writer.write(draft.path)
        record |= unknown_to_teacher(members_of(run.teacher_model))
        run.progress("Examining the scores", 0, None)
        found = examine_stored(draft.path, run.prepared.catalogue_size)
        return {**record, "doctor": found.model_dump(mode="json")}

    def _identity(self, run: RunContext) -> str:
        """Identity of all that the scores of a list depend on, except the list."""
        from recdistill.pipeline.weights_file import WEIGHTS
        from recdistill.pipeline.workspace import fingerprint

        lists = run.config.lists
        return fingerprint(
            {
                "teacher": run.teacher_identity,
                "weights": run.artefacts["teacher"].record["sha256"].get(WEIGHTS),
                "items": run.prepared.items_digest,
                "observed": int(run.prepared.observed_sizes.max()),
                "size": [lists.size, lists.teacher_top, lists.tail, lists.scores_dtype],
                "seed": run.config.seed,
            }
        )

    def warnings(self, run: RunContext) -> Iterator[str]:
        """Problems of the stored scores, or of the settings that they are used with."""
        from recdistill.pipeline.score_store import rounding_warning

        record = run.artefacts["score"].record
        for warning in (
            rounding_warning(run.config.lists, record),
            run.soft_targets.warning,
        ):
            if warning is not None:
                yield warning

    def details(self, record: Mapping[str, Any]) -> Iterator[str]:
        """Kept scores, and values that the teacher does not know."""
        if record["kept_scores"]:
            kept = f"{record['kept_scores']:,} of {record['lists']:,} lists"
            yield f"scores of an earlier run kept for {kept}"
        from recdistill.features.unknown_values import in_words

        shares = in_words(record["unknown"])
        if shares:
            yield f"values unknown to the teacher: {shares}"
        uncounted = ", ".join(record.get("uncounted", ()))
        if uncounted:
            yield (
                f"values unknown to the teacher cannot be counted for {uncounted}, "
                "because it does not declare their vocabulary"
            )

    def gist(self, record: Mapping[str, Any]) -> str:
        """Number of lists, and the score doctor's proposal."""
        lists = f"{record['lists']:,} lists of {record['list_size']:,}"
        proposal = record["doctor"]["proposal"]
        if proposal is None:
            return f"{lists}; all scores of a list are equal"
        found = len(record["doctor"]["findings"])
        problems = f"{found} finding{'s' * (found != 1)}, " if found else ""
        transform, temperature = proposal["transform"], proposal["temperature"]
        return f"{lists}; doctor: {problems}{transform} at {temperature:g}"
