"""The columns of the tables that hold the raw values of the features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recdistill.data import Dataset
from recdistill.errors import DataError
from recdistill.features.raw_text import type_name
from recdistill.features.specs import (
    AffinitySpec,
    CategoriesSpec,
    FeatureSpec,
    HistorySpec,
    IdSpec,
)
from recdistill.pipeline.config import Config


@dataclass(frozen=True)
class FeatureColumn:
    """A feature with the table and column of its raw values."""

    name: str
    spec: FeatureSpec
    table: str
    column: str


@dataclass(frozen=True)
class FeatureColumns:
    """The columns of all configured features.

    Attributes:
        query: Query features, except the history.
        candidate: Candidate features, except affinities.
        history: Name and specification of the history; None if there is none.
        affinity: Specifications of the affinities by name.
        item_id: Name of the candidate feature that is the item id.
        item_column: Column of the item id.
        query_column: Column of the query id.
    """

    query: tuple[FeatureColumn, ...]
    candidate: tuple[FeatureColumn, ...]
    history: tuple[str, HistorySpec] | None
    affinity: dict[str, AffinitySpec]
    item_id: str
    item_column: str
    query_column: str

    @property
    def of_interactions(self) -> list[FeatureColumn]:
        """The query features whose values are in the interactions, without the id."""
        return [
            feature
            for feature in self.query
            if feature.table == "interactions" and feature.column != self.query_column
        ]

    def required(self, table: str) -> list[str]:
        """Names of the features of items or queries that need a row for each id."""
        return [
            feature.name
            for feature in (*self.query, *self.candidate)
            if feature.table == table
            and feature.column != self.item_column
            and not feature.spec.optional
            # An empty set of categories is a value.
            and not isinstance(feature.spec, CategoriesSpec)
        ]

    def types(self, dataset: Dataset) -> dict[str, str]:
        """Names of the columns' types, by table and column."""
        schemas = {
            "interactions": next(iter(dataset.interactions())).schema,
            "items": None if dataset.items is None else dataset.items.schema,
            "queries": None if dataset.queries is None else dataset.queries.schema,
        }
        return {
            f"{each.table}.{each.column}": type_name(schema.field(each.column).type)
            for each in (*self.query, *self.candidate)
            if (schema := schemas[each.table]) is not None
        }

    @classmethod
    def find(cls, dataset: Dataset, config: Config) -> FeatureColumns:
        """Finds the column of each feature.

        Raises:
            DataError: If there are no interactions, if a column is missing, or if no
                feature is the item id.
        """
        columns = dataset.columns
        first = next(iter(dataset.interactions()), None)
        if first is None:
            raise no_interactions(dataset)
        tables = {
            "queries": [] if dataset.queries is None else dataset.queries.column_names,
            "interactions": first.schema.names,
        }
        items = [columns.item] if dataset.items is None else dataset.items.column_names
        history = [
            (k, s) for k, s in config.query.items() if isinstance(s, HistorySpec)
        ]
        place = str(config.dataset.path or f"`{dataset.name}`")
        candidate = tuple(
            _locate(name, spec, {"items": items}, "candidate", dataset, place)
            for name, spec in config.candidate.items()
            if not isinstance(spec, AffinitySpec)
        )
        item_ids = [
            s.name
            for s in candidate
            if isinstance(s.spec, IdSpec) and s.column == columns.item
        ]
        if not item_ids:
            raise DataError(
                f"`candidate` must have a feature of kind 'id' for the item column "
                f"{columns.item!r}. Received: {sorted(config.candidate)}"
            )
        return cls(
            query=tuple(
                _locate(name, spec, tables, "query", dataset, place)
                for name, spec in config.query.items()
                if not isinstance(spec, HistorySpec)
            ),
            candidate=candidate,
            history=history[0] if history else None,
            affinity={
                k: s for k, s in config.candidate.items() if isinstance(s, AffinitySpec)
            },
            item_id=item_ids[0],
            item_column=columns.item,
            query_column=columns.query,
        )


def no_interactions(dataset: Dataset) -> DataError:
    """Error about a data set without interactions."""
    return DataError(
        f"Data set `{dataset.name}` has no interactions: the table is empty, "
        "or no row has a relevance above 0 and fulfils `dataset.keep`. Set "
        "`dataset.path` to a folder with data, or change the condition."
    )


def _locate(
    name: str,
    spec: FeatureSpec,
    tables: Mapping[str, list[str]],
    side: str,
    dataset: Dataset,
    place: str,
) -> FeatureColumn:
    column = spec.column or name
    if side == "query" and column == dataset.columns.query:
        # A query without a row in the table of queries also has an id.
        return FeatureColumn(name, spec, "interactions", column)
    for table, names in tables.items():
        if column in names:
            return FeatureColumn(name, spec, table, column)
    listed = "; ".join(
        f"{t}: {', '.join(dataset.offered.get(t, n)) or 'no such table'}"
        for t, n in tables.items()
    )
    have = f"The data has {listed}."
    if side == "candidate" and dataset.items is None:
        have = f"There is no table `items` in {place}."
    elsewhere = any(column in names for names in dataset.offered.values())
    raise DataError(
        f"The {side} feature `{name}` needs a column {column!r}. {have}"
        + (
            " Features of candidates are columns of the table `items`. A value that an "
            "item has in one list only, such as its position, cannot be a feature."
            if side == "candidate" and elsewhere
            else ""
        )
    )
