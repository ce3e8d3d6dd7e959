"""report and receipt: what reaches the file, and what a reader is told."""

import io
import json
import math
import os

import numpy as np
import pytest
from pydantic import ValidationError
from rich.console import Console

from recdistill.distillation.score_doctor import examine
from recdistill.evaluation.intervals import Interval, Slice
from recdistill.evaluation.latency.stopwatch import Latency
from recdistill.evaluation.report.receipt import (
    metric_label,
    render,
    render_examination,
    verdict,
)
from recdistill.evaluation.report.run_report import (
    DatasetPart,
    GatePart,
    ModelPart,
    ProtocolPart,
    Report,
    SoftTargetsPart,
    describe_environment,
)

METRICS = ("ndcg@10", "recall@10", "mrr")
NO_GAP = "teacher and baseline do not differ beyond noise"


def model_part(value, *, p50=None):
    around = Interval(value, value - 0.01, value + 0.016)
    return ModelPart(
        metrics={name: around for name in METRICS},
        slices={"query": {"cold": Slice(3, 2, {"mrr": around})}},
        parameters=182_345,
        size_bytes=812_345,
        latency_ms={}
        if p50 is None
        else {
            n: Latency(p50, 2 * p50, 3 * p50, p50, p50 / 2, 200)
            for n in ("100", "1000")
        },
    )


def report(**changes):
    fields = {
        "name": "movielens",
        "seed": 1,
        "dataset": DatasetPart(
            name="MovieLens 100K",
            fingerprint="ab12",
            interactions=100_000,
            queries=943,
            items=1682,
            lists={"train": 9_000, "test": 943},
        ),
        "protocol": ProtocolPart(
            split="test", lists=943, masked_seen=True, unreachable=7
        ),
        "models": {
            "popularity": model_part(0.051),
            "baseline": model_part(0.081, p50=0.42),
            "distilled": model_part(0.091, p50=0.43),
            "teacher": model_part(0.102, p50=41.23),
        },
        "gap_closed": {
            "ndcg@10": Interval(0.476, 0.21, 0.71),
            "recall@10": Interval(0.55, 0.3, 0.8),
            "mrr": Interval(None, reason=NO_GAP),
        },
        "kept": {name: Interval(0.892, 0.86, 0.95) for name in METRICS},
        "differences": {
            pair: {name: Interval(0.021, 0.004, 0.032) for name in METRICS}
            for pair in (
                "teacher_minus_baseline",
                "distilled_minus_baseline",
            )
        },
        "agreement": {"overlap@10": Interval(0.71, 0.69, 0.73)},
        "speedup": {"1000": 95.9},
        "gate": GatePart(passed=True, message="the teacher is better by 0.02"),
        "timings_s": {"distill": 12.5},
        "environment": describe_environment(),
        "config": {"student": {"dim": 32}},
    }
    return Report(**(fields | changes))


def shown(one, width, **settings):
    screen = io.StringIO()
    Console(file=screen, width=width, force_terminal=False).print(
        render(one, **settings)
    )
    return screen.getvalue()


class TestDocument:
    def test_round_trip_through_the_file(self, tmp_path):
        one = report()
        one.save(tmp_path / "report.json")
        assert Report.load(tmp_path / "report.json") == one

    def test_numbers_stand_where_readers_of_version_one_look(self):
        document = json.loads(report().to_json())
        assert document["schema_version"] == 1
        distilled = document["models"]["distilled"]
        assert distilled["metrics"]["ndcg@10"] == {
            "value": 0.091,
            "ci": [0.091 - 0.01, 0.091 + 0.016],
        }
        assert distilled["latency_ms"]["1000"]["p50"] == 0.43
        assert distilled["slices"]["query"]["cold"]["lists"] == 3
        assert distilled["slices"]["query"]["cold"]["metrics"]["mrr"]["value"] == 0.091
        assert document["protocol"]["candidates"] == "full"

    def test_missing_number_is_null_with_its_reason(self):
        document = json.loads(report().to_json())
        assert document["gap_closed"]["mrr"] == {
            "value": None,
            "ci": None,
            "reason": NO_GAP,
        }

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_number_that_is_not_finite_never_reaches_the_document(self, bad):
        one = report(
            gap_closed={
                "mrr": Interval(bad, 0.1, 0.2),
                "ndcg@10": Interval(0.5, 0, bad),
            },
            config={"limit": [bad]},
        )
        document = json.loads(one.to_json(), parse_constant=pytest.fail)
        lost = {"ci": None, "reason": "the number is not finite"}
        assert document["gap_closed"]["mrr"] == {"value": None, **lost}
        assert document["gap_closed"]["ndcg@10"] == {"value": 0.5, **lost}
        assert document["config"] == {"limit": [str(bad)]}
        with pytest.raises(ValidationError, match="finite"):
            report(timings_s={"distill": bad})

    def test_same_inputs_give_the_same_text(self):
        assert report().to_json() == report().to_json()

    def test_fingerprint_follows_the_metrics_and_not_the_clock(self):
        usual = report().metrics_fingerprint()
        slower = report(
            speedup={"1000": 3.0},
            timings_s={"distill": 99.0},
            environment={},
            models=report().models | {"teacher": model_part(0.102, p50=900.0)},
        )
        assert slower.metrics_fingerprint() == usual
        worse = report(models=report().models | {"teacher": model_part(0.101)})
        assert worse.metrics_fingerprint() != usual

    def test_fingerprint_does_not_hang_on_the_last_bit_of_a_number(self):
        one, next_to_it = model_part(0.3), model_part(0.1 + 0.2)
        assert one != next_to_it
        hashes = {
            report(models=report().models | {"teacher": part}).metrics_fingerprint()
            for part in (one, next_to_it)
        }
        assert len(hashes) == 1

    def test_failed_write_leaves_the_old_report_whole(self, tmp_path, monkeypatch):
        path = tmp_path / "report.json"
        report().save(path)

        def fail(source, target):
            raise OSError("disk full")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            report(name="other").save(path)
        assert Report.load(path).name == "movielens"
        assert [one.name for one in tmp_path.iterdir()] == ["report.json"]

    def test_document_of_another_version_is_refused(self, tmp_path):
        path = tmp_path / "report.json"
        path.write_text(
            report().to_json().replace('"schema_version": 1', '"schema_version": 2')
        )
        with pytest.raises(ValueError, match=r"`schema_version`.*schema_version=2"):
            Report.load(path)
        path.write_text("[]")
        with pytest.raises(ValueError, match="schema_version=None"):
            Report.load(path)

    def test_unknown_key_and_unknown_model_are_refused(self):
        with pytest.raises(ValidationError, match="gap_open"):
            report(gap_open={})
        with pytest.raises(ValidationError, match="popularity"):
            report(models={"random": model_part(0.1)})

    @pytest.mark.parametrize("candidates", ["all", "sampled", "sampled:0"])
    def test_candidates_say_how_many_were_sampled(self, candidates):
        with pytest.raises(ValidationError, match="candidates"):
            ProtocolPart(split="test", lists=1, masked_seen=True, candidates=candidates)

    def test_environment_names_versions_and_not_who_or_where(self):
        found = describe_environment(["numpy", "no-such-package"])
        assert list(found["packages"]) == ["numpy"]
        assert found["cores"] >= 1
        assert set(found) == {"python", "platform", "cpu", "cores", "packages"}


class TestVerdict:
    def test_help_is_claimed_with_its_interval(self):
        assert verdict(report(), "ndcg@10") == (
            "By NDCG@10, distillation closed 48% [21%, 71%] of the gap to the teacher."
        )

    def test_help_without_a_gap_is_told_as_such(self):
        assert verdict(report(), "mrr") == (
            f"By MRR, distillation helped; gap closed is not defined: {NO_GAP}."
        )

    @pytest.mark.parametrize(
        ("difference", "words"),
        [
            (Interval(0.02, -0.001, 0.04), "changed nothing beyond noise"),
            (Interval(-0.02, -0.04, 0.001), "changed nothing beyond noise"),
            (Interval(-0.02, -0.04, -0.001), "made the student worse"),
            (Interval(0.02, reason="one query"), "cannot be told"),
            (Interval(None, reason="no list"), "cannot be told"),
        ],
    )
    def test_nothing_is_claimed_beyond_the_interval(self, difference, words):
        found = {"distilled_minus_baseline": {"ndcg@10": difference}}
        assert words in verdict(report(differences=found), "ndcg@10")

    def test_metric_that_was_not_compared_cannot_be_told(self):
        assert "cannot be told" in verdict(report(), "map@10")


class TestReceipt:
    @pytest.mark.parametrize("width", [80, 120])
    def test_fits_its_width_and_cuts_no_number(self, width):
        text = shown(report(), width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        assert "\x1b" not in text

    def test_shows_each_model_with_its_costs(self):
        lines = shown(report(), 120).splitlines()
        row = next(line for line in lines if line.startswith("distilled"))
        for cell in ("0.091 [0.081, 0.107]", "182k", "812 kB", "0.43"):
            assert cell in row
        narrow = shown(report(), 80).splitlines()
        row = next(line for line in narrow if line.startswith("teacher"))
        for cell in ("0.102 ±.013", "41.2"):
            assert cell in row

    @pytest.mark.parametrize("width", [80, 120])
    def test_whether_an_interval_excludes_zero_shows_at_every_width(self, width):
        assert "[+0.004, +0.032]" in shown(report(), width)

    def test_tells_reasons_artefacts_and_what_to_type_next(self):
        text = shown(
            report(),
            120,
            artefacts={"SavedModel": "runs/one/export/1"},
            next_steps=["recdistill serve runs/one"],
        )
        for words in (
            f"not defined: {NO_GAP}",
            "95.9 times at 1,000 candidates",
            "overlap@10 0.71",
            "passed: the teacher is better by 0.02",
            "7 of them unreachable, count 0",
            "runs/one/export/1",
            "recdistill serve runs/one",
        ):
            assert words in text

    def test_text_in_brackets_is_shown_as_it_is(self):
        text = shown(report(), 80, next_steps=["pip install 'recdistill[ray]'"])
        assert "recdistill[ray]" in text

    def test_report_with_little_in_it_is_shown_all_the_same(self):
        little = report(
            models={"distilled": ModelPart(metrics={"mrr": Interval(0.5)})},
            gap_closed={},
            kept={},
            differences={},
            agreement={},
            speedup={},
            gate=None,
        )
        text = shown(little, 80)
        assert "MRR" in text
        assert "NDCG" not in text
        assert "gap closed" not in text

    def test_metrics_are_written_as_people_write_them(self):
        names = ["ndcg@10", "recall@5", "mrr", "map@3", "hit@1"]
        want = ["NDCG@10", "Recall@5", "MRR", "MAP@3", "Hit@1"]
        assert [metric_label(name) for name in names] == want


SOFT_TARGETS = SoftTargetsPart(
    transform="log",
    temperature=0.39,
    chosen_by="doctor",
    effective=98.7,
    list_size=1_568,
    findings=("The tail is heavy",),
    reason="The logarithm tames a heavy tail",
)


def test_the_receipt_says_what_the_student_was_shown():
    said = " ".join(shown(report(soft_targets=SOFT_TARGETS), 80).split())
    shares = "about 98.7 of 1,568 candidates count"
    assert (
        f"Soft targets log, temperature 0.39 (chosen by the doctor): {shares}" in said
    )
    changing = SOFT_TARGETS.model_copy(
        update={"temperature": None, "effective": None, "chosen_by": "configuration"}
    )
    lines = shown(report(soft_targets=changing), 80).splitlines()
    assert "Soft targets  log" in [line.rstrip() for line in lines]


def test_soft_targets_come_back_from_the_file(tmp_path):
    kept = report(soft_targets=SOFT_TARGETS)
    kept.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json").soft_targets == SOFT_TARGETS
    assert kept.metrics_fingerprint() != report().metrics_fingerprint()


@pytest.mark.parametrize("width", [80, 120])
def test_the_doctors_sheet_has_all_that_it_found_and_fits(width):
    scores = np.exp(3 * np.random.default_rng(1).normal(size=(30, 200)))
    found = examine(scores, np.ones(scores.shape, bool))
    console = Console(file=io.StringIO(), width=width)
    console.print(render_examination(found, SOFT_TARGETS.model_dump()))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    said = " ".join(text.split())
    for finding in found.findings:
        assert f"Finding {finding}" in said
    assert (
        f"distill.scores=log distill.temperature=auto. {found.proposal.reason}" in said
    )
    assert f"Kurtosis {found.kurtosis:.3g} (normal 0, exponential 6)" in said
    (row,) = (line.split() for line in text.splitlines() if line.startswith("log "))
    want = [found.effective["log"][t] for t in ("0.125", "0.25", "0.5", "1", "2", "4")]
    assert row[1:] == [f"{number:,.3g}" for number in want]
    assert "This run log, temperature 0.39" in said


def test_the_doctors_sheet_of_rubbish_has_no_numbers_to_show():
    found = examine(np.full((2, 3), np.nan), np.ones((2, 3), bool))
    console = Console(file=io.StringIO(), width=80)
    console.print(render_examination(found))
    said = " ".join(console.file.getvalue().split())
    assert "NaN, infinite 6" in said
    assert "Proposal" not in said
