"""Small tables in files, for the tests of the readers."""

from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from recdistill.data import Dataset

RATINGS = "user_id,item_id,timestamp,rating,device\n1,7,100,4.5,tv\n2,8,101,3,phone\n"


def write(folder: Path, **tables: str | bytes | pa.Table) -> Path:
    for name, content in tables.items():
        if isinstance(content, pa.Table):
            parquet.write_table(content, folder / f"{name}.parquet")
        elif isinstance(content, bytes):
            (folder / f"{name}.csv").write_bytes(content)
        else:
            (folder / f"{name}.csv").write_text(content, encoding="utf-8")
    return folder


def everything(data: Dataset) -> pa.Table:
    return pa.Table.from_batches(data.interactions())


def log(**columns: object) -> pa.Table:
    base = {"user_id": [1, 2], "item_id": [7, 8], "timestamp": [100, 101]}
    return pa.table(base | columns)
