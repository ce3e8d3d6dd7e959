"""The model card of a version, in Markdown, from its manifest and the run's report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2

from recdistill.retrieval.exact import LOWEST

Document = Mapping[str, Any]


def render_card(manifest: Document) -> str:
    """The card.

    Args:
        manifest: Of the version. The run's report, if there is one, is
            `metadata["report"]`, in the form of `report.json`; parts of it may be left
            out.

    Returns:
        Markdown.
    """
    report = manifest["metadata"].get("report")
    models = report.get("models", {}) if report else {}
    metrics = list(next(iter(models.values()))["metrics"]) if models else []
    gate = (report or {}).get("gate") or {}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    source = resources.files("recdistill.export").joinpath("model_card.md.jinja")
    card = environment.from_string(source.read_text(encoding="utf-8")).render(
        m=manifest,
        report=report,
        metrics=metrics,
        gate=gate.get("message") if gate.get("overridden") else None,
        example=json.dumps(_example(manifest), ensure_ascii=False),
        lowest=LOWEST,
        interval=_interval,
        tensors=_tensors,
        cell=_cell,
    )
    return card.rstrip() + "\n"


def _example(manifest: Document) -> dict[str, Any]:
    """A request of the plain call, with placeholders: real rows are people's."""
    values: dict[str, Any] = {"string": "…", "int32": 1}
    row = {}
    for name, tensor in manifest["signatures"]["serving_default"]["inputs"].items():
        value = values.get(tensor["dtype"], 0.0)
        for size in reversed(tensor["shape"][1:]):
            value = [value] * (size or 1)
        row[name] = value
    return {"instances": [row]}


def _tensors(tensors: Document) -> str:
    """Names, types and shapes, for a cell of a table."""

    def shape(sizes: list[int | None]) -> str:
        # Behind the batch, one letter for any width.
        return ", ".join(["batch", *("n" if s is None else str(s) for s in sizes[1:])])

    return ", ".join(
        f"`{_cell(name)}` {tensor['dtype']} ({shape(tensor['shape'])})"
        for name, tensor in tensors.items()
    )


def _interval(estimate: Document | None, percent: bool = False) -> str:
    """`0.2500 (0.2400 to 0.2600)`, or why there is no number."""
    if estimate is None or estimate["value"] is None:
        return (estimate or {}).get("reason") or "not known"
    form = "{:.0%}" if percent else "{:.4f}"
    text = form.format(estimate["value"])
    low, high = estimate.get("ci") or (None, None)
    if low is None or high is None:
        return text
    return f"{text} ({form.format(low)} to {form.format(high)})"


def _cell(text: str) -> str:
    """Text that cannot end a table's cell."""
    return text.replace("|", "\\|").replace("\n", " ").replace("`", "'")
