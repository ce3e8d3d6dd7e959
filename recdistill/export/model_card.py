"""Model card of a version in Markdown, from its manifest and the run's report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2

from recdistill.export.layout import lists_without_length
from recdistill.retrieval.exact import LOWEST

Document = Mapping[str, Any]


def render_card(manifest: Document) -> str:
    """Renders the model card of a version.

    Args:
        manifest: The version's manifest. The run's report is `metadata["report"]`, in
            the form of `report.json`; it may be missing or incomplete.

    Returns:
        The card in Markdown.
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
    """Request to `serving_default` with placeholders; real rows are personal data."""
    row = {}
    inputs = manifest["signatures"]["serving_default"]["inputs"]
    led = lists_without_length({name: info["shape"] for name, info in inputs.items()})
    for name, tensor in inputs.items():
        dtype = tensor["dtype"]
        value: Any = "…" if dtype == "string" else 1 if "int" in dtype else 0.0
        for size in reversed(tensor["shape"][1:]):
            value = [value] * (size or 1)
        if name in led:
            value = ["" if dtype == "string" else 0, *value]
        row[name] = value
    return {"instances": [row]}


def _tensors(tensors: Document) -> str:
    """Names, dtypes and shapes of tensors, for a cell of a table."""

    def shape(sizes: list[int | None]) -> str:
        # After the batch axis, `n` means any width.
        return ", ".join(["batch", *("n" if s is None else str(s) for s in sizes[1:])])

    return ", ".join(
        f"`{_cell(name)}` {tensor['dtype']} ({shape(tensor['shape'])})"
        for name, tensor in tensors.items()
    )


def _interval(estimate: Document | None, percent: bool = False) -> str:
    """Text such as `0.2500 (0.2400 to 0.2600)`, or the reason for a missing number."""
    if estimate is None or estimate["value"] is None:
        return (estimate or {}).get("reason") or "not known"
    form = "{:.0%}" if percent else "{:.4f}"
    text = form.format(estimate["value"])
    low, high = estimate.get("ci") or (None, None)
    if low is None or high is None:
        return text
    return f"{text} ({form.format(low)} to {form.format(high)})"


def _cell(text: str) -> str:
    """Text without characters that would end a table's cell."""
    return text.replace("|", "\\|").replace("\n", " ").replace("`", "'")
