"""The search of `recdistill tune` as one self-contained HTML page and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from rich.console import Group
from rich.table import Table
from rich.text import Text

from recdistill.evaluation.report.page_template import page_style, page_template
from recdistill.evaluation.report.search_charts import (
    importance_bars,
    trial_history,
    values_by_setting,
)
from recdistill.evaluation.report.terminal_tables import (
    MISSING,
    metric_label,
    number_table,
    pair_table,
    setting_text,
)

SHOWN = 15
"""Number of trials in the table of the terminal."""

OPTIMISM = (
    "The best of many trials is also the luckiest one: its value on validation, and "
    "the difference from the configured settings, overestimate its quality. "
    "The test part was not read. A run with the best settings reads it once, and its "
    "report has the figures to quote."
)

IMPORTANCE = (
    "How much the settings of the best quarter of the trials differ from those of all "
    "complete trials (PED-ANOVA), as shares of the total. With few trials the shares "
    "are rough."
)

_MINUS = "\N{MINUS SIGN}"


def tuning_verdict(search: Mapping[str, Any]) -> str:
    """One sentence on the best trial.

    Args:
        search: The document of a search, as `recdistill tune --json` prints it.
    """
    best, metric = _trial(search, search["best"]), metric_label(search["metric"])
    start = (
        f"Trial {best['number']} of {len(search['trials'])} is the best: {metric} "
        f"{best['value']:.4f} on {search['lists']:,} validation lists"
    )
    if search["configured"] is None:
        return f"{start}."
    if search["configured"] == search["best"]:
        return f"{start}. These are the configured settings."
    before = _trial(search, search["configured"])["value"]
    gain = search["gain"]
    ends = "" if not gain or not gain["ci"] else f" {_ends(gain['ci'])}"
    difference = f"{best['value'] - before:+.4f}".replace("-", _MINUS)
    return f"{start}; the configured settings have {before:.4f} ({difference}{ends})."


def render_tuning(search: Mapping[str, Any]) -> Group:
    """The search for the terminal.

    Args:
        search: As for `tuning_verdict`.
    """
    found = sorted(search["trials"], key=_order)
    keys = list(search["space"])
    headings = [key.partition(".")[2].replace("_", "\n") for key in keys]
    table = number_table(
        ["trial", metric_label(search["metric"]), *headings, "state"], wide=False
    )
    for trial in found[:SHOWN]:
        table.add_row(
            str(trial["number"]),
            _value(trial),
            *(setting_text(trial["settings"].get(key)) for key in keys),
            _state(search, trial),
            style="bold" if trial["number"] == search["best"] else "",
        )
    parts: list[Text | Table] = [
        Text(tuning_verdict(search), style="bold"),
        Text(),
        table,
    ]
    if len(found) > SHOWN:
        parts.append(Text(f"and {len(found) - SHOWN:,} more trials", style="dim"))
    if search["importances"]:
        shares = {k: f"{share:.0%}" for k, share in search["importances"].items()}
        parts += [Text(), Text("Importance of the settings"), pair_table(shares)]
    return Group(*parts, Text(), Text(OPTIMISM), Text())


def render_tuning_page(search: Mapping[str, Any]) -> str:
    """The search as a page.

    Args:
        search: As for `tuning_verdict`.

    Returns:
        The HTML document.
    """
    metric = metric_label(search["metric"])
    trials = [each for each in search["trials"] if each["value"] is not None]
    numbers = [each["number"] for each in trials]
    values = [each["value"] for each in trials]
    stopped = [each["state"] != "complete" for each in trials]
    importances = search["importances"]
    keys = list(importances) or list(search["space"])
    return page_template("tuning_page.html.jinja").render(
        search=search,
        verdict=tuning_verdict(search),
        metric=metric,
        optimism=OPTIMISM,
        importance=IMPORTANCE,
        style=Markup(page_style()),
        keys=list(search["space"]),
        trials=sorted(search["trials"], key=_order),
        best=_trial(search, search["best"]),
        configured=None
        if search["configured"] is None
        else _trial(search, search["configured"]),
        state=lambda trial: _state(search, trial),
        value=_value,
        shown=setting_text,
        history=Markup(trial_history(numbers, values, stopped, metric)),
        bars=Markup(importance_bars("Importance", importances) if importances else ""),
        settings=[
            Markup(_panel(key, search["space"][key], trials, values, stopped))
            for key in keys
        ],
    )


def _panel(
    key: str,
    allowed: Mapping[str, Any],
    trials: Sequence[Mapping[str, Any]],
    values: Sequence[float],
    stopped: Sequence[bool],
) -> str:
    settings = [trial["settings"].get(key) for trial in trials]
    if "choices" in allowed:
        names = [setting_text(choice) for choice in allowed["choices"]]
        chosen = [setting_text(each) for each in settings]
        return values_by_setting(key, chosen, values, stopped, order=names)
    logarithmic = allowed["scale"] == "log"
    return values_by_setting(key, settings, values, stopped, log_x=logarithmic)


def _trial(search: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    found: Mapping[str, Any] = search["trials"][number - 1]
    return found


def _order(trial: Mapping[str, Any]) -> tuple[bool, float]:
    """Complete trials before the others, each by their value."""
    return trial["state"] != "complete", -(trial["value"] or 0.0)


def _value(trial: Mapping[str, Any]) -> str:
    return MISSING if trial["value"] is None else f"{trial['value']:.4f}"


def _state(search: Mapping[str, Any], trial: Mapping[str, Any]) -> str:
    if trial["state"] == "pruned":
        return "stopped"
    if trial["number"] == search["best"]:
        return "best"
    return "configured" if trial["number"] == search["configured"] else trial["state"]


def _ends(ci: Sequence[float]) -> str:
    low, high = (f"{end:+.4f}".replace("-", _MINUS) for end in ci)
    return f"[{low}, {high}]"
