"""The guard: planted losses on slices are found, and noise is not."""

import io

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from recdistill.errors import GuardError
from recdistill.evaluation.guard import enforce, guard_message, guard_slices
from recdistill.evaluation.intervals import compare_slices
from recdistill.evaluation.report.page import render_page
from recdistill.evaluation.report.receipt import render
from tests.evaluation.report.example_reports import report

PLACE = np.arange(400)
SLICES = {
    "item": {"head": PLACE < 300, "tail": PLACE >= 300},
    "country": {"PT": PLACE < 4, "NZ": PLACE >= 397},
}


def table(values):
    ids = pa.array(PLACE, pa.int64())
    queries = pa.array([f"q{each}" for each in PLACE])
    return pa.table({"list_id": ids, "query_id": queries, "ndcg@10": values})


def guarded(distilled, baseline=None, **settings):
    noise = np.random.default_rng(0).uniform(0, 0.8, 400)
    baseline = noise if baseline is None else baseline
    return guard_slices(
        table(baseline),
        table(np.asarray(distilled(baseline), float)),
        SLICES,
        "ndcg@10",
        **({"largest_fall": 0.1} | settings),
    )


def loses_the_tail(values):
    """Better on average: the head gains 0.1, and the tail loses a quarter."""
    return np.where(SLICES["item"]["head"], values + 0.1, values * 0.75)


def test_a_student_that_gains_on_average_and_loses_the_tail_is_found():
    part = guarded(loses_the_tail)
    head, tail, *countries = part.slices
    mean = sum(each.difference.value * each.lists for each in (head, tail)) / 400
    assert mean > 0
    assert (tail.name, tail.lists, tail.queries) == ("tail", 100, 100)
    assert tail.change == pytest.approx(-0.25)
    assert tail.adjusted_p < 0.01
    assert [each.name for each in part.fallen] == ["tail"]
    # NZ lies in the tail and loses as much, but three lists may do so by chance.
    assert countries[1].change == pytest.approx(-0.25)
    assert countries[1].adjusted_p >= 2 / 2**3
    message = guard_message(part)
    assert message.startswith(
        "The distilled student is more than 10% below the baseline, beyond noise, on "
        "1 of 4 slices of the test lists: NDCG@10 of item: tail "
    )
    assert "(-25%, adjusted p < 0.001, 100 lists)." in message


def test_a_fall_within_the_allowed_share_is_not_reported():
    assert guarded(loses_the_tail, largest_fall=0.3).fallen == []
    assert guarded(loses_the_tail, largest_fall=0.2).fallen != []


def test_a_large_fall_within_noise_is_not_reported():
    rng = np.random.default_rng(1)
    part = guarded(lambda values: values + rng.normal(0, 3, 400))
    assert any(each.change < -0.1 for each in part.slices)
    assert part.fallen == []


def test_a_small_slice_alone_never_stops():
    """Even if each of its queries loses everything: five have p = 2 / 2 ** 5."""
    lost = guard_slices(
        table(np.ones(400)),
        table(np.where(PLACE < 5, 0.0, 1.0)),
        {"country": {"PT": PLACE < 5}},
        "ndcg@10",
        largest_fall=0.1,
    )
    assert lost.slices[0].change == -1.0
    assert lost.slices[0].adjusted_p == 2 / 2**5
    assert lost.fallen == []


def test_noise_on_many_slices_rarely_stops_a_run():
    """The corrected level holds for all slices of a run together."""
    stopped = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        members = {str(n): PLACE % 16 == n for n in range(16)}
        part = guard_slices(
            table(rng.uniform(0, 0.5, 400)),
            table(rng.uniform(0, 0.5, 400)),
            {"kind": members},
            "ndcg@10",
            largest_fall=0.0,
        )
        stopped += bool(part.fallen)
    assert stopped <= 2


def test_a_baseline_of_zero_cannot_be_undercut():
    part = guarded(lambda values: values, baseline=np.zeros(400))
    assert all(each.change is None and not each.fallen for each in part.slices)


def test_without_slices_there_is_nothing_to_guard():
    values = table(np.zeros(400))
    part = guard_slices(values, values, {}, "ndcg@10", largest_fall=0.1)
    assert part.slices == ()
    assert enforce(part, "stop") is None


def test_the_intervals_are_those_of_the_slices_of_the_report():
    rng = np.random.default_rng(2)
    models = {n: table(rng.uniform(0, 0.5, 400)) for n in ("baseline", "distilled")}
    part = guard_slices(*models.values(), SLICES, "ndcg@10", largest_fall=0, samples=50)
    gained = compare_slices(
        models, SLICES["item"], {"gain": ("distilled", "baseline")}, samples=50
    )["gain"]
    for each in part.slices[:2]:
        assert each.difference == gained[each.name].metrics["ndcg@10"]
    # As many exchanges as ever, or many slices could never be told from noise.
    assert guarded(loses_the_tail, samples=50).slices[1].adjusted_p < 0.01


def test_the_action_decides_between_an_error_and_a_warning():
    part = guarded(loses_the_tail)
    with pytest.raises(GuardError, match=r"item: tail .* guard.action=warn") as caught:
        enforce(part, "stop")
    assert caught.value.exit_code == 3
    assert enforce(part, "warn").endswith("continues because guard.action is warn.")
    assert enforce(guarded(lambda values: values), "stop") is None


def test_the_receipt_and_the_page_name_the_slices():
    fallen = report(guard=guarded(loses_the_tail))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render(fallen), crop=False)
    text = console.export_text()
    assert "Below the baseline by more than 10%, beyond noise" in text
    (line,) = (line for line in text.splitlines() if "item: tail" in line)
    assert line.split()[2:4] == ["100", f"{fallen.guard.slices[1].baseline:.3f}"]
    assert "-25%" in line
    assert "1 of 4 slices of the test lists is more than 10%" in " ".join(text.split())
    page = render_page(fallen)
    assert "1 of 4 slices has fallen." in page
    assert '<th scope="row">item: tail</th><td data-label="lists">100</td>' in page
    assert ">-25%</td>" in page
    passed = report(guard=guarded(lambda values: values))
    assert "None of 4 slices has fallen." in render_page(passed)


def test_the_guard_survives_the_json_form():
    written = report(guard=guarded(loses_the_tail))
    again = type(written).model_validate_json(written.to_json())
    assert again.guard == written.guard
    assert again.metrics_fingerprint() == written.metrics_fingerprint()
