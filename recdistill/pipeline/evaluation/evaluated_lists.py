"""The table of evaluated test lists, by which runs are compared list by list.

`lists.parquet` of the step `evaluate` has one row for each list: its id and query,
hashes of its positives and of its candidates, and the slices that it belongs to. Two
runs can be compared if these hashes are equal, whatever models they trained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from recdistill.data.batches import Lists
from recdistill.data.ragged import Ragged

Members = Mapping[str, Mapping[str, np.ndarray]]
"""For each kind of slice and each slice, `(lists,)` bool: the lists that belong to it.

A list may belong to several slices of a kind.
"""

_SLICES = b"recdistill.slices"


class EvaluatedLists:
    """Collects the evaluated lists piece by piece.

    Args:
        item_ids: Ids of the catalogue. Hashes depend on ids and not on row numbers, so
            that catalogues in another order are equal.
    """

    def __init__(self, item_ids: np.ndarray) -> None:
        self._hash = np.array([_number(str(each)) for each in item_ids], "uint64")
        self._all = self._hash.sum(dtype="uint64")
        self._pieces: list[pa.Table] = []

    def add(self, lists: Lists) -> None:
        """Adds lists. The hash of their candidates is the sum of the items' hashes."""
        number = lists.positives.row_numbers()
        rows, relevance = lists.positives.values, lists.relevance.values
        item = np.where(rows >= 0, self._hash[np.maximum(rows, 0)], np.uint64(0))
        # Odd factors: equal items with other relevance have other hashes.
        grade = np.asarray(relevance, "float32").view("uint32").astype("uint64")
        chosen = (item + np.uint64(1)) * (2 * grade + np.uint64(1))
        positives = np.zeros(len(lists), "uint64")
        np.add.at(positives, number, chosen)
        self._pieces.append(
            pa.table(
                {
                    "list_id": pa.array(np.asarray(lists.list_id, np.int64)),
                    "query_id": pa.array(list(lists.query_id), pa.string()),
                    "positives": pa.array(positives),
                    "candidates": pa.array(self._candidates(lists)),
                }
            )
        )

    def _candidates(self, lists: Lists) -> np.ndarray:
        scored, excluded = lists.scored_candidates, lists.excluded
        if scored is not None:
            return self._sum(scored.distinct().difference(excluded))
        return np.asarray(self._all - self._sum(excluded.distinct()))

    def _sum(self, rows: Ragged) -> np.ndarray:
        """Sum of the hashes of each row's items, modulo 2⁶⁴."""
        total = np.zeros(len(rows), "uint64")
        np.add.at(total, rows.row_numbers(), self._hash[rows.values])
        return total

    def table(self, slices: Members) -> pa.Table:
        """The lists in the order in which they were added, with their slices."""
        table = pa.concat_tables(self._pieces).combine_chunks()
        names = [[kind, name] for kind, of in slices.items() for name in of]
        for number, (kind, name) in enumerate(names):
            inside = pa.array(np.asarray(slices[kind][name], bool))
            table = table.append_column(f"slice {number}", inside)
        return table.replace_schema_metadata({_SLICES: json.dumps(names)})


def slices_of(lists: pa.Table) -> dict[str, dict[str, np.ndarray]]:
    """The slices in a table of evaluated lists; see `Members`."""
    found: dict[str, dict[str, np.ndarray]] = {}
    names = json.loads((lists.schema.metadata or {}).get(_SLICES, b"[]"))
    for number, (kind, name) in enumerate(names):
        inside = lists[f"slice {number}"].to_numpy()
        found.setdefault(kind, {})[name] = inside
    return found


def how_lists_differ(first: pa.Table, second: pa.Table) -> str | None:
    """How the lists of two tables differ, in a few words; None if they are equal."""
    ids, others = first["list_id"].to_numpy(), second["list_id"].to_numpy()
    alone, foreign = np.setdiff1d(ids, others), np.setdiff1d(others, ids)
    if len(alone) or len(foreign):
        return (
            f"{len(ids):,} and {len(others):,} test lists, {len(alone):,} of which are "
            f"only in the first and {len(foreign):,} only in the second"
        )
    first, second = first.sort_by("list_id"), second.sort_by("list_id")
    for column, words in (
        ("query_id", "belong to other queries"),
        ("positives", "have other relevant items or other relevance"),
        ("candidates", "have other candidates"),
    ):
        one, other = (np.asarray(each[column]) for each in (first, second))
        changed = int((one != other).sum())
        if changed:
            return f"{changed:,} of {len(ids):,} test lists {words}"
    return None


def _number(text: str) -> int:
    """A hash of 64 bits."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
