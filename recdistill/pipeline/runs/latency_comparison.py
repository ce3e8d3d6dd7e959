"""Latency and cost of teacher and student of a finished run."""

from __future__ import annotations

from collections.abc import Sequence

from recdistill.evaluation.latency.latency_tables import RankingTime
from recdistill.pipeline.config.teacher_section import has_partial_scores
from recdistill.pipeline.evaluation.model_timing import count_operations, time_models
from recdistill.pipeline.models.model_building import parameters, size_bytes
from recdistill.pipeline.models.scorers import compiled
from recdistill.pipeline.runner import Pipeline


def time_side_by_side(
    pipeline: Pipeline, candidates: Sequence[int]
) -> list[RankingTime]:
    """Times teacher and student of a run on one query.

    A teacher with partial scores cannot be timed; then only the student is.

    Args:
        pipeline: The pipeline; missing steps of its run are run first.
        candidates: Numbers of candidates.
    """
    pipeline.run("distill")
    context, config = pipeline.context, pipeline.config
    student, teacher = context.student_model("distill"), context.teacher_model
    prepared = context.prepared
    scorer = None if has_partial_scores(config.teacher) else compiled(teacher)
    models = {"teacher": teacher, "student": student}
    found = []
    for size, times in time_models(scorer, student, prepared, candidates, config.seed):
        counts = count_operations(teacher, student, prepared, size, config.seed)
        found += [
            RankingTime(
                model=name,
                candidates=size,
                latency=latency,
                speedup=None if scorer is None else times.speedup[name],
                flops=counts[name],
                parameters=parameters(models[name]),
                size_bytes=size_bytes(models[name]),
            )
            for name, latency in times.latencies.items()
        ]
    return found
