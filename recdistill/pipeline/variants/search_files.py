"""Files of a search: its document, its page, and the best settings."""

from __future__ import annotations

from typing import Any

from recdistill.evaluation.report.tuning_page import render_tuning_page, tuning_verdict
from recdistill.pipeline.config.search_space import Choices, Range
from recdistill.pipeline.variants.changed_settings import write_config, write_result
from recdistill.pipeline.variants.settings_search import TuningResult


def write_search(result: TuningResult) -> dict[str, Any]:
    """Writes `tuning.json`, `tuning.html` and `best.toml` into the search's folder.

    Args:
        result: The result of a search.

    Returns:
        The document of the search, which is also in `tuning.json`.
    """
    files = {
        "best": result.folder / "best.toml",
        "page": result.folder / "tuning.html",
        "document": result.folder / "tuning.json",
    }
    gain = result.gain
    search = {
        "name": result.config.name.removesuffix("_tuned"),
        "metric": result.metric,
        "lists": result.lists,
        "best": result.best.number,
        "configured": result.configured and result.configured.number,
        "gain": gain.to_json() if gain and gain.value is not None else None,
        "importances": result.importances,
        "space": {key: _allowed(each) for key, each in result.space.items()},
        "trials": [vars(trial) for trial in result.trials],
        "wanted": result.wanted,
        "files": {name: str(path) for name, path in files.items()},
    }
    comment = f"{tuning_verdict(search)} Written by `recdistill tune`."
    write_config(result.config, files["best"], comment)
    write_result(files, render_tuning_page(search), search)
    return search


def _allowed(each: Choices | Range) -> dict[str, Any]:
    if isinstance(each, Choices):
        return {"choices": list(each.values)}
    scale = "log" if each.is_logarithmic else "linear"
    return {"low": each.low, "high": each.high, "scale": scale}
