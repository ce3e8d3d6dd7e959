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

    def inputs(self, run: RunContext) -> dict[str, Any]:
        """The teacher's settings and the content of its files."""
        return {
            "teacher": run.teacher_identity,
            **run.validation_inputs,
            **sections(run.config, "seed"),
        }

    def work(self, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Writes the weights, and the validation metrics of teacher and popularity."""
        import keras
        import pyarrow.parquet as pq

        from recdistill.pipeline.config.teacher_section import (
            ReferenceTeacherConfig,
            members_of,
        )
        from recdistill.pipeline.gate import CheckedScorer
        from recdistill.pipeline.model_building import (
            TeacherBuilder,
            linear_forms,
            parameters,
        )
        from recdistill.pipeline.model_building import members_of as models_of
        from recdistill.pipeline.scorers import popularity_scorer
        from recdistill.pipeline.unknown_features import unknown_to_teacher
        from recdistill.pipeline.weights_file import save_weights

        config = run.config
        run.progress("Opening or fitting the teacher", 0, None)
        teacher = TeacherBuilder(config, run.prepared, run.external, fit=True).build()
        trained = [
            run.trainer.ranker(model, settings)
            for settings, model in zip(
                members_of(config.teacher), models_of(teacher), strict=True
            )
            if isinstance(settings, ReferenceTeacherConfig)
        ]
        if isinstance(teacher, keras.Model):
            save_weights(teacher, draft.path)
        validation = run.validation
        lists = sum(map(len, validation.lists))
        scorer = CheckedScorer(run.scorer(teacher, "Evaluating the teacher", lists))
        values = {}
        popularity = popularity_scorer(run.prepared.popularity)
        for name in ("valid", "valid_popularity"):
            rows = validation.rows(scorer if name == "valid" else popularity)
            pq.write_table(rows, draft.path / f"{name}.parquet")
            values[name] = validation.mean(rows)
        return {
            "kind": config.teacher.kind,
            **unknown_to_teacher(models_of(teacher)),
            "trained": trained,
            "linear_models": linear_forms(config, run.prepared),
            "parameters": parameters(teacher),
            "faults": vars(scorer.faults),
            **values,
        }

    def details(self, record: Mapping[str, Any]) -> Iterator[str]:
        """The form of each linear item model."""
        for name, model in record.get("linear_models", {}).items():
            form = model["form"].replace("_", " ")
            if not model["exact"]:
                form += f" of rank {model['rank']} (an approximation)"
            yield f"linear item model {name}: {model['items']:,} items, {form}"

    def gist(self, record: Mapping[str, Any]) -> str:
        """Kind and first metric on validation."""
        return f"{record['kind']}, validation {record['valid']:.4f}"
