"""Options for reading the tables of a data set."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from recdistill.data.column_values import ColumnType
from recdistill.data.dataset import Columns
from recdistill.data.row_filter import RowFilter


@dataclass(frozen=True)
class TableOptions:
    """Options for reading one table.

    Attributes:
        columns: Column names in order, for text files without a header; None if the
            files have a header.
        types: Types of the columns that are converted.
    """

    columns: tuple[str, ...] | None = None
    types: Mapping[str, ColumnType] = field(default_factory=dict)


@dataclass(frozen=True)
class ReadingOptions:
    """Options for reading the tables of a data set.

    Attributes:
        query_features: Columns of query features, in queries or interactions; None to
            read all columns.
        item_features: Columns of item features; None to read all columns.
        delimiter: Delimiter of text files; None to recognise it from the header.
        time_format: Unit ("s", "ms", "us", "ns") or format of the times; None to
            recognise it (`recdistill.data.times`).
        keep: Which interactions are read; None for all.
        with_times: Whether the interactions have a column of times.
        tables: Options of single tables by name: "interactions" or "lists", "items",
            "queries" and "unlabelled".
    """

    query_features: frozenset[str] | None = None
    item_features: frozenset[str] | None = None
    delimiter: str | None = None
    time_format: str | None = None
    keep: RowFilter | None = None
    with_times: bool = True
    tables: Mapping[str, TableOptions] = field(default_factory=dict)

    def table(self, name: str) -> TableOptions:
        """The options of a table."""
        return self.tables.get(name, TableOptions())

    def item_columns(self, roles: Columns) -> set[str] | None:
        """Columns to read from the items, besides their titles; None for all."""
        if self.item_features is None:
            return None
        return {*self.item_features, roles.item}

    def query_columns(self, roles: Columns) -> set[str] | None:
        """Columns to read from the queries; None for all."""
        if self.query_features is None:
            return None
        return {*self.query_features, roles.query}

    def interaction_columns(
        self, roles: Columns, in_queries: Collection[str]
    ) -> set[str] | None:
        """Columns to read from the interactions; None for all.

        Args:
            roles: Roles of the columns.
            in_queries: Columns of the queries, which come first for a feature.
        """
        if self.query_features is None:
            return None
        kept = self.keep.columns if self.keep else ()
        return {*roles.names(), *kept, *self.query_features.difference(in_queries)}

    def unlabelled_columns(
        self, roles: Columns, in_queries: Collection[str]
    ) -> set[str] | None:
        """Columns to read from the unlabelled requests; None for all.

        Args:
            roles: Roles of the columns.
            in_queries: As for `interaction_columns`.
        """
        if self.query_features is None:
            return None
        own = {roles.query, *([roles.time] if roles.time else [])}
        return {*own, *self.query_features.difference(in_queries)}
