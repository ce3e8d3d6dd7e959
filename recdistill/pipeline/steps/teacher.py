"""The step `teacher`: trains, fits or opens the teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from recdistill.pipeline.steps.step import Step, sections

if TYPE_CHECKING:
    from recdistill.pipeline.config import Config
    from recdistill.pipeline.run_context import RunContext
    from recdistill.pipeline.workspace import Draft


class TeacherStep(Step):
    """Trains, fits or opens the teacher and evaluates it on validation."""

    name = "teacher"
    summary = "Train, fit or open the teacher."
    shared = True
    reads_teacher = True

    def needs(self, config: Config) -> tuple[str, ...]:
        """The prepared data."""
        return ("prepare",)

    def trains(self, config: Config) -> bool:
        """Whether the teacher, or a member of it, is trained here."""
        from recdistill.pipeline.config.teacher_section import is_trained, members_of

        return any(is_trained(member) for member in members_of(config.teacher))

    def inputs(self, run: RunContext) -> dict[str, Any]:
        """The teacher's settings and the content of its files."""
        retrieved = run.config.evaluate.retrieved
        return {
            "teacher": run.teacher_identity,
            **run.validation_inputs,
            **({"retrieved": retrieved} if run.samples_for_teacher else {}),
            **sections(run.config, "seed"),
        }

    def work(self, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Writes the weights, and the validation metrics of teacher and popularity."""
        import keras
        import pyarrow.parquet as pq

        from recdistill.pipeline.config.teacher_section import (
            chooses_weights,
            is_trained,
            members_of,
        )
        from recdistill.pipeline.gate import CheckedScorer
        from recdistill.pipeline.model_building import (
            TeacherBuilder,
            linear_forms,
            parameters,
        )
        from recdistill.pipeline.model_building import members_of as models_of
        from recdistill.pipeline.scorers import PopularityScorer
        from recdistill.pipeline.unknown_features import unknown_to_teacher
        from recdistill.pipeline.weights_file import save_weights

        config = run.config
        run.progress("Opening or fitting the teacher", 0, None)
        teacher = TeacherBuilder(config, run.prepared, run.external, fit=True).build()
        members = members_of(config.teacher)
        trained = [
            run.teacher_trainer.teacher(model, settings)
            for settings, model in zip(members, models_of(teacher), strict=True)
            if is_trained(settings)
        ]
        described: list[dict[str, Any]] = []
        if chooses_weights(config.teacher):
            teacher, described = self._choose_members(run, teacher, draft)
        if isinstance(teacher, keras.Model):
            save_weights(teacher, draft.path)
        validation = run.teacher_validation
        lists = sum(map(len, validation.lists))
        scorer = CheckedScorer(run.scorer(teacher, "Evaluating the teacher", lists))
        values = {}
        popularity = PopularityScorer(run.prepared.popularity)
        for name in ("valid", "valid_popularity"):
            # Popularity ranks the whole catalogue, whatever the teacher can do.
            lists_of = validation if name == "valid" else run.validation
            rows = lists_of.rows(scorer if name == "valid" else popularity)
            pq.write_table(rows, draft.path / f"{name}.parquet")
            values[name] = validation.mean(rows)
        return {
            "kind": config.teacher.kind,
            **unknown_to_teacher(models_of(teacher)),
            "trained": trained,
            "members": described,
            "linear_models": linear_forms(config, run.prepared),
            "parameters": parameters(teacher),
            "faults": vars(scorer.faults),
            "sampled_candidates": run.samples_for_teacher,
            **values,
        }

    @staticmethod
    def _choose_members(
        run: RunContext, teacher: Any, draft: Draft
    ) -> tuple[Any, list[dict[str, Any]]]:
        """The ensemble with the weights that are best on validation.

        Returns:
            The ensemble, and of each member its kind, its weight, its metric alone, and
            the metric of the ensemble without it.
        """
        from recdistill.models.ensemble import EnsembleTeacher
        from recdistill.pipeline.ensemble_weights import choose_weights
        from recdistill.pipeline.weights_file import save_member_weights

        lists = sum(map(len, run.teacher_validation.lists))
        choice = choose_weights(
            [run.scorer(m, "Evaluating the members", lists) for m in teacher.members],
            run.teacher_validation,
            teacher.normalize,
            run.config.seed,
        )
        save_member_weights(choice.weights, draft.path)
        kept = [m for m, w in zip(teacher.members, choice.weights, strict=True) if w]
        weights = [weight for weight in choice.weights if weight]
        ensemble = EnsembleTeacher(kept, weights, teacher.normalize)
        ensemble.built = True
        kinds = [m["kind"] for m in run.config.teacher.model_dump()["members"]]
        columns = zip(kinds, choice.weights, choice.alone, choice.without, strict=True)
        names = ("kind", "weight", "valid", "valid_without")
        return ensemble, [dict(zip(names, each, strict=True)) for each in columns]

    def details(self, record: Mapping[str, Any]) -> Iterator[str]:
        """The weight of each member of an ensemble, and the form of linear models."""
        sampled = record.get("sampled_candidates", False)
        among = "sampled candidates" if sampled else "validation"
        for member in record.get("members", ()):
            place = f"weight {member['weight']:.2f}" if member["weight"] else "left out"
            line = f"member {member['kind']}: {place}"
            line += f", alone {member['valid']:.4f} on {among}"
            if member["valid_without"] is not None:
                line += f", the ensemble without it {member['valid_without']:.4f}"
            yield line
        for name, model in record.get("linear_models", {}).items():
            form = model["form"].replace("_", " ")
            if not model["exact"]:
                form += f" of rank {model['rank']} (an approximation)"
            yield f"linear item model {name}: {model['items']:,} items, {form}"

    def gist(self, record: Mapping[str, Any]) -> str:
        """Kind and first metric on validation."""
        among = " among sampled candidates" * record.get("sampled_candidates", False)
        return f"{record['kind']}, validation {record['valid']:.4f}{among}"
