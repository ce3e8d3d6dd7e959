"""The page and the table of a sweep, from documents written by hand."""

import copy

from rich.console import Console

from recdistill.evaluation.report.sweep_page import (
    ON_VALIDATION,
    render_sweep,
    render_sweep_page,
    sweep_verdict,
)


def student(dim, quality, p50, size, gain, gate=True):
    return {
        "settings": {
            "student.dim": dim,
            "student.encoder": "attention" if dim == 64 else None,
            "export.storage": "bfloat16" if dim == 64 else "float32",
        },
        "quality": {"value": quality, "ci": [quality - 0.01, quality + 0.01]},
        "baseline": {"value": 0.07, "ci": [0.06, 0.08]},
        "gain": gain,
        "parameters": 1_000 * dim,
        "measured": {"p50": p50, "p90": 1.0, "p95": 1.5, "p99": 2.5, "n": 1234}
        | {"bytes": size},
        "gate": gate,
    }


FOUND = {
    "name": "films",
    "metric": "ndcg@10",
    "lists": 1_234,
    "teacher": 0.1,
    "knee": 0,
    "front": [0, 1],
    "students": [
        student(8, 0.08, 0.2, 500_000, {"value": 0.01, "ci": [0.001, 0.02]}),
        student(
            64, 0.09, 0.4, 2_000_000, {"value": -0.01, "ci": [-0.02, 0.01]}, gate=False
        ),
    ],
    "environment": {"cpu": "a <fast> one", "cores": 2},
    "files": {"knee": "runs/films/sweep/knee.toml", "page": "p", "document": "d"},
}


def test_one_sentence_names_the_knee_and_the_best():
    assert sweep_verdict(FOUND) == (
        "The knee is dim 8: NDCG@10 0.0800 on validation, 0.2 ms and 500 kB. The best "
        "is dim 64, attention, bfloat16: 0.0900, 0.4 ms and 2 MB."
    )
    assert sweep_verdict(copy.deepcopy(FOUND) | {"knee": 1}) == (
        "The knee is dim 64, attention, bfloat16: NDCG@10 0.0900 on validation, 0.4 ms "
        "and 2 MB; no student is better."
    )


def test_the_table_fits_80_columns_and_marks_the_front():
    console = Console(width=80)
    with console.capture() as shown:
        console.print(render_sweep(FOUND))
    lines = shown.get().splitlines()
    assert max(map(len, lines)) <= 80
    found = [" ".join(line.split()) for line in lines if line.startswith("dim")]
    assert found[-2:] == [
        "dim 8 0.0800 0.0700 +0.0100 0.2 2.5 500 kB knee",
        "dim 64, attention, 0.0900 0.0700 (\N{MINUS SIGN}0.0100) 0.4 2.5 2 MB front *",
    ]
    assert any(line.strip() == "bfloat16" for line in lines)
    assert "A gain in brackets is within noise." in " ".join(" ".join(lines).split())


def test_the_page_says_that_the_student_is_chosen_on_validation():
    page = render_sweep_page(FOUND)
    assert ON_VALIDATION in page
    assert page.count("<svg") == 2
    assert "a &lt;fast&gt; one" in page
    assert "For a student with a star the teacher does not beat" in page
    assert "The teacher has NDCG@10 0.1000." in page


def test_a_teacher_that_ranked_other_candidates_has_no_figure():
    page = render_sweep_page({**FOUND, "teacher": None})
    assert "The teacher has" not in page
    assert page.count("<svg") == 2
