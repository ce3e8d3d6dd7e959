"""The step `teacher`: what it warns about."""

from types import SimpleNamespace

from recdistill.pipeline.config.external_teacher_section import ScoresTeacherConfig
from recdistill.pipeline.config.teacher_section import (
    EnsembleTeacherConfig,
    LinearTeacherConfig,
)
from recdistill.pipeline.steps import STEPS


def said_of(teacher):
    run = SimpleNamespace(config=SimpleNamespace(teacher=teacher))
    return list(STEPS["teacher"].warnings(run))


def test_a_teacher_whose_training_data_is_not_known_is_named():
    linear, scores = LinearTeacherConfig(), ScoresTeacherConfig()
    [said] = said_of(EnsembleTeacherConfig(members=(linear, scores, scores)))
    assert "not known what the teacher was trained on (`scores`)" in said
    assert "teacher.trained_on" in said


def test_a_teacher_of_the_pipeline_or_with_its_training_data_is_not(tmp_path):
    declared = ScoresTeacherConfig(trained_on=tmp_path / "examples.csv")
    assert said_of(declared) == []
    assert said_of(LinearTeacherConfig()) == []
    assert (
        said_of(EnsembleTeacherConfig(members=(LinearTeacherConfig(), declared))) == []
    )
