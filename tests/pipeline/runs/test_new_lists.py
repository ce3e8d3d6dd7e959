"""new_lists: newer data for a finished run, and what it must have."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.data import read_frames
from recdistill.errors import DataError
from recdistill.pipeline.preparation.item_table import TRAIN_COUNT
from recdistill.pipeline.runs.new_lists import open_new_data, prepare_new_lists
from tests import small_pipelines
from tests.pipeline.logs import run

ITEMS = pa.table({"item_id": ["i1", "i2"], TRAIN_COUNT: [3, 4]})
LOG = pa.table({"user_id": ["a"], "item_id": ["i1"], "timestamp": [1]})


class RunWithoutData:
    """A finished run whose own data is gone."""

    prepared = SimpleNamespace(items=ITEMS)

    def __init__(self, **dataset):
        section = {"reader": "tables", "path": "/gone", **dataset}
        self.config = small_pipelines.config(dataset=section)

    progress = staticmethod(small_pipelines.quiet)

    @property
    def dataset(self):
        raise AssertionError("the data of the run is not needed")


def test_a_history_needs_no_table_of_the_run_s_data(tmp_path):
    pq.write_table(LOG, tmp_path / "today.parquet")
    found = open_new_data(RunWithoutData(), tmp_path / "today.parquet")
    assert found.queries is None
    assert found.items["item_id"].to_pylist() == ["i1", "i2"]


def test_a_folder_may_lack_tables_that_the_run_describes(tmp_path):
    pq.write_table(LOG, tmp_path / "interactions.parquet")
    described = {name: {"types": {"x": "text"}} for name in ("items", "queries")}
    assert open_new_data(RunWithoutData(**described), tmp_path).queries is None


def test_lists_need_what_was_shown_and_not_chosen(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        (f"{user}-{moment}", f"u{user}", f"i{item}", moment, int(place < 2))
        for user in range(9)
        for moment in range(8)
        for place, item in enumerate(rng.permutation(12)[:4])
    ]
    names = ("list_id", "user_id", "item_id", "timestamp", "relevance")
    shown = pd.DataFrame(rows, columns=names)
    prepared, record = run(read_frames({"lists": shown}), tmp_path / "old")
    finished = SimpleNamespace(
        prepared=prepared,
        config=small_pipelines.config(),
        progress=small_pipelines.quiet,
        artefacts={"prepare": SimpleNamespace(record=record)},
    )
    chosen = shown[shown["relevance"] > 0]
    for name in ("same", "chosen", "shown"):
        (tmp_path / name).mkdir()
    same = read_frames({"lists": shown})
    assert prepare_new_lists(finished, same, tmp_path / "same").shards("test")
    new = read_frames({"lists": chosen})
    with pytest.raises(DataError, match=r"must have items .* without such rows"):
        prepare_new_lists(finished, new, tmp_path / "chosen")
    finished.prepared, _ = run(new, tmp_path / "other")
    with pytest.raises(DataError, match=r"must not have items .* with such rows"):
        prepare_new_lists(finished, same, tmp_path / "shown")
