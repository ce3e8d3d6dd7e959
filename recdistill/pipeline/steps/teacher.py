"""The step `teacher`: trains, fits or opens the teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recdistill.pipeline.steps.step import Step, sections

if TYPE_CHECKING:
    from recdistill.pipeline.artefacts.workspace import Draft
    from recdistill.pipeline.config import Config
    from recdistill.pipeline.config.teacher_section import EnsembleTeacherConfig
    from recdistill.pipeline.ranking.validation import Validation
    from recdistill.pipeline.run_context import RunContext


class TeacherStep(Step):
    """Trains, fits or opens the teacher and evaluates it on validation."""

    name = "teacher"
    summary = "Train, fit or open the teacher."
    shared = True
    resumes = True
    reads_teacher = True

    def needs(self, config: Config) -> tuple[str, ...]:
        """The prepared data."""
        return ("prepare",)

    def trains(self, config: Config) -> bool:
        """Whether the teacher, or a member of it, is trained here."""
        from recdistill.pipeline.config.teacher_section import is_trained, members_of

        # Workers of a cluster would measure different times in an automatic search.
        return any(is_trained(member) for member in members_of(config.teacher))

    def before(self, run: RunContext) -> None:
        """Reads the tables of `trained_on`, so that a wrong one stops the run here."""
        _ = run.training_overlap

    def inputs(self, run: RunContext) -> dict[str, Any]:
        """The teacher's settings and the content of its files."""
        from recdistill.pipeline.config.teacher_section import (
            AutomaticTeacherConfig,
            ReferenceTeacherConfig,
            members_of,
        )

        lists, settings = run.lists_for_teacher, run.config.evaluate
        on_lists = (ReferenceTeacherConfig, AutomaticTeacherConfig)
        members = (run.config.teacher, *members_of(run.config.teacher))
        trains = any(isinstance(each, on_lists) for each in members)
        size, drawn = run.config.lists.size, run.config.lists.drawn
        return {
            "teacher": run.teacher_identity,
            # A reference ranker is trained on lists like those of the student.
            **({"drawn": drawn} if trains and size == "retrieved" else {}),
            **run.validation_inputs,
            **(
                {"retrieved": settings.retrieved}
                if lists is None
                else {"lists": min(lists, settings.valid_lists)}
            ),
            **sections(run.config, "seed"),
        }

    def work(self, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Writes the weights, and the validation metrics of teacher and popularity."""
        import keras
        import pyarrow.parquet as pq

        from recdistill.pipeline.evaluation.gate import CheckedScorer
        from recdistill.pipeline.models.model_building import linear_forms, parameters
        from recdistill.pipeline.models.model_building import members_of as models_of
        from recdistill.pipeline.models.scorers import PopularityScorer
        from recdistill.pipeline.models.weights_file import save_weights
        from recdistill.pipeline.preparation.unknown_features import unknown_to_teacher

        teacher, config, found = self._made(run, draft)
        if isinstance(teacher, keras.Model):
            save_weights(teacher, draft.path)
        validation = run.teacher_validation
        lists = len(validation)
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
            "kind": run.config.teacher.kind,
            **unknown_to_teacher(models_of(teacher)),
            **found,
            "linear_models": linear_forms(config, run.prepared),
            "parameters": parameters(teacher),
            "faults": vars(scorer.faults),
            "probabilities": scorer.probabilities,
            "sampled_candidates": run.lists_for_teacher is None,
            **values,
        }

    def _made(
        self, run: RunContext, draft: Draft
    ) -> tuple[Any, Config, dict[str, Any]]:
        """The trained, fitted or opened teacher.

        Returns:
            The teacher; the configuration, with the teacher that was found in place of
            an automatic one; and how it was found, for the record.
        """
        from recdistill.pipeline.config.budget import parse_duration
        from recdistill.pipeline.config.teacher_section import (
            AutomaticTeacherConfig,
            EnsembleTeacherConfig,
            chosen_teacher,
            given,
            members_of,
            same_before,
        )
        from recdistill.pipeline.models.model_building import TeacherBuilder
        from recdistill.pipeline.models.weights_file import save_member_weights
        from recdistill.pipeline.teacher_training.member_training import MemberTraining
        from recdistill.pipeline.teacher_training.teacher_search import TeacherSearch

        config = run.config
        found: dict[str, Any] = {}
        automatic = isinstance(config.teacher, AutomaticTeacherConfig)
        if isinstance(config.teacher, AutomaticTeacherConfig):
            budget = parse_duration(config.teacher.budget)
            search = TeacherSearch(run, draft.path, budget)
            ensemble, found["tried"] = search.members()
            config = config.model_copy(update={"teacher": ensemble})
        run.progress("Opening or fitting the teacher", 0, None)
        opened = config, run.prepared, run.external
        builder = TeacherBuilder(*opened, fit=True)
        training = MemberTraining(run, builder, draft.path)
        members = members_of(config.teacher)
        same = same_before(members)
        models, trained = zip(*map(training.member, members, same), strict=True)
        weights: Sequence[float] = (1.0,) * len(members)
        if isinstance(config.teacher, EnsembleTeacherConfig):
            found["members"], weights = self._weighted(run, config.teacher, models)
            if automatic:
                found["chosen"] = chosen_teacher([*map(given, members)], weights)
                opened = config.for_teacher(found["chosen"]), *opened[1:]
            else:
                save_member_weights(weights, draft.path)
            own = None if automatic else weights
            builder = TeacherBuilder(*opened, fit=True, member_weights=own)
        numbers = [number for number, weight in enumerate(weights) if weight]
        folds = [training.cross_fit(members[k], k, same[k]) for k in numbers]
        training.finish()
        found["trained"] = [each for each in trained if each]
        found["folds"] = [each for member in folds for each in member]
        return builder.joined([models[k] for k in numbers]), opened[0], found

    @staticmethod
    def _weighted(
        run: RunContext, settings: EnsembleTeacherConfig, models: Sequence[Any]
    ) -> tuple[list[dict[str, Any]], tuple[float, ...]]:
        """Chooses the weights of an ensemble, if it has none, and scales its members.

        Returns:
            If the weights are chosen, of each member its kind, its weight, its metric
            alone, and the metric of the ensemble without it; and the factors of the
            members' scores.
        """
        from recdistill.pipeline.config.teacher_section import chooses_weights, given
        from recdistill.pipeline.models.scorers import compiled
        from recdistill.pipeline.teacher_training.ensemble_weights import (
            LISTS_OF_A_SCALE,
            choose_weights,
            factors,
            scales_of,
        )

        validation, how = run.teacher_validation, settings.normalize
        functions = [compiled(model) for model in models]

        def scorers(activity: str, lists: Validation) -> list[Any]:
            return [run.scorer(each, activity, len(lists)) for each in functions]

        scales: tuple[float, ...] | None = None
        if how == "scale":
            some = validation.spread(LISTS_OF_A_SCALE)
            scales = scales_of(scorers("Measuring the members' scores", some), some)
            how = "none"
        if not chooses_weights(settings):
            return [], factors(settings.fixed_weights, scales)
        members = scorers("Evaluating the members", validation)
        choice = choose_weights(members, validation, how, run.config.seed, scales)
        kinds = [given(member)["kind"] for member in settings.members]
        columns = zip(kinds, choice.weights, choice.alone, choice.without, strict=True)
        names = ("kind", "weight", "valid", "valid_without")
        described = [dict(zip(names, each, strict=True)) for each in columns]
        return described, factors(choice.weights, scales)

    def warnings(self, run: RunContext) -> Iterator[str]:
        """A teacher from elsewhere may have seen the held-out interactions."""
        from recdistill.pipeline.config.teacher_section import (
            given,
            is_own,
            members_of,
        )

        unknown = [
            f"`{given(member)['kind']}`"
            for member in members_of(run.config.teacher)
            if not is_own(member) and getattr(member, "trained_on", None) is None
        ]
        if unknown:
            yield (
                "It is not known what the teacher was trained on "
                f"({', '.join(dict.fromkeys(unknown))}). If it has seen interactions "
                "of the validation or test part, its metrics and the share of the gap "
                "are wrong. With `teacher.trained_on`, a table of its training "
                "examples, the gate checks this."
            )

    def details(self, record: Mapping[str, Any]) -> Iterator[str]:
        """What was tried, the members of an ensemble, and the form of linear models."""
        from recdistill.pipeline.config.teacher_section import named
        from recdistill.toml_text import as_toml

        sampled = record.get("sampled_candidates", False)
        among = "sampled candidates" if sampled else "validation"
        for each in record.get("tried", ()):
            valid = each["valid"]
            how = f"{each['reason']}" if valid is None else f"{valid:.4f} on {among}"
            yield f"tried {named(each['settings'])}: {how}, {each['seconds']:.0f} s"
        for member in record.get("members", ()):
            place = f"weight {member['weight']:.2f}" if member["weight"] else "left out"
            line = f"member {member['kind']}: {place}"
            line += f", alone {member['valid']:.4f} on {among}"
            if member["valid_without"] is not None:
                line += f", the ensemble without it {member['valid_without']:.4f}"
            yield line
        for fold in record.get("folds", ()):
            yield f"{fold['model'].replace('_', ' ')}: {fold['best']:.4f} on {among}"
        for name, model in record.get("linear_models", {}).items():
            form = model["form"].replace("_", " ")
            if not model["exact"]:
                form += f" of rank {model['rank']} (an approximation)"
            yield f"linear item model {name}: {model['items']:,} items, {form}"
        if record.get("chosen"):
            yield "the same teacher without a search:"
            yield from as_toml({"teacher": record["chosen"]}).splitlines()

    def gist(self, record: Mapping[str, Any]) -> str:
        """Kind and first metric on validation."""
        among = " among sampled candidates" * record.get("sampled_candidates", False)
        return f"{record['kind']}, validation {record['valid']:.4f}{among}"
