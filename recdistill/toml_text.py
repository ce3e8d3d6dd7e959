"""Configurations and their values as TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def as_toml(document: Mapping[str, Any]) -> str:
    """A configuration as TOML; keys without a value are left out.

    Examples:
        >>> print(as_toml({"seed": 1, "split": {"by": "query_time", "test": None}}))
        seed = 1
        <BLANKLINE>
        [split]
        by = "query_time"
    """
    tables = {k: v for k, v in document.items() if isinstance(v, Mapping)}
    plain = {k: v for k, v in document.items() if k not in tables}
    blocks = ["\n".join(_assignments(plain))]
    for name, table in tables.items():
        blocks.append("\n".join([f"[{_key(name)}]", *_assignments(table)]))
    return "\n\n".join(block for block in blocks if block)


def toml_value(value: Any) -> str:
    """A value in TOML, tables inline without the keys that have no value.

    Examples:
        >>> print(toml_value({"kind": "category", "optional": True, "column": None}))
        { kind = "category", optional = true }
    """
    if isinstance(value, Mapping):
        inside = ", ".join(_assignments(value))
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    # JSON's texts are TOML's, but for the one control character above the others.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _assignments(table: Mapping[str, Any]) -> list[str]:
    given = ((k, v) for k, v in table.items() if v is not None)
    return [f"{_key(k)} = {toml_value(v)}" for k, v in given]


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else toml_value(name)
