"""The step distill: the gate before it, and the soft targets."""

import pytest

from recdistill.errors import GateError
from recdistill.pipeline import run_context
from recdistill.pipeline.training.trainer import Trainer
from tests.pipeline.tiny_runs import artefact_names, go, made, report_of

pytestmark = pytest.mark.slow


class TestTheGate:
    def test_a_closed_gate_stops_the_run_with_figures_and_the_override(self, copied):
        before = artefact_names(copied)
        with pytest.raises(GateError) as caught:
            go(copied, "distill.gate=stop")
        said = str(caught.value)
        assert "does not beat" in said
        assert "beyond noise: ndcg@10 on validation, teacher minus popularity" in said
        assert "--set distill.gate=warn" in said
        assert artefact_names(copied) == before

    def test_a_closed_gate_stops_a_run_that_was_overridden_before(
        self, copied, monkeypatch
    ):
        monkeypatch.setattr(Trainer, "student", None)  # nobody trains
        with pytest.raises(GateError):
            go(copied, "distill.gate=stop", until="distill")
        assert made(go(copied, until="distill")) == []

    def test_the_override_lets_a_stopped_run_continue(self, copied):
        other, notes = "distill.weight=0.7", []
        with pytest.raises(GateError):
            go(copied, other, "distill.gate=stop", until="distill")
        notes = []
        done = go(
            copied, other, "distill.gate=warn", until="distill", warn=notes.append
        )
        assert made(done) == ["distill"]
        assert "does not beat" in notes[-1]
        assert notes[-1].endswith("The run continues because distill.gate is warn.")

    def test_a_run_whose_teacher_passes_continues(self, copied, monkeypatch):
        compare = run_context.compare_on_validation

        def open_gate(*args):
            part = compare(*args)
            return part.model_copy(update={"passed": True, "overridden": False})

        monkeypatch.setattr(run_context, "compare_on_validation", open_gate)
        done = go(copied, "distill.gate=stop")
        # The student was no other; what the report says of the gate is.
        assert made(done) == ["evaluate"]
        report = report_of(copied)
        assert (report.gate.passed, report.gate.overridden) == (True, False)

    @pytest.mark.parametrize("gate", ["stop", "warn"])
    def test_a_teacher_trained_on_held_out_lists_stops_before_scoring(
        self, copied, monkeypatch, gate
    ):
        leak = {"valid": 3, "test": 4}
        monkeypatch.setattr(run_context, "lists_trained_on", lambda *_: leak)
        # Scoring would fail.
        monkeypatch.setattr("recdistill.pipeline.steps.score.write_scores", None)
        if gate == "stop":
            with pytest.raises(GateError, match="trained on 3 of the validation lists"):
                go(copied, "lists.contexts=599", "distill.gate=stop", until="score")
            return
        assert made(go(copied)) == ["evaluate"]
        report = report_of(copied)
        assert report.gate.trained_on == leak
        assert "trained on 3 of the validation lists" in report.gate.message


class TestTheDoctor:
    def test_auto_is_the_proposal_of_the_doctor_and_the_report_has_it(self, copied):
        auto = "distill.scores=auto", "distill.teacher_temperature=auto"
        notes = []
        done = go(copied, *auto, warn=notes.append)
        assert made(done) == ["distill", "evaluate"]
        report = report_of(copied)
        chosen = report.soft_targets
        proposal = done["score"].record["doctor"]["proposal"]
        assert chosen.chosen_by == "doctor"
        assert chosen.transform == proposal["transform"]
        assert chosen.teacher_temperature == proposal["temperature"]
        assert chosen.temperature == 1.0
        assert not any("soft targets" in note for note in notes)

    def test_a_nearly_one_hot_temperature_gives_a_warning(self, copied):
        notes = []
        go(copied, "distill.teacher_temperature=0.01", until="score", warn=notes.append)
        (note,) = notes
        assert "nearly one-hot" in note
