"""Loads the data set that a configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from recdistill.data import (
    Columns,
    Dataset,
    fetch,
    read_frames,
    read_listwise,
    read_movielens,
    read_recbole,
    read_tables,
    synthetic,
)
from recdistill.data.dataset import Progress
from recdistill.data.reading_options import ReadingOptions, TableOptions
from recdistill.data.row_filter import RowFilter
from recdistill.errors import ConfigError
from recdistill.features.specs import FeatureSpec
from recdistill.pipeline.config import Config, DatasetConfig, TableConfig
from recdistill.pipeline.memory import require_for_synthetic_data

if TYPE_CHECKING:
    import pandas as pd


def reading_options(config: Config) -> ReadingOptions:
    """Options for reading the tables of a configuration: only the used columns."""

    def columns(features: Mapping[str, FeatureSpec]) -> frozenset[str]:
        return frozenset(spec.column or name for name, spec in features.items())

    keep = config.dataset.keep
    return ReadingOptions(
        query_features=columns(config.query),
        item_features=columns(config.candidate),
        delimiter=config.dataset.delimiter,
        time_format=config.dataset.time_format,
        keep=RowFilter.parse(keep) if keep is not None else None,
        tables={
            name: TableOptions(columns=table.columns, types=table.types)
            for name, table in tables_of(config.dataset).items()
        },
        with_times=config.split.by != "leave_random_out",
    )


def tables_of(config: DatasetConfig) -> dict[str, TableConfig]:
    """The sections of the tables by name."""
    names = ("interactions", "lists", "items", "queries")
    return {name: getattr(config, name) for name in names}


def load_dataset(
    config: DatasetConfig,
    progress: Progress,
    tables: Mapping[str, pd.DataFrame] | None = None,
    options: ReadingOptions | None = None,
) -> Dataset:
    """The data set of a configuration; `fetch` downloads it first.

    Args:
        config: The `dataset` section.
        progress: Callback for the progress of a download.
        tables: DataFrames, for the reader `frames`.
        options: How tables are read.

    Raises:
        ConfigError: If the reader is `frames` and there are no DataFrames.
        DataError: If the data cannot be downloaded or is invalid.
    """
    columns = Columns.of({str(role): name for role, name in config.columns.items()})
    if options is not None and not options.with_times:
        columns = replace(columns, time=None)
    if config.reader == "synthetic":
        size = config.synthetic
        require_for_synthetic_data(size)
        return synthetic(
            n_queries=size.queries,
            n_items=size.items,
            n_interactions=size.interactions,
            seed=size.seed,
        )
    if config.reader == "frames":
        if tables is None:
            raise ConfigError(
                "`dataset.reader` = 'frames' requires DataFrames: pass `tables` to "
                "`recdistill.run`. Received: no `tables`"
            )
        return read_frames(tables, columns, options=options)
    path = config.path
    if config.fetch is not None:
        path = fetch(config.fetch, progress=progress)
    if path is None:
        raise ValueError("`path` or `fetch` must be given. Received: neither")
    others: Any = {
        "items": config.items.file,
        "queries": config.queries.file,
        "options": options,
    }
    if config.reader == "tables":
        name = config.interactions.file or "interactions"
        return read_tables(path, columns, interactions=name, **others)
    if config.reader == "listwise":
        name = config.lists.file or "lists"
        return read_listwise(path, columns, lists=name, **others)
    reader = {"movielens": read_movielens, "recbole": read_recbole}[config.reader]
    return reader(path, columns, options=options)
