"""read_frames: DataFrames and Arrow tables give what files give."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recdistill.data import read_frames, read_listwise, read_tables
from recdistill.data.reading_options import ReadingOptions, TableOptions
from recdistill.errors import DataError


def log(**changes):
    columns = {
        "user_id": [1, 1, 2],
        "item_id": ["a", "b", "a"],
        "timestamp": [10, 20, 30],
    }
    return pd.DataFrame({**columns, **changes})


def tables():
    return {
        "interactions": log(rating=[4.0, 5.0, 0.5], device=["web", None, "app"]),
        "items": pd.DataFrame(
            {"item_id": ["a", "b"], "tags": [[1, 2], []], "price": [1.5, np.nan]}
        ),
        "queries": pd.DataFrame(
            {"user_id": [1, 2], "country": pd.Categorical(["de", "at"])}
        ),
    }


def lists():
    return pd.DataFrame(
        {
            "list_id": [7, 7, 8],
            "user_id": [1, 1, 2],
            "item_id": ["a", "b", "c"],
            "timestamp": pd.to_datetime(["2024-01-01"] * 3),
            "relevance": [1, 0, 1],
            "score": [0.5, np.nan, -1.0],
        }
    )


def everything(data):
    return pa.Table.from_batches(data.interactions())


def same_as_files(frames, folder, read, columns):
    """The data set of frames, compared with that of the same tables as Parquet."""
    for name, frame in frames.items():
        frame.to_parquet(folder / f"{name}.parquet", index=False)
    data, from_files = read_frames(frames, columns), read(folder, columns)
    assert everything(data).to_pylist() == everything(from_files).to_pylist()
    assert data.columns == from_files.columns
    for mine, other in (
        (data.items, from_files.items),
        (data.queries, from_files.queries),
    ):
        assert (mine is None) == (other is None)
        assert mine is None or mine.to_pylist() == other.to_pylist()
    return data


def test_frames_give_what_the_same_files_give(tmp_path):
    data = same_as_files(tables(), tmp_path, read_tables, {"relevance": "rating"})
    rows = everything(data)
    assert rows["user_id"].to_pylist() == ["1", "1", "2"]
    assert rows["rating"].to_pylist() == [4.0, 5.0, 0.5]
    assert rows.schema.field("rating").type == pa.float32()
    assert data.items["tags"].to_pylist() == [["1", "2"], []]
    assert data.name == "tables"


def test_a_table_of_lists_gives_what_the_same_files_give(tmp_path):
    data = same_as_files(
        {"lists": lists()}, tmp_path, read_listwise, {"score": "score"}
    )
    assert data.columns.list == "list_id"
    assert data.items["item_id"].to_pylist() == ["a", "b", "c"]
    assert everything(data)["item_id"].to_pylist() == ["a", "c"]
    (scores,) = data.scores()
    assert scores.to_pydict() == {
        "key": ["7", "8"],
        "item": ["a", "c"],
        "score": [0.5, -1.0],
    }


def test_arrow_tables_are_taken_too():
    frames = tables()
    arrow = {
        name: pa.Table.from_pandas(frame, preserve_index=False)
        for name, frame in frames.items()
    }
    one, other = read_frames(frames), read_frames(arrow)
    assert everything(one).to_pylist() == everything(other).to_pylist()
    assert one.fingerprint == other.fingerprint


def test_the_interactions_can_be_read_again_and_in_batches():
    count = 150_000
    data = read_frames(
        {
            "interactions": pd.DataFrame(
                {
                    "user_id": np.arange(count) % 7,
                    "item_id": np.arange(count) % 11,
                    "timestamp": np.arange(count),
                }
            )
        }
    )
    for _ in range(2):
        batches = list(data.interactions())
        assert [len(batch) for batch in batches] == [65_536, 65_536, 18_928]
    assert everything(data)["timestamp"].to_pylist() == list(range(count))


class TestFingerprint:
    def test_equal_tables_have_the_same_one(self):
        assert read_frames(tables()).fingerprint == read_frames(tables()).fingerprint

    def test_index_chunks_and_order_of_tables_do_not_matter(self):
        usual = read_frames(tables())
        frames = dict(reversed(tables().items()))
        frames["interactions"].index = [5, 5, 9]
        assert read_frames(frames).fingerprint == usual.fingerprint
        whole = pa.Table.from_pandas(log())
        chunked = pa.concat_tables([whole.slice(0, 1), whole.slice(1)])
        one, other = (read_frames({"interactions": t}) for t in (whole, chunked))
        assert one.fingerprint == other.fingerprint
        assert one.fingerprint == read_frames({"interactions": log()}).fingerprint

    @pytest.mark.parametrize(
        "change",
        [
            {"timestamp": [10, 20, 31]},
            {"item_id": ["a", "b", "c"]},
            {"user_id": ["1", "1", "2"]},
            {"extra": [0, 0, 0]},
        ],
    )
    def test_any_change_gives_another_one(self, change):
        one, other = (
            read_frames({"interactions": each}) for each in (log(), log(**change))
        )
        assert one.fingerprint != other.fingerprint
        assert one.source.keys() == other.source.keys() == {"interactions"}


class TestErrors:
    @pytest.mark.parametrize(
        ("frames", "message"),
        [
            ({}, "must have the key interactions or the key lists. Received: no table"),
            ({"items": log()}, "Received: items"),
            ({"interactions": log(), "lists": lists()}, "interactions or the key"),
            ({"interaction": log()}, r"'interaction'. Did you mean 'interactions'\?"),
            ({"interactions": [1]}, "must be a pandas DataFrame or a pyarrow Table"),
            ({"interactions": log().iloc[:0]}, "must have at least one row"),
            (
                {"interactions": log().drop(columns="item_id")},
                "Table `interactions` has no column 'item_id'",
            ),
            (
                {"interactions": log(user_id=[1, None, 2])},
                "Table `interactions`, column `user_id`, row 2: must have a value",
            ),
            (
                {"interactions": log(user_id=[2**70, 1, 2])},
                "Table `interactions`, column `user_id`: values must have one type",
            ),
            (
                {"interactions": log(note=[1, "x", None])},
                "Table `interactions`, column `note`: values must have one type",
            ),
            (
                {"interactions": log(), "items": pd.DataFrame({"item_id": ["a", "a"]})},
                "Table `items`, column `item_id`: ids must be unique, but 'a' is in",
            ),
        ],
    )
    def test_bad_tables_are_refused_with_table_column_and_row(self, frames, message):
        with pytest.raises(DataError, match=message):
            read_frames(frames)

    def test_a_duplicate_column_is_named(self):
        twice = pd.concat([log(), log()[["item_id"]]], axis=1)
        with pytest.raises(DataError, match="several columns named 'item_id'"):
            read_frames({"interactions": twice})

    def test_a_bad_value_far_down_is_found_while_reading(self):
        count = 70_000
        frame = pd.DataFrame(
            {
                "user_id": np.arange(count),
                "item_id": np.arange(count),
                "timestamp": np.where(np.arange(count) == 69_000, 0.5, 1.0),
            }
        )
        data = read_frames({"interactions": frame})
        with pytest.raises(DataError, match="`timestamp`, row 69001: must be a whole"):
            list(data.interactions())


def test_times_with_a_zone_become_microseconds_in_utc():
    times = pd.to_datetime(["2024-01-01T01:00+01:00"] * 3)
    rows = everything(read_frames({"interactions": log(timestamp=times)}))
    assert rows["timestamp"].to_pylist() == [1_704_067_200_000_000] * 3


def test_types_of_columns_may_be_given():
    log = pd.DataFrame(
        {"user_id": ["01", "2.0"], "item_id": ["a", "b"], "timestamp": [1, 2]}
    )
    types = TableOptions(types={"user_id": "integer"})
    options = ReadingOptions(tables={"interactions": types})
    data = read_frames({"interactions": log}, options=options)
    assert next(data.interactions())["user_id"].to_pylist() == ["1", "2"]
    options = ReadingOptions(tables={"queries": types})
    with pytest.raises(DataError, match="no key queries, although"):
        read_frames({"interactions": log}, options=options)


def test_nullable_integers_are_ids():
    typed = log().astype({"user_id": "Int64"})
    rows = everything(read_frames({"interactions": typed}))
    assert rows["user_id"].to_pylist() == ["1", "1", "2"]


def test_values_under_nulls_do_not_count():
    plain, changed = (pd.array(values, "Int64") for values in ([1, 0, 3], [1, 7, 3]))
    plain[1] = changed[1] = pd.NA
    one, other = (
        read_frames({"interactions": log(device=each)}) for each in (plain, changed)
    )
    assert one.fingerprint == other.fingerprint


def test_text_may_have_any_pandas_type(tmp_path):
    frame = log()
    for kind in ("object", "string", "string[pyarrow]"):
        typed = frame.astype({"item_id": kind})
        data = read_frames({"interactions": typed})
        assert data.fingerprint == read_frames({"interactions": frame}).fingerprint
        got = everything(data)
        assert got["item_id"].type == pa.string()
        assert got["item_id"].to_pylist() == ["a", "b", "a"]
    pq.write_table(pa.Table.from_pandas(typed), tmp_path / "interactions.parquet")
    assert everything(read_tables(tmp_path)).num_rows == 3


@pytest.mark.parametrize("column", ["timestamp", "user_id"])
def test_periods_are_refused_with_the_remedy(column):
    frame = log()
    days = pd.Series(pd.period_range("2024-03-12", periods=len(frame)))
    said = rf"column `{column}`, row 1: .*\.dt\.to_timestamp\(\)"
    with pytest.raises(DataError, match=said):
        everything(read_frames({"interactions": frame.assign(**{column: days})}))
