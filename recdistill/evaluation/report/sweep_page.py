"""The comparison of `recdistill sweep` as one self-contained page and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from rich.console import Group
from rich.text import Text

from recdistill.evaluation.intervals import Interval
from recdistill.evaluation.report.page_template import page_style, page_template
from recdistill.evaluation.report.search_charts import (
    SizedStudent,
    quality_against_cost,
)
from recdistill.evaluation.report.terminal_tables import (
    BYTES,
    interval_text,
    metric_label,
    number_table,
    number_text,
    setting_text,
    short_number,
)

HOW_TO_READ = (
    "Latency is that of the signature serving_default of each student's own "
    "SavedModel: one query, the top items of the whole catalogue, one thread, in a "
    "fresh process on this machine, without protocol and network. Bytes are those of "
    "all files of the SavedModel, whose item embeddings are stored as float32 unless "
    "bfloat16 or int8 is named; quality is that of the embeddings as they are stored. "
    "In the charts a small circle is a student with rounded embeddings. "
    "A student is on the Pareto front if no other student "
    "is better in quality, median latency and size at once. The knee is the point of "
    "the front from which more quality costs more and more."
)

ON_VALIDATION = (
    "All figures are those of the validation lists, because the student is chosen by "
    "them. The run with the chosen settings evaluates the test lists once, and its "
    "report has the figures to quote."
)

CLOSED = (
    "For a student with a star the teacher does not beat popularity and the baseline "
    "beyond noise, so a run with its settings stops at the gate unless distill.gate is "
    "warn. "
)

_MINUS = "\N{MINUS SIGN}"


def sweep_verdict(found: Mapping[str, Any]) -> str:
    """One sentence on the knee of the front.

    Args:
        found: The document of a sweep, as `recdistill sweep --json` prints it.
    """
    knee = found["students"][found["knee"]]
    best = max(found["students"], key=lambda each: each["quality"]["value"])
    metric = metric_label(found["metric"])
    said = (
        f"The knee is {settings_label(knee)}: {metric} {knee['quality']['value']:.4f} "
        f"on validation, {number_text(knee['measured']['p50'])} ms and "
        f"{short_number(int(knee['measured']['bytes']), BYTES)}"
    )
    if best is knee:
        return f"{said}; no student is better."
    return (
        f"{said}. The best is {settings_label(best)}: {best['quality']['value']:.4f}, "
        f"{number_text(best['measured']['p50'])} ms and "
        f"{short_number(int(best['measured']['bytes']), BYTES)}."
    )


def settings_label(student: Mapping[str, Any]) -> str:
    """The settings of a student without their section, such as "dim 16, int8"."""
    usual = (None, "none", "float32")
    given = ((k, v) for k, v in student["settings"].items() if v not in usual)
    return ", ".join(
        # The names of encoders and of storage types speak for themselves.
        str(value)
        if key in ("student.encoder", "export.storage")
        else f"{key.partition('.')[2]} {setting_text(value)}"
        for key, value in given
    )


def render_sweep(found: Mapping[str, Any]) -> Group:
    """The comparison for the terminal.

    Args:
        found: As for `sweep_verdict`.
    """
    metric = metric_label(found["metric"])
    table = number_table(
        ["student", metric, "baseline", "gain", "p50 ms", "p99 ms", "size", ""],
        wide=False,
    )
    table.columns[0].no_wrap = False
    for place, student in enumerate(found["students"]):
        measured = student["measured"]
        table.add_row(
            settings_label(student),
            f"{student['quality']['value']:.4f}",
            f"{student['baseline']['value']:.4f}",
            _gain(student["gain"]),
            number_text(measured["p50"]),
            number_text(measured["p99"]),
            short_number(int(measured["bytes"]), BYTES),
            mark(found, place),
            style="bold" if place == found["knee"] else "",
        )
    closed = any(not student["gate"] for student in found["students"])
    return Group(
        Text(sweep_verdict(found), style="bold"),
        Text(),
        table,
        Text(),
        Text(
            f"{teacher_sentence(found)}A gain in brackets is within noise. "
            f"{CLOSED if closed else ''}{ON_VALIDATION}"
        ),
        Text(),
    )


def teacher_sentence(found: Mapping[str, Any]) -> str:
    """The teacher's metric; empty if the teacher did not rank what the students did."""
    if found["teacher"] is None:
        return ""
    return f"The teacher has {metric_label(found['metric'])} {found['teacher']:.4f}. "


def mark(found: Mapping[str, Any], place: int) -> str:
    """The place of a student on the front, and a star if the gate would be closed."""
    said = "front" if place in found["front"] else ""
    if place == found["knee"]:
        said = "knee"
    return said if found["students"][place]["gate"] else f"{said} *".lstrip()


def render_sweep_page(found: Mapping[str, Any]) -> str:
    """The comparison as a page.

    Args:
        found: As for `sweep_verdict`.

    Returns:
        The HTML document.
    """
    metric = metric_label(found["metric"])
    # The same student with rounded item embeddings comes after it.
    trained = [_trained(each) for each in found["students"]]
    panels = []
    for quantity, label in (
        ("p50", "median latency in milliseconds"),
        ("bytes", "size of the SavedModel in megabytes"),
    ):
        scale = 1e6 if quantity == "bytes" else 1.0
        students = [
            SizedStudent(
                settings_label(each),
                each["measured"][quantity] / scale,
                as_interval(each["quality"]),
                as_interval(each["baseline"]),
                place in found["front"],
                place == found["knee"],
                trained.index(trained[place]) < place,
            )
            for place, each in enumerate(found["students"])
        ]
        title = f"{metric} on validation"
        panels.append(quality_against_cost(title, students, found["teacher"], label))
    return page_template("sweep_page.html.jinja").render(
        found=found,
        verdict=sweep_verdict(found),
        metric=metric,
        how_to_read=HOW_TO_READ,
        on_validation=ON_VALIDATION,
        teacher=teacher_sentence(found),
        style=Markup(page_style()),
        panels=[Markup(each) for each in panels],
        label=settings_label,
        mark=lambda place: mark(found, place),
        estimate=estimate,
        size=lambda value: short_number(int(value), BYTES),
        short=number_text,
        closed="" if all(each["gate"] for each in found["students"]) else CLOSED,
    )


def _trained(student: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a student that its training depends on."""
    settings = student["settings"].items()
    return {key: value for key, value in settings if key != "export.storage"}


def _gain(part: Mapping[str, Any]) -> str:
    """The gain over the baseline, in brackets if it is within noise."""
    text = f"{part['value']:+.4f}".replace("-", _MINUS)
    return text if as_interval(part).excludes(0.0) else f"({text})"


def as_interval(part: Mapping[str, Any]) -> Interval:
    """The interval of an estimate in a document."""
    low, high = part["ci"] or (None, None)
    return Interval(part["value"], low, high)


def estimate(part: Mapping[str, Any], spec: str) -> str:
    """An estimate with its interval."""
    return interval_text(as_interval(part), spec).replace("-", _MINUS)
