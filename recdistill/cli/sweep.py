"""`recdistill sweep`: compares students of different size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from recdistill.cli.common import (
    AsJson,
    ConfigFile,
    Overrides,
    errors_as_paragraphs,
    load_pipeline,
    print_result,
)
from recdistill.cli.progress_display import Display

if TYPE_CHECKING:
    from recdistill.pipeline.variants.student_sweep import MeasuredStudent


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    summary = "Compare students of different size: quality, latency and bytes."
    app.command("sweep", short_help=summary)(sweep)


def sweep(
    config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """Compares students of different size that are distilled from one teacher.

    Each student is trained beside a baseline with the same settings, exported, and
    timed on its own SavedModel. The table has quality on validation, latency and bytes,
    and marks the Pareto front and its knee. Students that are trained and measured
    already are skipped, so the command can be stopped and run again.

    It writes the page `sweep.html` and the configuration `knee.toml` to
    `runs/NAME/sweep`. By default it compares the widths 8, 16, 32 and 64, and the
    encoders of the history. `[sweep]` of CONFIG can name other settings.

    Examples:

        recdistill sweep pipelines/movielens_100k.toml

        recdistill run runs/movielens_100k/sweep/knee.toml

        recdistill run pipelines/movielens_100k.toml --budget "p99<=2ms"
    """
    with errors_as_paragraphs(), Display(as_json) as display:
        pipeline = load_pipeline(config, overrides, display)
        from recdistill.pipeline.variants.student_sweep import sweep as compare
        from recdistill.pipeline.variants.student_sweep import write_sweep

        result = compare(pipeline, lambda student: display.say(measured_line(student)))
        found = write_sweep(result)
        display.clear()
    from recdistill.evaluation.report.sweep_page import render_sweep

    print_result(found, render_sweep, "knee", as_json)


def measured_line(student: MeasuredStudent) -> str:
    """A measured student in one line."""
    from recdistill.pipeline.config.budget import quantity_text
    from recdistill.pipeline.variants.changed_settings import shown_settings

    quantities = ", ".join(
        quantity_text(name, student.measured[name]) for name in ("p50", "p99", "bytes")
    )
    return (
        f"{shown_settings(student.settings)}: validation {student.quality.value:.4f}, "
        f"baseline {student.baseline.value:.4f}, {quantities}"
    )
