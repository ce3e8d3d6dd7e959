"""`recdistill tune`: searches the settings that are best on validation."""

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
    from recdistill.pipeline.variants.settings_search import Trial


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    summary = "Search the settings that are best on validation."
    app.command("tune", short_help=summary)(tune)


def tune(
    config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """Searches the settings of student and distillation that are best on validation.

    Each trial distils a student with other settings from the prepared data, the teacher
    and the stored scores of one run. The test part is not read. The search can be
    stopped at any moment and goes on where it stopped when the command is run again.

    It writes `best.toml`, which `recdistill run` accepts, and the page `tuning.html` to
    `runs/NAME/tune`. The section `[tune]` of CONFIG has the number of trials, a time
    limit, and what is searched. Needs the extra `tune` (Optuna).

    Examples:

        recdistill tune pipelines/movielens_100k.toml --set tune.timeout=1h

        recdistill run runs/movielens_100k/tune/best.toml
    """
    with errors_as_paragraphs(), Display(as_json) as display:
        pipeline = load_pipeline(config, overrides, display, with_test=False)
        from recdistill.pipeline.variants.settings_search import (
            require_optuna,
            write_search,
        )
        from recdistill.pipeline.variants.settings_search import tune as search

        require_optuna()

        def announce(trial: Trial, best: Trial) -> None:
            display.say(_line(trial, best))

        found = write_search(search(pipeline, announce))
        display.clear()
    from recdistill.evaluation.report.tuning_page import render_tuning

    print_result(found, render_tuning, "best", as_json)


def _line(trial: Trial, best: Trial) -> str:
    """A finished trial in one line."""
    from recdistill.pipeline.variants.changed_settings import shown_settings

    settings = shown_settings(trial.settings)
    if trial.state == "failed":
        return f"trial {trial.number}: {trial.reason} ({settings})"
    value = f"{trial.value:.4f}" if trial.value is not None else "-"
    end = ", stopped early" if trial.state == "pruned" else ""
    if trial.number == best.number:
        end = ", the best so far"
    return f"trial {trial.number}: {value}{end} ({settings})"
