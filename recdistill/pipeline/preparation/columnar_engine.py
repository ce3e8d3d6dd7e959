"""The columnar engine: DuckDB, with bounded memory and a folder for what exceeds it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from recdistill.pipeline import memory

MOST_MEMORY = 2**30
"""Bytes that DuckDB may hold in memory; it moves the rest to its folder."""

LEAST_MEMORY = 2**27

MOST_THREADS = 8
"""Each thread has buffers of its own, which must fit into the memory together."""


@contextmanager
def columnar_engine(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Context manager with a connection to a DuckDB database in memory.

    The order of rows without `ORDER BY` is not defined, because threads work side by
    side; each query whose order counts must sort by a full key. Its rows are read with
    `connection.sql(…).to_arrow_reader()`, which streams them in this order;
    `connection.execute` would copy them first.

    Args:
        folder: An existing folder; what exceeds the memory is in its subfolder
            `spilled` until the connection is closed.

    Raises:
        OSError: If a file cannot be read or written, for example on a full disk.
    """
    there = memory.available()
    limit = MOST_MEMORY if there is None else min(MOST_MEMORY, there // 4)
    spilled = folder / "spilled"
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{max(limit, LEAST_MEMORY)}B",
        "temp_directory": str(spilled),
        "threads": min(os.cpu_count() or 1, MOST_THREADS),
    }
    try:
        with duckdb.connect(config=settings) as connection:
            yield connection
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        reason = (
            "Sorting the interactions needs more space for its temporary files: "
            f"{str(error).splitlines()[0]}"
        )
        raise OSError(errno.ENOSPC, reason, str(spilled)) from error
