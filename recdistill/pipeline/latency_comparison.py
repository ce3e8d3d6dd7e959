"""Teacher and student of a finished run, timed in turns on the same candidates."""

from __future__ import annotations

from collections.abc import Sequence

from recdistill.evaluation.latency.latency_tables import RankingTime
from recdistill.pipeline.dataset_loading import load_dataset
from recdistill.pipeline.model_building import (
    load_student,
    load_teacher,
    parameters,
    size_bytes,
)
from recdistill.pipeline.model_comparison import count_operations, time_models
from recdistill.pipeline.pipeline import Pipeline
from recdistill.pipeline.teacher_config import has_partial_scores
from recdistill.pipeline.teacher_opening import ExternalTeachers
from recdistill.pipeline.validation import compiled


def time_side_by_side(
    pipeline: Pipeline, candidates: Sequence[int]
) -> list[RankingTime]:
    """Times both models of a run on one query.

    A teacher of which only scores are there cannot be timed: then the student is alone.

    Args:
        pipeline: The pipeline; what is missing of its run is done first.
        candidates: Numbers of candidates.
    """
    config, prepared = pipeline.config, pipeline.prepared
    student = load_student(config.student, prepared, pipeline.run("distill").path)
    external = ExternalTeachers(
        prepared, lambda: load_dataset(config.dataset, lambda label, done, total: None)
    )
    folder = pipeline.run("teacher").path
    teacher = load_teacher(config, prepared, external, folder)
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
