"""Generated tables of interactions and items, of any size."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TOPICS = 50
ROWS_AT_ONCE = 1_000_000
START_S = 1_700_000_000
YEAR_S = 365 * 86_400


def write_tables(folder: Path, queries: int, items: int, interactions: int) -> Path:
    """Writes `interactions.parquet` and `items.parquet`, unless they exist.

    A query likes one topic and chooses two items in three from it; an item of a topic
    is chosen by popularity, about one over its rank. Memory does not grow with the
    number of interactions.

    Returns:
        The folder.
    """
    if (folder / "items.parquet").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    topics = min(TOPICS, items)
    topic = np.arange(items) % topics
    liked = rng.integers(0, topics, queries)
    names = pa.array([f"i{k}" for k in range(items)])
    schema = pa.schema(
        {"user_id": pa.string(), "item_id": pa.string(), "timestamp": pa.int64()}
    )
    with pq.ParquetWriter(folder / "interactions.parquet", schema) as writer:
        for start in range(0, interactions, ROWS_AT_ONCE):
            rows = min(ROWS_AT_ONCE, interactions - start)
            user = rng.integers(0, queries, rows)
            wanted = np.where(
                rng.random(rows) < 2 / 3, liked[user], rng.integers(0, topics, rows)
            )
            each = (items - 1 - wanted) // topics + 1
            rank = np.expm1(rng.random(rows) * np.log1p(each)).astype("int64")
            item = wanted + topics * np.minimum(rank, each - 1)
            seconds = START_S + rng.integers(0, YEAR_S, rows)
            users = pa.array(np.char.add("u", user.astype(str)))
            writer.write_table(
                pa.table([users, names.take(pa.array(item)), seconds], schema=schema)
            )
    table = {"item_id": names, "category": [f"c{each}" for each in topic]}
    pq.write_table(pa.table(table), folder / "items.parquet")
    return folder
