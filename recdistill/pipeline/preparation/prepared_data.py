"""The prepared data, loaded for the steps after `prepare`."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.sparse

from recdistill.data.batches import raw_inputs
from recdistill.data.ragged import Ragged
from recdistill.data.shard_reading import in_order
from recdistill.features.encoders import FIRST
from recdistill.features.schema import Schema
from recdistill.features.specs import raw_values
from recdistill.pipeline.preparation.item_table import TRAIN_COUNT

UNLABELLED = "unlabelled"
"""Name of the lists whose choice was not observed, which are for the student only."""

TEST_FILES = "lists/test-*"
"""Pattern of the files of `prepare` with the test part."""


class Prepared:
    """The prepared data: schema, item table, training rows and list shards.

    Args:
        folder: The artefact of the step `prepare`.
        with_test: Whether the lists of the test part may be read.
        test_lists: Largest number of test lists that are evaluated; None for all.
    """

    def __init__(
        self, folder: Path, with_test: bool = True, test_lists: int | None = None
    ) -> None:
        self.folder, self._test_lists = folder, test_lists
        self.held_out = ("valid", "test") if with_test else ("valid",)
        self.schema = Schema.load(folder)
        self.items: pa.Table = pq.read_table(folder / "items.parquet")

    def shards(self, split: str) -> list[Path]:
        """Files with the lists of a split, or with the `UNLABELLED` ones, in order.

        Raises:
            RuntimeError: If it is the test part, and that may not be read.
        """
        if split not in ("train", UNLABELLED, *self.held_out):
            raise RuntimeError(f"The part {split!r} must not be read here.")
        return sorted((self.folder / "lists").glob(f"{split}-*.parquet"))

    @cached_property
    def evaluated_rows(self) -> np.ndarray:
        """Ascending row numbers of the test lists that are evaluated.

        If there are more than `test_lists`, they are a random sample. It depends on the
        numbers of lists only, so that runs of the same data have the same sample.
        """
        total = self.test_size
        if self._test_lists is None or self._test_lists >= total:
            return np.arange(total)
        rng = np.random.default_rng(0)
        return np.sort(rng.choice(total, self._test_lists, replace=False))

    @property
    def test_size(self) -> int:
        """Number of test lists."""
        return sum(pq.read_metadata(path).num_rows for path in self.shards("test"))

    @cached_property
    def has_seen_items(self) -> bool:
        """Whether the query of a test list has seen an item before."""
        shards = (pq.read_table(p, columns=["seen"]) for p in self.shards("test"))
        return any(
            pc.max(pc.list_value_length(each["seen"])).as_py() for each in shards
        )

    @cached_property
    def has_shown_candidates(self) -> bool:
        """Whether the lists say which items were shown and not chosen."""
        return "not_chosen" in pq.read_schema(self.shards("train")[0]).names

    @cached_property
    def largest_relevance(self) -> float:
        """Highest relevance in the validation and test lists."""
        paths = [path for split in self.held_out for path in self.shards(split)]
        columns = [pq.read_table(path, columns=["relevance"]) for path in paths]
        highest = [
            pc.max(pc.list_flatten(each["relevance"])).as_py() for each in columns
        ]
        return float(max((each for each in highest if each is not None), default=0.0))

    @cached_property
    def observed_sizes(self) -> np.ndarray:
        """Number of positives of each training list, and of items shown with them."""
        names = ["candidates", "not_chosen"][: 1 + self.has_shown_candidates]
        tables = [pq.read_table(path, columns=names) for path in self.shards("train")]
        return np.concatenate(
            [
                sum(np.asarray(pc.list_value_length(table[name])) for name in names)
                for table in tables
            ]
        )

    @property
    def catalogue_size(self) -> int:
        """Number of items."""
        return int(self.items.num_rows)

    @property
    def items_digest(self) -> str:
        """Hash of the items in their order, with all columns but the interactions."""
        sink = pa.BufferOutputStream()
        table = self.items.drop_columns([TRAIN_COUNT]).replace_schema_metadata(None)
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        return hashlib.sha256(sink.getvalue()).hexdigest()

    @cached_property
    def raw_candidates(self) -> dict[str, np.ndarray]:
        """Raw candidate features of the catalogue by input name, `(items, …)`."""
        return {
            encoder.feature: raw_values(
                self.items[encoder.spec.column or encoder.feature],
                encoder.spec,
                table="items",
                name=encoder.spec.column or encoder.feature,
            )
            for encoder in self.schema.candidate
        }

    @cached_property
    def item_ids(self) -> np.ndarray:
        """Item ids of the catalogue, `(items,)` text."""
        return self.raw_candidates[self.schema.item_id]

    @cached_property
    def catalogue(self) -> dict[str, np.ndarray]:
        """Looked-up candidate features of the catalogue, each `(items, …)`."""
        raw = {
            name: value.tolist() if value.dtype == object else value
            for name, value in self.raw_candidates.items()
        }
        looked_up = self.schema.lookup_candidates(raw)
        return {name: np.asarray(value) for name, value in looked_up.items()}

    def raw_queries(self, limit: int) -> dict[str, np.ndarray]:
        """Raw query inputs of the first test lists by input name, `(rows, …)`."""
        raw = raw_inputs(next(in_order(self.shards("test"), limit)))
        return {name: raw[name] for name in self.query_inputs}

    @property
    def query_inputs(self) -> list[str]:
        """Names of all raw query inputs, including those of privileged features."""
        return [name for encoder in self.schema.query for name in encoder.raw_inputs()]

    @cached_property
    def popularity(self) -> np.ndarray:
        """Training interactions of each item, `(items,)` float32."""
        return np.asarray(self.items[TRAIN_COUNT], "float32")

    @cached_property
    def item_index(self) -> np.ndarray:
        """The vocabulary index of each catalogue row, `(items,)` int32."""
        return self.catalogue[self.schema.item_id]

    @cached_property
    def training_rows(self) -> Ragged:
        """The training items of each query, as vocabulary indices."""
        columns = self._of_training_rows("items")
        chunks = [chunk for column in columns for chunk in column.chunks]
        rows = [Ragged.from_arrow(chunk) for chunk in chunks]
        # Arrow's offsets of a joined column would have 32 bits.
        lengths = np.concatenate([np.diff(each.offsets) for each in rows])
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype="int64")])
        return Ragged(np.concatenate([each.values for each in rows]), offsets)

    @property
    def training_queries(self) -> np.ndarray:
        """The query id of each of the `training_rows`."""
        columns = self._of_training_rows("query_id")
        return np.concatenate([np.asarray(each.to_numpy(), object) for each in columns])

    def _of_training_rows(self, column: str) -> list[pa.ChunkedArray]:
        files = sorted((self.folder / "training_rows").glob("*.parquet"))
        return [pq.read_table(file, columns=[column])[column] for file in files]

    def training_matrix(self, max_items: int) -> scipy.sparse.csr_array:
        """Training interactions, `(queries, items)`, of the most frequent items.

        Column `j` is the item of vocabulary index `j + 2`.
        """
        training_rows = self.training_rows
        size = min(max_items, len(self.schema.items.values))
        column = training_rows.values - FIRST
        inside = (column >= 0) & (column < size)
        return scipy.sparse.csr_array(
            (
                np.ones(int(inside.sum()), "float32"),
                (training_rows.row_numbers()[inside], column[inside]),
            ),
            shape=(len(training_rows), size),
        )
