"""Unknown values among the items of an export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from recdistill.errors import ReindexError
from recdistill.export.parity import Arrays
from recdistill.features.raw_text import type_name
from recdistill.features.unknown_values import UnknownValues

ROWS = 65_536
"""Items that are looked up at a time."""


def unknown_in(look_up: Callable[[Any], Any], items: Arrays) -> UnknownValues:
    """Unknown values of the candidate features.

    Args:
        look_up: Raw candidate inputs by name to vocabulary indices by feature.
        items: Raw candidate inputs by name, each `(items, …)`.
    """
    found = UnknownValues()
    rows = len(next(iter(items.values())))
    for start in range(0, rows, ROWS):
        part = {k: tf.constant(v[start : start + ROWS]) for k, v in items.items()}
        for name, index in look_up(part).items():
            found.add(name, np.asarray(index))
    return found


def check_known_items(
    unknown: UnknownValues, entries: Mapping[str, Any], items: pa.Table
) -> None:
    """Checks that each feature of new items has a value of the training part.

    Args:
        unknown: Unknown values of the new items.
        entries: The candidate features in the manifest.
        items: The table of the new items.

    Raises:
        ReindexError: If all values of a feature are unknown.
    """
    for name, values in unknown.everywhere().items():
        column = entries[name]["column"] or name
        known = ", ".join(map(repr, entries[name]["examples"]))
        first = next(v.as_py() for v in items[column] if v.is_valid)
        raise ReindexError(
            f"`items` must have values of the training part in the column `{column}`, "
            f"such as {known} ({entries[name]['type']}). Received: {values:,} values, "
            f"all unknown, such as {first!r} ({type_name(items[column].type)}). Write "
            "them as in the training data, or train on the new items."
        )


def other_types(entries: Mapping[str, Any], items: pa.Table) -> list[str]:
    """Sentences on columns whose type differs from the one in training.

    Args:
        entries: The candidate features in the manifest.
        items: The table of the new items.
    """
    types = {
        entry["column"] or name: entry["type"]
        for name, entry in entries.items()
        if "type" in entry
    }
    return [
        f"column `{column}` is {found}; in training it was {known}"
        for column, known in types.items()
        if (found := type_name(items[column].type)) != known
    ]
