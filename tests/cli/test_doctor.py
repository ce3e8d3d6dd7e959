"""`recdistill doctor` on a run and on a table."""

import json
import re

import numpy as np
import pytest

from tests.cli.command_line import assert_is_one_paragraph, call, in_folder

pytestmark = pytest.mark.slow


class TestDoctor:
    @pytest.fixture
    def table(self, tmp_path):
        rng = np.random.default_rng(1)
        scores = np.exp(3 * rng.normal(size=(40, 100)))
        rows = [f"q{k // 100},{s}" for k, s in enumerate(scores.ravel())]
        path = tmp_path / "scores.csv"
        path.write_text("\n".join(["query,points", *rows]))
        return path

    def test_a_run_is_examined_from_its_stored_scores(self, tiny_run):
        result = call("doctor", *in_folder(tiny_run.folder))
        assert result.exit_code == 0
        said = " ".join(result.stdout.split())
        assert "Score doctor Lists 600, with" in said
        proposal = "distill.scores=z_score distill.teacher_temperature=auto."
        assert f"Proposal {proposal}" in said
        assert "This run z_score, teacher temperature 1: about" in said
        counted = r"600 lists of 51 on average; doctor: .*z_score at"
        assert re.search(counted, result.stderr)

    def test_the_examination_of_a_run_is_printed_as_json(self, tiny_run):
        result = call("doctor", *in_folder(tiny_run.folder), "--json")
        document = json.loads(result.stdout)
        score = tiny_run.artefacts["score"]
        assert document["artefact"] == str(score.path)
        assert document["examination"] == score.record["doctor"]
        assert document["soft_targets"]["transform"] == "z_score"
        assert result.stderr == ""

    def test_a_table_is_examined(self, table):
        columns = ("--list-column", "query", "--score-column", "points")
        result = call("doctor", "--table", table, *columns)
        assert result.exit_code == 0
        said = " ".join(result.stdout.split())
        assert "Finding The tail is heavy: z-scores are" in said
        assert "Proposal distill.scores=log" in said
        assert "This run" not in said
        document = json.loads(
            call("doctor", "--table", table, *columns, "--json").stdout
        )
        assert document["table"] == str(table)
        assert document["examination"]["lists"] == 40
        assert document["examination"]["proposal"]["transform"] == "log"

    def test_a_column_that_does_not_exist_is_one_paragraph_and_exit_code_2(self, table):
        result = call("doctor", "--table", table)
        assert result.exit_code == 2
        said = "has no column 'list_id'. Its columns are: query, points."
        assert_is_one_paragraph(result, said)

    @pytest.mark.parametrize(("arguments", "got"), [((), "neither"), (("x",), "both")])
    def test_exactly_one_source_must_be_given(self, table, arguments, got):
        arguments = (*arguments, "--table", table) if arguments else ()
        result = call("doctor", *arguments)
        assert result.exit_code == 2
        assert_is_one_paragraph(
            result,
            f"Exactly one of CONFIG and `--table` must be given. Received: {got}",
        )

    def test_an_override_has_no_configuration_to_override(self, table):
        result = call("doctor", "--table", table, "--set", "student.dim=8")
        assert result.exit_code == 2
        assert_is_one_paragraph(result, "`--set` must be left out with `--table`")
