"""Report: the document, its JSON file and its tables."""

import json
import math
import os

import pytest
from pydantic import ValidationError

from recdistill.errors import ReportError
from recdistill.evaluation.intervals import Interval
from recdistill.evaluation.report.run_report import (
    ModelPart,
    ProtocolPart,
    Report,
    Spread,
)
from tests.evaluation.report.example_reports import (
    NO_GAP,
    SOFT_TARGETS,
    model_part,
    report,
)


class TestDocument:
    def test_round_trip_through_the_file(self, tmp_path):
        one = report()
        one.save(tmp_path / "report.json")
        assert Report.load(tmp_path / "report.json") == one

    def test_the_document_has_the_form_of_schema_version_2(self):
        document = json.loads(report().to_json())
        assert document["schema_version"] == 2
        distilled = document["models"]["distilled"]
        assert distilled["metrics"]["ndcg@10"] == {
            "value": 0.091,
            "ci": [0.091 - 0.01, 0.091 + 0.016],
        }
        assert distilled["latency_ms"]["1000"]["p50"] == 0.43
        assert distilled["slices"]["query"]["cold"]["lists"] == 3
        assert distilled["slices"]["query"]["cold"]["metrics"]["mrr"]["value"] == 0.091
        assert document["protocol"]["candidates"] == "catalogue"
        assert document["protocol"]["seen"] == "exclude"
        assert list(document["models"]) == [
            "popularity",
            "baseline",
            "distilled",
            "teacher",
        ]

    def test_a_missing_number_is_null_with_its_reason(self):
        document = json.loads(report().to_json())
        assert document["gap_closed"]["mrr"] == {
            "value": None,
            "ci": None,
            "reason": NO_GAP,
        }

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_a_number_that_is_not_finite_becomes_null(self, bad):
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

    def test_the_fingerprint_depends_on_metrics_but_not_on_times(self):
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

    def test_the_fingerprint_ignores_the_last_bit_of_a_number(self):
        one, next_to_it = model_part(0.3), model_part(0.1 + 0.2)
        assert one != next_to_it
        hashes = {
            report(models=report().models | {"teacher": part}).metrics_fingerprint()
            for part in (one, next_to_it)
        }
        assert len(hashes) == 1

    def test_a_failed_write_leaves_the_old_report(self, tmp_path, monkeypatch):
        path = tmp_path / "report.json"
        report().save(path)

        def fail(source, target):
            raise OSError("disk full")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            report(name="other").save(path)
        assert Report.load(path).name == "movielens"
        assert [one.name for one in tmp_path.iterdir()] == ["report.json"]

    def test_a_report_of_schema_version_1_asks_to_run_evaluate_again(self, tmp_path):
        path = tmp_path / "report.json"
        text = report().to_json()
        path.write_text(text.replace('"schema_version": 2', '"schema_version": 1'))
        with pytest.raises(ReportError, match=r"=1 in .* Run `recdistill evaluate`"):
            Report.load(path)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "[]",
                r"`schema_version` of a report must be 2.*=None in \S+report.json.$",
            ),
            ('{"schema_version": 3}', r"Received: schema_version=3 in \S+.$"),
            ('{"schema_version": 2}', "is not a valid report: .*"),
            ("{", "is not JSON"),
        ],
    )
    def test_a_file_that_is_not_a_report_is_an_error(self, tmp_path, text, message):
        path = tmp_path / "report.json"
        path.write_text(text)
        with pytest.raises(ReportError, match=message):
            Report.load(path)

    def test_unknown_key_and_unknown_model_are_refused(self):
        with pytest.raises(ValidationError, match="gap_open"):
            report(gap_open={})
        with pytest.raises(ValidationError, match="popularity"):
            report(models={"random": model_part(0.1)})

    @pytest.mark.parametrize("candidates", ["all", "full", "sampled", "sampled:0"])
    def test_candidates_have_a_known_name_and_number(self, candidates):
        with pytest.raises(ValidationError, match="candidates"):
            protocol(candidates)

    @pytest.mark.parametrize(
        "candidates", ["catalogue", "listed", "sampled:100", "retrieved:500"]
    )
    def test_candidates_name_the_protocol(self, candidates):
        assert protocol(candidates).candidates == candidates


def protocol(candidates):
    return ProtocolPart(split="test", lists=1, seen="exclude", candidates=candidates)


class TestFrame:
    def test_there_is_one_row_a_model_and_metric(self):
        frame = report().to_frame()
        assert frame.columns.to_list() == [
            "model",
            "metric",
            "value",
            "low",
            "high",
            "reason",
        ]
        assert len(frame) == 4 * 3
        found = frame.set_index(["model", "metric"]).loc[("distilled", "ndcg@10")]
        assert found["value"] == 0.091
        assert (found["low"], found["high"]) == (0.091 - 0.01, 0.091 + 0.016)
        assert found["reason"] is None

    def test_a_missing_number_is_nan_with_its_reason(self):
        lost = ModelPart(metrics={"mrr": Interval(None, reason="no list")})
        row = report(models={"teacher": lost}).to_frame().iloc[0]
        assert math.isnan(row["value"]) and math.isnan(row["low"])
        assert row["reason"] == "no list"

    def test_slices_have_rows_of_their_own(self):
        frame = report().to_frame(slices=True)
        assert frame.iloc[0].to_dict() == {
            "model": "popularity",
            "slice_by": "query",
            "slice": "cold",
            "lists": 3,
            "queries": 2,
            "metric": "mrr",
            "value": 0.051,
            "low": 0.051 - 0.01,
            "high": 0.051 + 0.016,
            "reason": None,
        }
        assert len(frame) == 4

    def test_a_report_without_models_has_no_rows(self):
        frame = report(models={}).to_frame()
        assert len(frame) == 0
        assert frame["value"].dtype == "float64"


def test_soft_targets_are_saved_and_loaded(tmp_path):
    kept = report(soft_targets=SOFT_TARGETS)
    kept.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json").soft_targets == SOFT_TARGETS
    assert kept.metrics_fingerprint() != report().metrics_fingerprint()


def test_the_spread_over_seeds_is_the_standard_deviation_of_a_sample():
    spread = Spread.of([0.1, 0.2, 0.6])
    assert spread.mean == pytest.approx(0.3)
    assert spread.deviation == pytest.approx(((0.04 + 0.01 + 0.09) / 2) ** 0.5)
    assert spread.values == (0.1, 0.2, 0.6)
    assert Spread.of([0.4]).deviation is None
