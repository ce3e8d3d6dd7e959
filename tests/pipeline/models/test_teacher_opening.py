"""teacher_opening: what a teacher's scores depend on."""

import pytest
from pydantic import TypeAdapter

from recdistill.pipeline.config.teacher_section import TeacherConfig
from recdistill.pipeline.models.teacher_opening import identity

SERVER = {"kind": "remote", "address": "http://ranker:8501", "model": "ranker"}


def identity_of(**settings):
    return identity(TypeAdapter(TeacherConfig).validate_python(settings))


@pytest.mark.parametrize("kind", ["reference", "sequence"])
def test_the_batch_size_of_a_training_changes_the_teacher(kind):
    assert identity_of(kind=kind, batch_size=32) != identity_of(kind=kind)
    members = [{"kind": kind, "batch_size": 32}, {"kind": "linear"}]
    others = [{"kind": kind}, {"kind": "linear"}]
    assert identity_of(kind="ensemble", members=members) != identity_of(
        kind="ensemble", members=others
    )


def test_the_table_of_training_examples_does_not_change_scores(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("list_id,item_id,score\n")
    table = {"kind": "scores", "path": str(path)}
    assert identity_of(**table, trained_on="a.csv") == identity_of(**table)


@pytest.mark.parametrize(
    "settings", [{"batch_size": 32}, {"deadline_s": 99.0}, {"retries": 9}]
)
def test_how_an_external_teacher_is_called_does_not_change_its_scores(settings):
    assert identity_of(**SERVER, **settings) == identity_of(**SERVER)
    assert identity_of(**SERVER, version=2) != identity_of(**SERVER)
