"""The configuration of a proposal: a commented TOML file, checked against the data."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from recdistill.data import read_frames
from recdistill.data.dataset import Columns
from recdistill.errors import DataError
from recdistill.features.specs import raw_values
from recdistill.pipeline.config import Config, parse_config
from recdistill.pipeline.preparation.dataset_loading import reading_options
from recdistill.pipeline.preparation.feature_columns import FeatureColumns
from recdistill.pipeline.preparation.repeats import INCLUDE_FROM
from recdistill.pipeline.proposal.proposal import Proposal
from recdistill.pipeline.proposal.roles import Roles
from recdistill.pipeline.proposal.source_tables import SourceTable, shown_path
from recdistill.toml_text import toml_value

_WIDTH = 88


def config_name(name: str) -> str:
    """Name of a run made from the name of a folder.

    Example:
        >>> config_name("2024 shop logs"), config_name("ml-100k")
        ('data_2024_shop_logs', 'ml-100k')
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.-")
    return plain if plain[:1].isalpha() else f"data_{plain}".rstrip("_")


def config_text(proposal: Proposal, name: str, file: Path) -> str:
    """The configuration file of a proposal.

    Args:
        proposal: A proposal without open questions.
        name: Name of the run.
        file: The file that will hold the text.
    """
    parts = [
        _head(proposal, name, file),
        _dataset(proposal),
        _features(proposal, "query"),
        _features(proposal, "candidate"),
        _split(proposal),
        _teacher(proposal),
        _GATE,
    ]
    return "\n".join(part for part in parts if part)


def check_config(proposal: Proposal, text: str) -> Config:
    """Checks the configuration file with the readers of the pipeline.

    The sampled rows are read with the roles, the conditions and the kinds of features
    of the file.

    Returns:
        The configuration.

    Raises:
        DataError: If the rows cannot be used as proposed.
    """
    config = parse_config(tomllib.loads(text))
    listwise = config.dataset.reader == "listwise"
    tables = {
        "lists" if listwise and name == "interactions" else name: table.sample.rows
        for name, table in proposal.tables.items()
    }
    roles = {str(role): name for role, name in config.dataset.columns.items()}
    columns = Columns.of(roles)
    if config.split.by == "leave_random_out":
        columns = Columns.of({**roles, "time": None})  # type: ignore[dict-item]
    try:
        dataset = read_frames(tables, columns, options=reading_options(config))
        for _ in dataset.interactions():
            pass
        features = FeatureColumns.find(dataset, config)
        for feature in (*features.query, *features.candidate):
            table = {"items": dataset.items, "queries": dataset.queries}.get(
                feature.table, proposal.known().table.sample.rows
            )
            if table is not None and feature.column in table.column_names:
                raw_values(
                    table[feature.column],
                    feature.spec,
                    table=feature.table,
                    name=feature.column,
                )
    except DataError as error:
        raise DataError(f"The data cannot be used as proposed. {error}") from error
    return config


def _head(proposal: Proposal, name: str, file: Path) -> str:
    counted = "; ".join(_counted(table) for table in proposal.tables.values())
    lines = [
        *_comment(f"Proposed by `recdistill init` from the data: {counted}."),
        "# Check the reasons beside the keys. docs/configuration.md has all keys.",
        "#",
        f"#   recdistill run {shown_path(file)}",
        "",
        f"name = {toml_value(name)}",
    ]
    return "\n".join(lines) + "\n"


def _counted(table: SourceTable) -> str:
    about = "about " if table.sample.estimated else ""
    return f"{table.name} with {about}{table.sample.count:,} rows"


def _dataset(proposal: Proposal) -> str:
    roles, source = proposal.known(), proposal.source
    listwise = "list" in roles.columns
    reader = "listwise" if listwise else source.reader
    defaults = {"query": "user_id", "item": "item_id", "time": "timestamp"}
    if listwise:
        defaults |= {"list": "list_id", "relevance": "relevance"}
    columns = {r: c for r, c in roles.columns.items() if defaults.get(r) != c}
    lines = ["[dataset]", f"reader = {toml_value(reader)}"]
    lines.append(f"path = {toml_value(shown_path(source.path))}")
    for column in columns.values():
        lines += _comment(f"{column}: {roles.reasons[column]}.")
    if columns:
        lines.append(f"columns = {toml_value(columns)}")
    if roles.time_format is not None:
        lines.append(f"time_format = {toml_value(roles.time_format)}")
    lines += _keep(roles, set(columns.values()))
    if source.reader == "tables":
        for key, table in proposal.tables.items():
            known = "lists" if listwise and key == "interactions" else key
            options = _table_options(known, table) | _types(proposal, key)
            types = options.get("types", {}).values()
            if "integer" in types:
                lines.append("# The tables write the same ids in different ways.")
            if "decimal_comma" in types:
                lines.append("# Numbers such as 12,99 and 1.250,00.")
            if options:
                lines.append(f"{known} = {toml_value(options)}")
    return "\n".join(lines) + "\n"


def _keep(roles: Roles, explained: Collection[str]) -> Iterator[str]:
    """The condition on the rows, and another one that the user may prefer."""
    if roles.keep:
        for column, reason in roles.reasons.items():
            if column in roles.kept_by and column not in explained:
                yield from _comment(f"{column}: {reason}.")
        yield f"keep = {toml_value(' and '.join(roles.keep))}"
    if roles.alternative is not None:
        yield from _comment("Every kind of event counts. To rank for one kind only:")
        yield f"# keep = {toml_value(' and '.join([*roles.keep, roles.alternative]))}"


def _table_options(key: str, table: SourceTable) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if table.name != key and table.stem != key:
        options["file"] = table.name
    if table.sample.names:
        options["columns"] = list(table.sample.names)
    return options


def _types(proposal: Proposal, table: str) -> dict[str, Any]:
    types = proposal.types.get(table)
    return {"types": types} if types else {}


def _features(proposal: Proposal, side: str) -> str:
    features = proposal.query if side == "query" else proposal.candidate
    what = (
        "# What is known about a query when a request arrives."
        if side == "query"
        else "# What is known about an item."
    )
    lines = [what, f"[{side}]"]
    reasons = {
        (use.table, use.profile.name): use.reason for use in proposal.uses if use.use
    }
    item = proposal.known().columns["item"]
    for name, keys in features.items():
        column = str(keys.get("column", name))
        reason = next((r for (_, c), r in reasons.items() if c == column), "")
        if keys["kind"] == "history":
            reason = "the items of the query's earlier interactions"
        elif side == "candidate" and column == item:
            reason = "the item id"
        line = f"{name} = {toml_value(keys)}"
        lines += _with_comment(line, reason)
    lines += _left_out(proposal, side)
    return "\n".join(lines) + "\n"


def _left_out(proposal: Proposal, side: str) -> Iterator[str]:
    items = proposal.tables.get("items")
    events = proposal.known().reasons
    uses = [
        use
        for use in proposal.uses
        if not use.use
        and (items is not None and use.table == items.name) == (side == "candidate")
        and not (side == "query" and use.profile.name in events)
    ]
    if uses:
        yield "# Left out:"
    grouped: dict[str, list[str]] = {}
    for use in uses:
        column = use.profile.name or "(without a name)"
        grouped.setdefault(use.reason.rstrip("."), []).append(column)
    for reason, columns in grouped.items():
        yield from _comment(f"{', '.join(columns)}: {reason}.", "  ")


def _split(proposal: Proposal) -> str:
    if "time" not in proposal.known().columns:
        return (
            "[split]\n"
            "# The data has no times, so one interaction of each query is held out at "
            "random.\n"
            'by = "leave_random_out"\n'
        )
    if not proposal.by_query:
        sample = "" if proposal.known().table.sample.complete else " in the sample"
        return (
            "[split]\n"
            f"# Queries have fewer than three interactions{sample}, so the latest of "
            "all\n# interactions are held out.\n"
            'by = "global_time"\n'
        )
    return ""


def _teacher(proposal: Proposal) -> str:
    columns = proposal.known().columns
    if "score" in columns:
        return '# The teacher\'s scores are in the data.\n[teacher]\nkind = "scores"\n'
    kind, what, why = "reference", "The built-in ranker", ""
    if not proposal.history:
        why = "No query has a history, which the linear model needs."
    elif "list" in columns:
        why = (
            "It reads all features; the linear model reads the history only, and does "
            "not learn from items that were shown and not chosen."
        )
    elif proposal.repeats >= INCLUDE_FROM:
        why = (
            f"{proposal.repeats:.0%} of the later interactions of a query repeat an "
            "item, and the linear model cannot rank items that the query has had."
        )
    else:
        kind, what = "linear", "A linear model of the items that queries share"
    return "\n".join(
        [
            *_comment(f"{what}, in place of your own ranker. {why}"),
            "# docs/teachers.md shows how to use a model, a function or stored scores.",
            f"[teacher]\nkind = {toml_value(kind)}\n",
        ]
    )


_GATE = (
    "[distill]\n"
    "# A first run ends with a report even if this teacher is no better than the "
    "baseline.\n"
    "# Remove the line when `[teacher]` is your own ranker.\n"
    'gate = "warn"\n'
)


def _with_comment(line: str, reason: str) -> list[str]:
    one = f"{line}  # {reason}"
    if not reason:
        return [line]
    return [one] if len(one) <= _WIDTH else [*_comment(f"{reason}:"), line]


def _comment(text: str, indent: str = "") -> list[str]:
    lines, line = [], f"#{indent}"
    for word in text.split():
        if len(line) + 1 + len(word) > _WIDTH:
            lines.append(line)
            line = f"#{2 * indent}"
        line += f" {word}"
    return [*lines, line]
