"""Lists of newer data, with the features and the catalogue of a finished run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from recdistill.data import Dataset
from recdistill.data.table_files import named_places
from recdistill.data.tables import OPTIONAL_TABLES
from recdistill.errors import ConfigError, DataError
from recdistill.features.specs import HistorySpec
from recdistill.pipeline.config import Config, TableConfig
from recdistill.pipeline.config.dataset_section import DatasetConfig
from recdistill.pipeline.preparation.dataset_loading import (
    load_dataset,
    reading_options,
)
from recdistill.pipeline.preparation.feature_columns import FeatureColumns
from recdistill.pipeline.preparation.item_table import TRAIN_COUNT, ItemTable
from recdistill.pipeline.preparation.list_shards import ListShardWriter
from recdistill.pipeline.preparation.listed_rows import NotChosenRows
from recdistill.pipeline.preparation.partitions import Partitions
from recdistill.pipeline.preparation.prepared_data import Prepared
from recdistill.pipeline.preparation.row_parts import TEST
from recdistill.pipeline.run_context import RunContext


def open_new_data(run: RunContext, data: Path) -> Dataset:
    """Newer data in the layout of a run's data.

    Args:
        run: The finished run.
        data: A folder with the tables of the run's data, or a file of interactions (or
            of lists). Without a table of queries, that of the run's data is used if a
            feature needs it.

    Raises:
        ConfigError: If the reader of the run needs a folder and `data` is a file.
        DataError: If the data is invalid or does not have the columns of the run.
    """
    if not data.exists():
        raise DataError(f"`--data` must be a file or a folder. {data} does not exist.")
    config = run.config.model_copy(update={"dataset": _section(run.config, data)})
    dataset = load_dataset(
        config.dataset, run.progress, options=reading_options(config)
    )
    columns = (
        [] if dataset.queries is None else dataset.queries.column_names,
        next(iter(dataset.interactions())).schema.names,
    )
    # A history is no column: it is made from the interactions.
    needed = [
        spec.column or name
        for name, spec in config.query.items()
        if not isinstance(spec, HistorySpec)
    ]
    complete = all(any(name in some for some in columns) for name in needed)
    in_memory = run.config.dataset.reader == "frames"
    if dataset.queries is None and not complete and not in_memory:
        dataset = replace(dataset, queries=run.dataset.queries)
    items = run.prepared.items.drop_columns([TRAIN_COUNT])
    return replace(dataset, items=items)


def _section(config: Config, data: Path) -> DatasetConfig:
    """The `dataset` section for the newer data."""
    section = config.dataset
    reader = "listwise" if section.reader == "listwise" else "tables"
    if section.reader in ("movielens", "recbole"):
        reader = section.reader
        if not data.is_dir():
            raise ConfigError(
                f"`--data` must be a folder for data of the reader {reader!r}. "
                f"Received: {data}, which is a file"
            )
    changed: dict[str, object] = {"reader": reader, "path": data, "fetch": None}
    # The newer data need not have these tables.
    changed |= {
        table: TableConfig()
        for table in OPTIONAL_TABLES
        if table == "unlabelled"
        or not data.is_dir()
        or not named_places(data, getattr(section, table).file or table)
    }
    if not data.is_dir():
        rows = "lists" if reader == "listwise" else "interactions"
        own = getattr(section, rows).model_copy(update={"file": data.name})
        changed |= {"path": data.parent, rows: own}
    return section.model_copy(update=changed)


def prepare_new_lists(run: RunContext, dataset: Dataset, folder: Path) -> Prepared:
    """Prepares the test part of newer data with the vocabularies of a finished run.

    The split is that of the run, so the lists are made in the same way.

    Args:
        run: The finished run.
        dataset: The newer data, from `open_new_data`.
        folder: An empty folder.

    Raises:
        DataError: If the data is invalid, its test part has no list, or the run's lists
            have items that were shown and not chosen and the newer ones do not, or the
            other way round.
    """
    config, old = run.config, run.prepared
    for path in (*old.folder.glob("*.json"), *old.folder.glob("*.parquet")):
        shutil.copyfile(path, folder / path.name)
    scratch = folder / "partitions"
    scratch.mkdir()
    record = run.artefacts["prepare"].record
    features = FeatureColumns.find(dataset, config)
    parts = Partitions(
        dataset,
        config.split,
        scratch,
        run.progress,
        config.seed,
        features.of_interactions,
    )
    not_chosen = NotChosenRows(dataset, parts, scratch)
    _check_shown(dataset, not_chosen.count > 0, old.has_shown_candidates)
    # An item that is not in the catalogue is in no list if training had such items.
    counted = None if record["unlisted_items"] else np.zeros(len(parts.item_ids), int)
    ids = old.items[dataset.columns.item].combine_chunks()
    counts = np.asarray(old.items[TRAIN_COUNT])
    writer = ListShardWriter(
        old.schema,
        features,
        ItemTable(dataset, ids, counts, ()),
        parts,
        dataset,
        config,
        folder,
        record["seen"],
        train_count=counted,
    )
    for done, part in enumerate(parts):
        # Lists of the other parts are not needed.
        others = np.where(part.split == TEST, TEST, -1).astype(part.split.dtype)
        writer.write(replace(part, split=others), done, not_chosen)
        run.progress("Writing lists", done + 1, len(parts))
    if not writer.counts["test"]:
        raise DataError(
            f"`--data` must have interactions that the split of the run holds out "
            f"({config.split.test_part}). Received: {dataset.name} without any. Pass "
            "the whole log of the queries, and not only its latest rows."
        )
    return Prepared(folder)


def _check_shown(dataset: Dataset, found: bool, wanted: bool) -> None:
    """Checks that the newer lists have the same kind of candidates as the run's."""
    rows = "items that were shown and not chosen (relevance 0)"
    if wanted and not found:
        raise DataError(
            f"`--data` must have {rows}, as the run's data has: they are the "
            f"candidates. Received: {dataset.name} without such rows"
        )
    if found and not wanted:
        raise DataError(
            f"`--data` must not have {rows}, because the run's data has none, and "
            "its lists have other candidates. Select the rows with a relevance above "
            f"0. Received: {dataset.name} with such rows"
        )
