"""Values of the query features: looked up and raw, for the rows of a partition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data import Dataset
from recdistill.errors import DataError
from recdistill.features.encoders import Encoder, lookup_column
from recdistill.features.schema import Schema
from recdistill.features.specs import raw_column
from recdistill.pipeline.preparation.feature_columns import (
    FeatureColumn,
    FeatureColumns,
)
from recdistill.pipeline.preparation.partitions import Partition


class QueryFeatureValues:
    """Values of all query features but the history.

    Features that a query has in all of its rows are looked up once for each query, and
    features of the interactions for each row.

    Args:
        schema: The fitted features.
        features: The columns of the raw values.
        query_ids: Id of each query, by its number.
        dataset: The data set of these partitions.
    """

    def __init__(
        self,
        schema: Schema,
        features: FeatureColumns,
        query_ids: pa.Array,
        dataset: Dataset,
    ) -> None:
        self._features, self._ids = features, query_ids
        self._place = np.array([], "int64")
        if dataset.queries is not None:
            known = dataset.queries[features.query_column].combine_chunks()
            found = pc.index_in(query_ids, value_set=known)
            self._place = np.asarray(pc.fill_null(found, -1))
        self._in_rows = {
            feature.name: f"feature{number}"
            for number, feature in enumerate(features.of_interactions)
        }
        self._by_id = {f.name for f in features.query if f.table == "interactions"}
        self._raw: dict[str, pa.Array] = {}
        self._looked_up: dict[str, np.ndarray] = {}
        encoders = {encoder.feature: encoder for encoder in schema.query}
        for feature in features.query:
            if feature.name in self._in_rows:
                continue
            if feature.table == "queries":
                self._raw[feature.name] = query_column(dataset, feature, features)
            else:
                self._raw[feature.name] = raw_column(
                    self._ids, feature.spec, table="interactions", name=feature.column
                )
            self._looked_up[feature.name] = lookup_column(
                encoders[feature.name], self._raw[feature.name]
            )

    def of(
        self, encoder: Encoder, part: Partition, rows: np.ndarray
    ) -> tuple[np.ndarray, Callable[[], pa.Array]]:
        """The looked-up values of a feature, and a function for the raw ones.

        Args:
            encoder: The encoder of the feature.
            part: A partition.
            rows: Rows of the partition.

        Raises:
            DataError: If the table `queries` lacks a query that a feature needs.
        """
        name = encoder.feature
        if name in self._in_rows:
            column = part.table[self._in_rows[name]].combine_chunks()
            raw = column.take(pa.array(rows))
            return lookup_column(encoder, raw), lambda: raw
        query = part.query[rows]
        place = query if name in self._by_id else self._places(query)
        values = self._raw[name]
        place = np.where(place < 0, len(values) - 1, place)
        return self._looked_up[name][place], lambda: values.take(pa.array(place))

    def are_known(self, query: np.ndarray) -> np.ndarray:
        """`(rows,)` bool: whether queries have the row in `queries` that they need."""
        if not self._features.required("queries"):
            return np.ones(len(query), bool)
        return np.asarray(self._place[query] >= 0)

    def _places(self, query: np.ndarray) -> np.ndarray:
        """The row of each query in the table `queries`; -1, the last, without one."""
        place: np.ndarray = self._place[query]
        required = self._features.required("queries")
        absent = np.flatnonzero(place < 0)
        if len(absent) and required:
            raise DataError(
                f"Table `queries` has no row for the query "
                f"{self._ids[int(query[absent[0]])].as_py()!r} of the "
                f"interactions, which the feature(s) {', '.join(required)} need. Add a "
                "row, or set `optional = true` for these features."
            )
        return place


def query_column(
    dataset: Dataset, feature: FeatureColumn, features: FeatureColumns
) -> pa.Array:
    """Raw values of a feature in the table `queries`, one for each row.

    If no feature needs a row for each query, one more value follows: that of queries
    without a row.

    Raises:
        DataError: If the data has no table `queries`, or a value is bad.
    """
    if dataset.queries is None:
        raise DataError(
            f"Data set `{dataset.name}` must have a table `queries` with the column "
            f"{feature.column!r} of the feature `{feature.name}`. Received: no table"
        )
    column = dataset.queries[feature.column]
    if not features.required("queries"):
        nothing = pa.nulls(1, column.type)
        column = pa.chunked_array([*column.chunks, nothing], column.type)
    return raw_column(column, feature.spec, table="queries", name=feature.column)
