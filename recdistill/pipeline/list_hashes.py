"""Hashes of the content of lists: equal lists have equal teacher scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from recdistill.data.batches import Lists
from recdistill.data.ragged import Ragged
from recdistill.pipeline.candidate_selection import mixed


def list_hashes(lists: Lists, seed: int) -> np.ndarray:
    """Hash of all that the scores and the candidates of each list depend on.

    These are the query's id and features, looked-up and raw, and the observed and the
    seen items. The list's number in the data is not among them, so a list that did not
    change keeps its hash when data is added. Training rows are not among them either: a
    teacher that leaves them out was fitted on all of them, and changes with each.

    Args:
        lists: The lists.
        seed: Seed, so that another run draws other candidates.

    Returns:
        `(lists,)` uint64.
    """
    observed, relevance = lists.observed()
    parts: dict[str, Any] = {
        "observed": observed,
        "relevance": relevance,
        "excluded": lists.excluded,
        "scored": lists.scored_candidates,
        "list_key": lists.list_key,
    }
    parts |= {f"query.{name}": value for name, value in lists.query.items()}
    parts |= {f"raw.{name}": value for name, value in lists.raw.items()}
    total = np.full(len(lists), mixed(np.array([seed], "uint64"))[0])
    for name, value in sorted(parts.items()):
        if value is not None:
            label = pd.util.hash_array(np.array([name], object))[0]
            total = mixed(total * np.uint64(3) + mixed(_hashed(value) ^ label))
    return total


def _hashed(value: np.ndarray | Ragged) -> np.ndarray:
    """`(rows,)`, hashes of the rows of an array, in which positions count."""
    if not isinstance(value, Ragged):
        dense = np.asarray(value).reshape(len(value), -1)
        width = dense.shape[1]
        value = Ragged(dense.ravel(), np.arange(len(dense) + 1) * width)
    each = _bits(value.values)
    starts = value.offsets[:-1]
    lengths = np.diff(value.offsets)
    place = np.arange(len(each)) - np.repeat(starts, lengths)
    sums = np.cumsum(np.append(np.uint64(0), mixed(each + place.astype("uint64"))))
    rows = sums[value.offsets[1:]] - sums[starts]
    return np.asarray(rows + lengths.astype("uint64"))


def _bits(values: np.ndarray) -> np.ndarray:
    """Numbers as their bits, and everything else as hashes, uint64."""
    if values.dtype.kind in "biu":
        return values.astype("int64").view("uint64")
    if values.dtype.kind == "f":
        return values.astype("float64").view("uint64")
    return np.asarray(pd.util.hash_array(values.astype(object)))
