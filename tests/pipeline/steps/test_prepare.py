"""The step prepare: what the terminal shows of its record."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.pipeline.steps.prepare import Prepare
from tests import small_pipelines

RECORD = {
    "parts": {
        "train": ["2024-05-01 00:00:00", "2024-05-08 12:00:00"],
        "valid": ["2024-05-08 12:00:01", "2024-05-09 00:00:00"],
        "test": ["2024-05-09 00:00:01", "2024-05-10 00:00:00"],
    },
    "copies": 1_234,
    "added_items": 0,
    "lists": {"train": 90, "valid": 20, "test": 30},
    "repeats": {"valid": 3, "test": 4},
    "left_out_repeats": {"train": 0, "valid": 0, "test": 0},
    "unknown": {"valid": {}, "test": {}, "items": {}},
}


def test_the_dates_of_the_parts_are_one_line():
    (line, *_) = Prepare().details(RECORD)
    assert line == (
        "train 2024-05-01 00:00:00 to 2024-05-08 12:00:00; "
        "valid 2024-05-08 12:00:01 to 2024-05-09 00:00:00; "
        "test 2024-05-09 00:00:01 to 2024-05-10 00:00:00"
    )


def test_copies_and_repeats_are_counted():
    said = "\n".join(Prepare().details(RECORD))
    assert "1,234 rows are copies of a row with the same query, item and time" in said
    assert "3 of 20 validation lists and 4 of 30 test lists have an item" in said


def test_a_clean_record_says_nothing_more():
    clean = RECORD | {"parts": {}, "copies": 0, "repeats": {"valid": 0, "test": 0}}
    assert list(Prepare().details(clean)) == []


LOG = [(f"u{k % 6}", k % 4, k) for k in range(36)]


def folder_of_tables(folder, items, first_day, second_day):
    """A data set whose items are of the given ids and types."""
    parts = folder / "data" / "interactions"
    parts.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({"item_id": [*range(4)], "shelf": items}), parts / "../items.parquet"
    )
    for name, user, part in (("0", first_day, LOG[:18]), ("1", second_day, LOG[18:])):
        users, item, time = zip(*part, strict=True)
        table = {"user_id": users, "item_id": item, "timestamp": time}
        table["device"] = pa.array([int(u[1]) for u in users]).cast(user)
        pq.write_table(pa.table(table), parts / f"{name}.parquet")


@pytest.mark.slow
def test_types_that_differ_between_files_or_from_the_data_before_are_named(tmp_path):
    from recdistill.pipeline.runner import Pipeline

    config = small_pipelines.config(
        query={"device": {"kind": "category"}, **small_pipelines.HISTORY},
        candidate={"item_id": {"kind": "id"}, "shelf": {"kind": "category"}},
        dataset={"reader": "tables", "path": str(tmp_path / "data")},
        workdir=str(tmp_path / "runs"),
    )
    said = []

    def prepare_again(*types):
        said.clear()
        folder_of_tables(tmp_path, *types)
        return Pipeline(config, warn=said.append).run("prepare")

    artefact = prepare_again([1, 1, 2, 2], pa.int64(), pa.int64())
    assert artefact.record["types"] == {
        "interactions.device": "integer",
        "items.item_id": "text",
        "items.shelf": "integer",
    }
    assert not any("column" in each for each in said)
    prepare_again(["1", "1", "2", "2"], pa.int64(), pa.string())
    between, device, shelf = said
    assert between.startswith("The column `device` is integer in ")
    assert "0.parquet and text in " in between
    assert device.startswith("The column `interactions.device` is text; in the data")
    assert shelf.startswith(
        "The column `items.shelf` is text; in the data that was prepared before, it "
        "was integer. "
    )
