"""The data set that a configuration names."""

from __future__ import annotations

from recdistill.data import (
    Dataset,
    fetch,
    read_listwise,
    read_movielens,
    read_recbole,
    read_tables,
    synthetic,
)
from recdistill.pipeline.config import DatasetConfig
from recdistill.pipeline.partitions import Progress


def load_dataset(config: DatasetConfig, progress: Progress) -> Dataset:
    """The data set of a configuration, downloaded first where it says so.

    Args:
        config: The `dataset` section.
        progress: Callback for progress of a download.

    Raises:
        DataError: If it cannot be had, or is bad.
    """
    if config.reader == "synthetic":
        size = config.synthetic
        return synthetic(
            n_queries=size.queries,
            n_items=size.items,
            n_interactions=size.interactions,
            seed=size.seed,
        )
    path = config.path
    if config.fetch is not None:
        path = fetch(config.fetch, progress=progress)
    if path is None:
        raise ValueError("`path` or `fetch` must be given. Received: neither")
    columns = {str(role): name for role, name in config.columns.items()}
    if config.reader == "tables":
        return read_tables(path, columns)
    if config.reader == "listwise":
        return read_listwise(path, columns)
    return {"movielens": read_movielens, "recbole": read_recbole}[config.reader](path)
