"""Receipt: what the terminal shows of a report."""

import io
import re

import pytest
from rich.console import Console

from recdistill.evaluation.intervals import Interval, Slice
from recdistill.evaluation.report.page import render_page
from recdistill.evaluation.report.receipt import render, verdict
from recdistill.evaluation.report.run_report import (
    ModelPart,
    SeedsPart,
    Spread,
)
from recdistill.evaluation.report.training_parts import TeacherPart
from tests.evaluation.report.example_reports import (
    NO_GAP,
    SOFT_TARGETS,
    model_part,
    report,
)


def shown(one, width, **settings):
    screen = io.StringIO()
    Console(file=screen, width=width, force_terminal=False).print(
        render(one, **settings)
    )
    return screen.getvalue()


FASTER = "; the student ranks 1,000 candidates 96 times as fast as the teacher."
BETTER, SAME, WORSE = (
    Interval(0.02, 0.01, 0.03),
    Interval(0.0, -0.01, 0.01),
    Interval(-0.02, -0.03, -0.01),
)


def judged(gap, gained, **changes):
    """The verdict on a teacher and a student that differ so from the baseline."""
    pairs = {"teacher_minus_baseline": gap, "distilled_minus_baseline": gained}
    differences = {name: {"ndcg@10": one} for name, one in pairs.items()}
    return verdict(report(differences=differences, **changes), "ndcg@10")


class TestVerdict:
    def test_a_significant_gain_is_reported_with_its_interval(self):
        assert verdict(report(), "ndcg@10") == (
            "By NDCG@10, distillation closed 48% [21%, 71%] of the gap to the teacher"
            + FASTER
        )

    def test_a_gain_without_a_gap_gives_the_reason(self):
        assert verdict(report(), "mrr") == (
            "By MRR, distillation helped; the gap closed is not defined: "
            f"{NO_GAP}{FASTER}"
        )

    @pytest.mark.parametrize(
        ("gap", "gained", "words"),
        [
            (BETTER, SAME, "distillation changed nothing beyond noise"),
            (BETTER, WORSE, "distillation made the student worse than the baseline"),
            (
                SAME,
                SAME,
                "teacher and baseline do not differ beyond noise, so there is nothing "
                "to distil; distillation changed nothing beyond noise",
            ),
            (
                SAME,
                WORSE,
                "teacher and baseline do not differ beyond noise, so there is nothing "
                "to distil; distillation made the student worse than the baseline",
            ),
            (
                WORSE,
                BETTER,
                "the teacher is worse than the baseline; distillation made the student "
                "better than the baseline",
            ),
        ],
    )
    def test_each_state_has_its_sentence(self, gap, gained, words):
        assert judged(gap, gained) == f"By NDCG@10, {words}{FASTER}"

    @pytest.mark.parametrize(
        "gained", [Interval(0.02, reason="one query"), Interval(None, reason="no list")]
    )
    def test_without_an_interval_nothing_is_claimed(self, gained):
        assert "cannot tell whether" in judged(BETTER, gained)
        assert "cannot tell whether" in verdict(report(), "map@10")

    def test_it_says_that_latency_was_not_measured(self):
        models = {"distilled": model_part(0.1)}
        found = judged(BETTER, SAME, speedup={}, models=models)
        assert found.endswith("beyond noise; latency was not measured.")
        student_only = {"distilled": model_part(0.1, p50=0.4)}
        found = judged(BETTER, SAME, speedup={}, models=student_only)
        assert found.endswith("noise; the teacher's latency was not measured.")

    def test_a_slower_student_is_called_slower(self):
        found = judged(BETTER, SAME, speedup={"100": 3.0, "20": 9.0, "2000": 0.5})
        assert found.endswith(
            "ranks 2,000 candidates 0.5 times as fast as the teacher."
        )

    def test_it_names_the_training_that_diverged(self):
        models = report().models
        late = models["distilled"].model_copy(update={"diverged": (0.1, 0.3)})
        found = judged(BETTER, SAME, models={**models, "distilled": late})
        assert found.endswith(
            "training of the student diverged with learning rate 0.1 and 0.3."
        )


class TestReceipt:
    @pytest.mark.parametrize("width", [80, 120])
    def test_it_fits_the_width_without_cutting_numbers(self, width):
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

    def test_the_measured_latencies_have_columns(self):
        one = report().models["teacher"].latency_ms["100"]
        for sizes in (["20"], ["7", "50", "4000"], []):
            latencies = {"latency_ms": dict.fromkeys(sizes, one)}
            models = {
                name: part.model_copy(update=latencies)
                for name, part in report().models.items()
            }
            lines = shown(report(models=models), 120).splitlines()
            [above] = [k for k, line in enumerate(lines) if "meters" in line]
            assert lines[above - 1].count("ms for") == min(len(sizes), 2)
            ends = [f"{int(n):,}" for n in dict.fromkeys([*sizes[:1], *sizes[-1:]])]
            assert lines[above].split()[-len(ends) :] == ends or not ends

    @pytest.mark.parametrize("width", [80, 120])
    def test_intervals_of_differences_are_shown_at_every_width(self, width):
        assert "[+0.004, +0.032]" in shown(report(), width)

    def test_it_shows_reasons_artefacts_and_next_commands(self):
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
            "7 without a positive in the catalogue count 0",
            "runs/one/export/1",
            "recdistill serve runs/one",
        ):
            assert words in text

    def test_text_in_brackets_is_not_markup(self):
        text = shown(report(), 80, next_steps=["pip install 'recdistill[ray]'"])
        assert "recdistill[ray]" in text

    def test_a_report_with_few_parts_is_shown(self):
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

    def test_a_gap_closed_above_100_percent_is_explained(self):
        over = report(gap_closed={"ndcg@10": Interval(1.2, 0.7, 1.6)})
        note = "is within noise here: the interval includes 100 %"
        assert note in " ".join(shown(over, 80).split())
        beyond = report(gap_closed={"ndcg@10": Interval(1.2, 1.1, 1.6)})
        assert "within noise" not in shown(beyond, 80)
        assert "within noise" not in shown(report(gap_closed={}), 80)

    def test_a_gap_closed_without_an_interval_has_the_reason(self):
        why = "the estimate is undefined for some resamples"
        loose = report(gap_closed={"ndcg@10": Interval(1.55, reason=why)})
        assert f"no interval: {why}" in " ".join(shown(loose, 80).split())
        assert f"of the gap in NDCG@10 closed, no interval: {why}" in render_page(loose)

    def test_numbers_from_1000_on_have_separators_and_no_exponent(self):
        parts = report().models
        many = {"popularity": Interval(12_345.6, 12_000.0, 13_000.0)}
        models = {
            name: model_part(0.1, p50=2_345.6).model_copy(
                update={"beyond_accuracy": many}
            )
            for name in parts
        }
        slow = report(models=models, speedup={"1000": 23_456.7})
        text = shown(slow, 120)
        assert "popularity 12,346 (teacher 12,346)" in text
        assert "23,457 times at 1,000 candidates" in text
        page = render_page(slow)
        for words in (">2,346 ms<", "median 2,346 ms", ">12,346<"):
            assert words in page
        assert not re.search(r"\de[+]\d", text + page)

    @pytest.mark.parametrize(
        ("candidates", "seen", "words"),
        [
            ("catalogue", "exclude", "full catalogue · seen items excluded"),
            ("listed", "include", "candidates of each list · seen items included"),
            ("sampled:100", "exclude", "100 sampled candidates"),
            ("sampled:1000", "exclude", "1,000 sampled candidates, not the full cat"),
            (
                "sampled:1682",
                "exclude",
                "sampled candidates, which are all 1,682 items",
            ),
            ("retrieved:500", "exclude", "the top 500 of each retriever, not the full"),
        ],
    )
    def test_the_protocol_is_written_above_the_numbers(self, candidates, seen, words):
        part = report().protocol.model_copy(
            update={"candidates": candidates, "seen": seen}
        )
        assert words in shown(report(protocol=part), 80)

    def test_a_sample_of_the_test_lists_is_named(self):
        part = report().protocol.model_copy(
            update={"lists": 1_000, "sampled_from": 54_321}
        )
        assert "a sample of 1,000 of 54,321 lists" in shown(report(protocol=part), 80)
        assert "a sample of 1,000 of 54,321 lists" in render_page(report(protocol=part))
        assert "a sample of" not in shown(report(), 80)

    def test_the_undistilled_student_is_called_baseline(self):
        text = shown(report(), 80)
        assert "- baseline" in text
        assert "alone" not in text


def test_the_receipt_shows_the_shares_of_unknown_values():
    unknown = {"test": {"history": 0.031, "club": 0.0}, "items": {"item_id": 0.25}}
    dataset = report().dataset.model_copy(update={"unknown": unknown})
    said = " ".join(shown(report(dataset=dataset), 80).split())
    assert "Unknown values test history 3.1 % · items item_id 25.0 %" in said
    assert "Unknown values" not in shown(report(), 80)


def test_the_receipt_shows_the_quality_on_items_without_training_interactions():
    parts = report().models
    new = Slice(12, 9, {"ndcg@10": Interval(0.0312, 0.01, 0.05)})
    for name in ("distilled", "teacher"):
        parts[name] = parts[name].model_copy(update={"slices": {"item": {"new": new}}})
    said = " ".join(shown(report(models=parts), 80).split())
    assert (
        "New items NDCG@10 of the 12 lists whose item has no training interactions: "
        "distilled 0.031, teacher 0.031" in said
    )
    assert "New items" not in shown(report(), 80)
    one = Slice(1, 1, new.metrics)
    parts["teacher"] = parts["teacher"].model_copy(
        update={"slices": {"item": {"new": one}}}
    )
    said = " ".join(shown(report(models=parts), 80).split())
    assert "of the 1 list whose item" in said


def test_the_receipt_has_mean_and_standard_deviation_over_seeds():
    part = SeedsPart(
        seeds=(1, 2, 3),
        models={
            "baseline": {"ndcg@10": Spread.of([0.08, 0.09, 0.10])},
            "distilled": {"ndcg@10": Spread.of([0.1, 0.1, 0.1])},
        },
        gap_closed={"ndcg@10": Spread.of([0.5, 1.0, 1.5])},
    )
    said = " ".join(shown(report(seeds=part), 80).split())
    assert (
        "NDCG@10, mean ± standard deviation over 3 seeds: baseline 0.0900 ± 0.0100, "
        "distilled 0.1000 ± 0.0000, gap closed 100% ± 50%" in said
    )


def test_the_receipt_names_the_members_of_the_teacher_and_what_each_adds():
    def member(kind, weight, without):
        return {"kind": kind, "weight": weight, "valid": 0.05, "valid_without": without}

    members = [
        member("linear", 0.3, 0.09),
        member("reference", 0.0, None),
        member("sequence", 0.7, 0.075),
    ]
    part = TeacherPart(kind="automatic", valid=0.1, members=members)
    said = " ".join(shown(report(teacher=part), 80).split())
    assert (
        "Teacher automatic, 0.1000 on validation: linear (weight 0.30, adds 0.0100), "
        "sequence (weight 0.70, adds 0.0250); left out: reference" in said
    )
    alone = TeacherPart(kind="linear", valid=0.1, sampled_candidates=True)
    said = " ".join(shown(report(teacher=alone), 80).split())
    assert "Teacher linear, 0.1000 on validation among sampled candidates" in said


def test_the_receipt_describes_the_soft_targets():
    said = " ".join(shown(report(soft_targets=SOFT_TARGETS), 80).split())
    shares = "about 98.7 of 1,568 candidates have weight"
    assert (
        "Soft targets log, teacher temperature 0.39 (chosen by the score doctor): "
        f"{shares}" in said
    )
    other = SOFT_TARGETS.model_copy(
        update={"temperature": 2.0, "effective": None, "chosen_by": "configuration"}
    )
    lines = shown(report(soft_targets=other), 80).splitlines()
    line = "Soft targets  log, teacher temperature 0.39, temperature 2"
    assert line in [line.rstrip() for line in lines]
