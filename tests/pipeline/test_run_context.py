"""run_context: files that the user names are still those that were announced."""

import pytest

from recdistill.errors import DataError
from recdistill.pipeline.run_context import RunContext
from tests import small_pipelines


@pytest.fixture
def context(tmp_path):
    """A run whose teacher has partial scores in a file."""
    path = tmp_path / "scores.csv"
    path.write_text("user_id,item_id,score\nu,i,0.5\n")
    teacher = {"kind": "scores", "path": path}
    config = small_pipelines.config(teacher=teacher, workdir=tmp_path / "runs")
    return RunContext(config, small_pipelines.quiet, print)


def test_a_file_of_the_teacher_that_did_not_change_is_accepted(context):
    before = context.teacher_identity
    context.verify_sources()
    assert context.teacher_identity is before


def test_a_file_of_the_teacher_that_changed_while_it_was_read_is_an_error(context):
    assert context.teacher_identity["kind"] == "scores"
    context.config.teacher.path.write_text("user_id,item_id,score\nu,i,0.7\n")
    with pytest.raises(DataError, match=r"teacher.*changed while it was read"):
        context.verify_sources()


def test_data_that_changed_while_the_teacher_read_it_is_an_error(context):
    def changed():
        raise DataError("interactions.csv changed while it was read")

    assert context.teacher_identity
    context.dataset.__dict__["verify"] = changed
    with pytest.raises(DataError, match=r"interactions\.csv changed"):
        context.verify_sources()
