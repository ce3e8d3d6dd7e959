"""Model card in Markdown: of a run from its report, and of a version of an export.

A card states what was measured, and nothing that was not. A run and its export have the
same card; that of the export also says what is served and how to call it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2

from recdistill.export.layout import MOST_ITEMS, lists_without_length
from recdistill.features.unknown_values import in_words
from recdistill.retrieval.exact import LOWEST
from recdistill.toml_text import as_toml

Document = Mapping[str, Any]

RANKED = ("baseline", "distilled", "teacher")
"""Models that the slices compare."""

LEVEL = 0.05
"""Largest corrected p-value of a difference beyond noise, as `evaluation` has it."""

_RARE = {"tail": "rare items", "new": "items without training data"}
_PARTS = {"valid": "validation lists", "test": "test lists", "items": "items"}


def render_card(manifest: Document) -> str:
    """Renders the model card of a version.

    Args:
        manifest: The version's manifest. The run's report is `metadata["report"]`, in
            the form of `report.json`; it may be missing or incomplete.

    Returns:
        The card in Markdown.
    """
    return _rendered(manifest["metadata"].get("report"), manifest)


def render_run_card(report: Document) -> str:
    """Renders the model card of a run.

    Args:
        report: The content of `report.json`.

    Returns:
        The card in Markdown.
    """
    return _rendered(report, None)


def _rendered(report: Document | None, manifest: Document | None) -> str:
    found = report or {}
    models = found.get("models", {})
    metrics = list(next(iter(models.values()))["metrics"]) if models else []
    gate = found.get("gate") or {}
    query = manifest["schema"]["query"] if manifest else {}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    source = resources.files("recdistill.export").joinpath("model_card.md.jinja")
    card = environment.from_string(source.read_text(encoding="utf-8")).render(
        m=manifest,
        name=manifest["name"] if manifest else found.get("name"),
        own="input" in [feature["kind"] for feature in query.values()],
        report=report,
        metrics=metrics,
        unknown=_unknown(found),
        slices=list(_slices(models, metrics)),
        ranked=[name for name in RANKED if name in models],
        costs=_costs(models, found.get("speedup") or {}),
        machine=_machine(found.get("environment") or {}),
        limits=list(_limits(found, metrics)),
        versions=_versions(found.get("environment") or {}),
        configuration=as_toml(found.get("config_given") or {}),
        gate=gate.get("message") if gate.get("overridden") else None,
        example=json.dumps(_example(manifest), ensure_ascii=False) if manifest else "",
        lowest=LOWEST,
        most_items=max(MOST_ITEMS, manifest["top_k"]) if manifest else MOST_ITEMS,
        interval=_interval,
        tensors=_tensors,
        cell=_cell,
        text=_text,
    )
    return card.rstrip() + "\n"


def _unknown(report: Document) -> dict[str, str]:
    """Features with unknown values, in words, by part of the data."""
    shares = (report.get("dataset") or {}).get("unknown") or {}
    words = {text: in_words(shares.get(part, {})) for part, text in _PARTS.items()}
    return {part: text for part, text in words.items() if text}


def _slices(models: Document, metrics: list[str]) -> Iterator[dict[str, Any]]:
    """Slices of the test lists with the first metric of each model."""
    ranked = [models[name] for name in RANKED if name in models]
    for kind, slices in ((ranked or [{}])[0].get("slices") or {}).items():
        for name, first in slices.items():
            values = [m["slices"][kind][name]["metrics"][metrics[0]] for m in ranked]
            count = first["lists"]
            yield {"kind": kind, "name": name, "lists": count, "values": values}


def _costs(models: Document, speedup: Document) -> dict[str, Any] | None:
    """Rows of the table of costs; None if nothing was measured."""
    names = [n for n in ("teacher", "distilled") if n in models]
    rows: list[tuple[str, list[str]]] = []
    for key, label in (
        ("parameters", "parameters"),
        ("flops_per_query", "floating-point operations per query"),
        ("size_bytes", "size of the weights"),
    ):
        values = [models[name].get(key) for name in names]
        if any(value is not None for value in values):
            rows.append((label, [_amount(value, key) for value in values]))
    timed = [models[name].get("latency_ms") or {} for name in names]
    for size in dict.fromkeys(size for each in timed for size in each):
        label = f"latency, {int(size):,} candidates (median; p99)"
        values = [_latency(each.get(size)) for each in timed]
        rows.append((label, values))
        if size in speedup:
            faster = ["", f"{speedup[size]:.1f}"][: len(names)]
            rows.append((f"times as fast, {int(size):,} candidates", faster))
    return {"models": names, "rows": rows} if timed and any(timed) else None


def _amount(value: int | None, key: str) -> str:
    if value is None:
        return "not measured"
    return f"{value / 2**20:.2f} MiB" if key == "size_bytes" else f"{value:,}"


def _latency(times: Document | None) -> str:
    if times is None:
        return "not measured"
    return f"{times['p50']:.3f} ms; {times['p99']:.3f} ms"


def _machine(environment: Document) -> str:
    if not environment:
        return "an unknown machine"
    cores = environment.get("cores")
    return f"{environment.get('cpu')}, {cores} core{'s' * (cores != 1)}"


def _versions(environment: Document) -> str:
    packages = {"Python": environment.get("python"), **environment.get("packages", {})}
    found = [f"{name} {version}" for name, version in packages.items() if version]
    return ", ".join(found) or "unknown versions"


def _limits(report: Document, metrics: list[str]) -> Iterator[str]:
    """What the measurements do not cover, or where they show a weakness."""
    if not report or not metrics:
        return
    distilled = report["models"].get("distilled", {})
    everywhere = distilled.get("metrics", {}).get(metrics[0])
    for name, words in _RARE.items():
        part = (distilled.get("slices") or {}).get("item", {}).get(name)
        if part is not None and everywhere is not None:
            value, count = _interval(part["metrics"][metrics[0]]), part["lists"]
            yield (
                f"On test lists with {words} ({count:,} list{'s' * (count != 1)}), "
                f"{metrics[0]} is {value}; over all lists it is "
                f"{_interval(everywhere)}."
            )
    yield from _falls((report.get("guard") or {}).get("slices", ()), metrics[0])
    protocol = report["protocol"]
    if protocol["candidates"].startswith("retrieved:"):
        number = protocol["candidates"].partition(":")[2]
        yield (
            f"All models ranked the first {number} items of popularity, the baseline "
            "and the distilled student, as the teacher would in production. A positive "
            "outside these candidates counts as 0 for every model."
        )
    if protocol.get("unreachable"):
        yield (
            f"Test lists without a positive in the catalogue: "
            f"{protocol['unreachable']:,}. They count as 0 for every model."
        )
    if protocol["seen"] == "exclude":
        left = protocol.get("repeats_left_out", 0)
        yield (
            "Items that a query has seen are no candidates"
            + (f"; {left:,} test interactions are left out for that" * bool(left))
            + ". Nothing is known about repeated choices."
        )
    yield from _trainings(report)
    yield (
        "All numbers are about logged choices. The effect on users, and differences "
        "between groups of people that no slice above describes, were not measured."
    )


def _trainings(report: Document) -> Iterator[str]:
    """How often the models were trained."""
    if report.get("seeds"):
        seeds = ", ".join(map(str, report["seeds"]["seeds"]))
        how = (
            f"Baseline and student were trained with the seeds {seeds}, and the best "
            "on validation was evaluated; the teacher was trained once"
        )
    elif "seed" in report:
        how = f"The models were trained once, with seed {report['seed']}"
    else:
        return
    yield (
        f"{how}. The intervals cover the choice of the test queries, and not that of "
        "the seed."
    )


def _falls(slices: Sequence[Document], metric: str) -> Iterator[str]:
    """The slices in which the student is worse than the baseline beyond noise."""
    worse = [
        f"{_text(each['kind'])} {_text(each['name'])}"
        for each in slices
        if each["adjusted_p"] is not None
        and each["adjusted_p"] <= LEVEL
        and each["difference"]["value"] < 0
    ]
    if worse:
        yield (
            f"Worse than the baseline beyond noise ({metric}) in these slices: "
            f"{', '.join(worse)}."
        )


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


def _text(text: str) -> str:
    """Text of the data in one line, without markup."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace("[", "\\[")
    return _cell(plain)


def _cell(text: str) -> str:
    """Text without characters that would end a table's cell."""
    return text.replace("|", "\\|").replace("\n", " ").replace("`", "'")
