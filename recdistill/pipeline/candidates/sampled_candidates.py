"""Sampled evaluation: random candidates for each test list, drawn once and stored.

Sampled metrics are higher than those of the whole catalogue and can order models
differently (Krichene and Rendle, 2020), so they are computed on request only
(`evaluate.sampled_candidates`), and every output names the sample.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recdistill.data.batches import Lists
from recdistill.data.ragged import Ragged
from recdistill.data.shard_reading import in_order
from recdistill.pipeline.preparation.prepared_data import Prepared

LISTS_AT_ONCE = 4_096


@dataclass(frozen=True)
class SampledCandidates:
    """Candidates of each test list: its positives and random other items.

    Attributes:
        list_id: `(lists,)` int64, ascending.
        candidates: Item rows of each list.
    """

    list_id: np.ndarray
    candidates: Ragged

    @classmethod
    def draw(cls, prepared: Prepared, number: int, seed: int) -> SampledCandidates:
        """Draws candidates of the evaluated lists, uniformly among the allowed items.

        Args:
            prepared: The prepared data.
            number: Random candidates of each list besides its positives; fewer if the
                catalogue has fewer.
            seed: Seed. The candidates of a list depend on the seed and its id only.
        """
        shards, evaluated = prepared.shards("test"), prepared.evaluated_rows
        pieces = in_order(shards, LISTS_AT_ONCE, rows=evaluated)
        return cls.of(pieces, prepared.catalogue_size, number, seed)

    @classmethod
    def of(
        cls, pieces: Iterable[Lists], items: int, number: int, seed: int
    ) -> SampledCandidates:
        """Draws candidates of some lists; see `draw`.

        Args:
            pieces: The lists, in pieces.
            items: Number of items of the catalogue.
            number: As for `draw`.
            seed: As for `draw`.
        """
        found = {}
        for lists in pieces:
            for row in range(len(lists)):
                chosen = _drawn(lists, row, items, number, seed)
                found[int(lists.list_id[row])] = chosen
        ids = sorted(found)
        offsets = np.cumsum([0, *(len(found[each]) for each in ids)])
        values = [found[each] for each in ids] or [np.zeros(0, "int32")]
        return cls(np.array(ids, "int64"), Ragged(np.concatenate(values), offsets))

    def restrict(self, lists: Lists) -> Lists:
        """The lists with these candidates only."""
        rows = np.searchsorted(self.list_id, lists.list_id)
        return replace(lists, scored_candidates=self.candidates.take(rows))

    def save(self, path: Path) -> None:
        """Writes the candidates as a table with one row for each list."""
        rows = pa.ListArray.from_arrays(
            pa.array(self.candidates.offsets, pa.int32()),
            pa.array(self.candidates.values, pa.int32()),
        )
        ids = pa.array(self.list_id)
        pq.write_table(pa.table({"list_id": ids, "candidates": rows}), path)

    @classmethod
    def load(cls, path: Path) -> SampledCandidates:
        """Reads what `save` wrote."""
        table = pq.read_table(path).combine_chunks()
        column = table["candidates"].combine_chunks()
        return cls(table["list_id"].to_numpy(), Ragged.from_arrow(column))


def _drawn(lists: Lists, row: int, size: int, number: int, seed: int) -> np.ndarray:
    """Candidates of one list, ascending."""
    one = lists.take(np.array([row]))
    positives = np.unique(one.positives.values[one.positives.values >= 0])
    taken = np.union1d(positives, one.excluded.values)
    rng = np.random.default_rng([seed, int(lists.list_id[row])])
    picks = rng.choice(size, min(size, number + len(taken)), replace=False)
    others = picks[~np.isin(picks, taken)][:number]
    return np.union1d(positives, others).astype("int32")
