"""Ids, times, relevance and weights: conversion and errors, through read_tables."""

import datetime
import re
import uuid

import pyarrow as pa
import pytest
from pyarrow import csv

from recdistill.data import read_tables
from recdistill.data.column_values import Place, scores
from recdistill.data.reading_options import ReadingOptions
from recdistill.data.times import Times
from recdistill.errors import DataError
from recdistill.features.raw_text import text_of
from tests.data.table_files import RATINGS, everything, log, write

NOT_UTF8 = pa.array([b"a", b"\xff"]).view(pa.string())
"""Text as a program that does not check it may have stored it."""


class TestIds:
    @pytest.mark.parametrize(
        ("raw", "ids"),
        [
            (pa.array([1, -2], pa.int8()), ["1", "-2"]),
            (pa.array([2**63 + 1, 0], pa.uint64()), ["9223372036854775809", "0"]),
            (pa.array([1.0, 12.0]), ["1", "12"]),
            (pa.array(["1.0", "007"]), ["1.0", "007"]),
            (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
            (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
            (pa.array([5, 6]).cast(pa.decimal128(38, 0)), ["5", "6"]),
            (
                pa.array([2**60 + 1, 6]).cast(pa.decimal128(30, 2)),
                [str(2**60 + 1), "6"],
            ),
            (pa.array([b"a", b"\xc3\xa9"], pa.binary()), ["a", "é"]),
            (
                pa.array([uuid.UUID(int=k).bytes for k in (1, 2)], pa.binary(16)),
                [str(uuid.UUID(int=k)) for k in (1, 2)],
            ),
            (
                pa.array([uuid.UUID(int=k).bytes for k in (1, 2)], pa.uuid()),
                [str(uuid.UUID(int=k)) for k in (1, 2)],
            ),
        ],
    )
    def test_ids_of_parquet_keep_their_text_or_digits(self, tmp_path, raw, ids):
        data = read_tables(write(tmp_path, interactions=log(user_id=raw)))
        assert everything(data)["user_id"].to_pylist() == ids
        assert everything(data).schema.field("user_id").type == pa.string()

    def test_ids_of_csv_are_the_text_of_the_file(self, tmp_path):
        text = "user_id,item_id,timestamp\n1.0,007,1\n-2.50,NA,2\ntrue,x,3\n"
        table = everything(read_tables(write(tmp_path, interactions=text)))
        assert table["user_id"].to_pylist() == ["1.0", "-2.50", "true"]
        assert table["item_id"].to_pylist() == ["007", "NA", "x"]

    @pytest.mark.parametrize(
        ("raw", "said"),
        [
            (pa.array([1.0, 1.5]), "row 2: an id: it must be a whole number"),
            (pa.array([1.0, float("nan")]), "row 2: must have a value"),
            (pa.array([1.0, 2.0**60]), "row 2: an id: it must be a whole number"),
            (
                pa.array([1.0, 2.0**24], pa.float32()),
                "row 2: an id: it must be a whole number that a float holds exactly",
            ),
            (pa.array([b"a", b"\xff"]), "row 2: an id: a binary value must be UTF-8"),
            (pa.array([b"a", b"\0"]), "row 2: an id: a binary value must be UTF-8"),
            (pa.array([{"a": 1}, {"a": 2}]), "row 1: an id: it must be one value"),
            (pa.array(["a", None]), "row 2: must have a value. Received: None"),
            (pa.array(["a", ""]), "row 2: an id must not be empty"),
            (pa.array(["a", " \t"]), "row 2: an id must not be empty"),
            (pa.array(["a", "b\0"]), "row 2: an id: text must not have a NUL"),
            (NOT_UTF8, "row 2: an id: 'utf-8' codec can't decode byte 0xff"),
            (pa.array([True, False]), "must be text or integer, not bool"),
        ],
    )
    def test_other_ids_are_refused_with_their_row(self, tmp_path, raw, said):
        folder = write(tmp_path, interactions=log(item_id=raw))
        with pytest.raises(DataError, match=re.escape(said)):
            read_tables(folder)

    def test_a_repeated_item_is_named_with_its_rows(self, tmp_path):
        items = "item_id\n7\n8\n9\n8\n"
        with pytest.raises(DataError, match=r"'8' is in rows 2, 4\. Keep one row"):
            read_tables(write(tmp_path, interactions=RATINGS, items=items))

    def test_ids_that_differ_as_text_are_different_ids(self, tmp_path):
        queries = "user_id\n1\n01\n1.0\n"
        data = read_tables(write(tmp_path, interactions=RATINGS, queries=queries))
        assert data.queries["user_id"].to_pylist() == ["1", "01", "1.0"]

    def test_an_item_without_id_is_named_with_its_row(self, tmp_path):
        items = pa.table({"item_id": pa.array(["7", None])})
        with pytest.raises(DataError, match=r"items.parquet, column `item_id`, row 2"):
            read_tables(write(tmp_path, interactions=log(), items=items))


SECOND = 1_000_000
NEW_YEAR = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
NEW_YEAR_US = int(NEW_YEAR.timestamp()) * SECOND


class TestTimes:
    @pytest.mark.parametrize(
        ("raw", "times"),
        [
            (pa.array([5, 6], pa.int32()), [5, 6]),
            (pa.array([5.0, 1e12]), [5, 10**12]),
            (pa.array(["5", " 6 "]), [5, 6]),
            (pa.array(["5", "6.0"]), [5, 6]),
            (pa.array(["2024-01-01", "2024-01-01T00:00:01"]), [0, SECOND]),
            (
                pa.array(["2024-01-01 00:00:00.5", "2024-01-02"]),
                [500_000, 86_400 * SECOND],
            ),
            (
                pa.array(["2024-01-01T02:00:00+02:00", "2024-01-01T00:00:01Z"]),
                [0, SECOND],
            ),
            (
                pa.array(["2024-01-01 00:00:00 UTC", "2024-01-01 00:00:01Z"]),
                [0, SECOND],
            ),
            (pa.array(["2024-01-01 02:00:00 +0200", "2024-01-01 00:00 GMT"]), [0, 0]),
            (pa.array(["2024-01-01T00:00:00.123456789", "2024-01-01"]), [123_456, 0]),
            (pa.array([NEW_YEAR, NEW_YEAR], pa.timestamp("ns", "UTC")), [0, 0]),
            (pa.array([NEW_YEAR, NEW_YEAR], pa.timestamp("s")), [0, 0]),
            (pa.array([NEW_YEAR.date(), NEW_YEAR.date()], pa.date32()), [0, 0]),
        ],
    )
    def test_numbers_are_unchanged_and_dates_become_microseconds(
        self, tmp_path, raw, times
    ):
        dates = pa.types.is_temporal(raw.type) or "-" in str(raw[0])
        data = read_tables(write(tmp_path, interactions=log(timestamp=raw)))
        origin = NEW_YEAR_US if dates else 0
        assert everything(data)["timestamp"].to_pylist() == [origin + t for t in times]

    @pytest.mark.parametrize(
        ("raw", "said"),
        [
            (pa.array(["5", "soon"]), "row 2: a time must be a whole number, like"),
            (pa.array(["soon", "5"]), "row 1: a time must be a whole number or an ISO"),
            (pa.array(["2024-01-01", "5"]), "row 2: a time must be a whole number or"),
            (
                pa.array(["5", "2024-01-01"]),
                "row 2: a time must be a whole number, like",
            ),
            (pa.array([1, None]), "row 2: must have a value"),
            (pa.array([1, 2**63], pa.uint64()), "row 2: a time must fit 64 bits"),
            (pa.array([True, False]), "a time must be integer or date, not bool"),
            (pa.array(["5", "0x10"]), "row 2: a time must be a whole number, like"),
            (pa.array([1, 10**15], pa.timestamp("s")), "row 2: a time must fit 64"),
            (pa.array([1, 2**31 - 1], pa.date32()), "row 2: a time must fit 64 bits"),
            (pa.array(["5", "9" * 19]), "row 2: must be a 64-bit integer"),
        ],
    )
    def test_other_times_are_refused_with_their_row(self, tmp_path, raw, said):
        folder = write(tmp_path, interactions=log(timestamp=raw))
        with pytest.raises(DataError, match=re.escape(said)):
            read_tables(folder)

    @pytest.mark.parametrize(
        "raw", [pa.array(["5.5", "6"]), pa.array([6.0, 5.5]), pa.array(["6", "5.5"])]
    )
    def test_numbers_with_a_fraction_are_seconds(self, tmp_path, raw):
        data = read_tables(write(tmp_path, interactions=log(timestamp=raw)))
        got = everything(data)["timestamp"].to_pylist()
        assert got == [round(float(each.as_py()) * SECOND) for each in raw]

    def test_a_fraction_after_whole_numbers_is_refused(self, tmp_path):
        parts = tmp_path / "interactions"
        parts.mkdir()
        head = "user_id,item_id,timestamp\n"
        (parts / "0.csv").write_text(head + "1,7,100.0\n")
        (parts / "1.csv").write_text(head + "1,7,101.5\n")
        with pytest.raises(DataError, match=r"1.csv, .*row 1: must be a whole number"):
            everything(read_tables(tmp_path))

    @pytest.mark.parametrize(
        ("given", "raw", "times"),
        [
            ("s", pa.array([5, 6]), [5 * SECOND, 6 * SECOND]),
            ("s", pa.array(["5", "6.25"]), [5 * SECOND, 6_250_000]),
            ("ms", pa.array(["5", "6"]), [5_000, 6_000]),
            ("us", pa.array([5.0, 6.0]), [5, 6]),
            ("ns", pa.array([5_999, 6_000]), [5, 6]),
            ("%Y%m%d", pa.array([19700101, 19700102]), [0, 86_400 * SECOND]),
            (
                "%m/%d/%Y %I:%M:%S %p",
                pa.array(["01/01/1970 12:00:01 AM", "01/01/1970 1:00:00 PM"]),
                [SECOND, 13 * 3600 * SECOND],
            ),
            (
                "%d.%m.%Y %H:%M:%S.%f %z",
                pa.array(
                    ["01.01.1970 00:00:00.5 +0000", "01.01.1970 01:00:00.0 +0100"]
                ),
                [500_000, 0],
            ),
        ],
    )
    def test_a_format_may_be_given(self, tmp_path, given, raw, times):
        options = ReadingOptions(time_format=given)
        folder = write(tmp_path, interactions=log(timestamp=raw))
        data = read_tables(folder, options=options)
        assert everything(data)["timestamp"].to_pylist() == times

    @pytest.mark.parametrize("raw", [[1, 2**63 - 1], ["1", "-9223372036854775808"]])
    def test_a_time_that_leaves_64_bits_as_microseconds_is_refused(self, tmp_path, raw):
        folder = write(tmp_path, interactions=log(timestamp=pa.array(raw)))
        with pytest.raises(DataError, match="row 2: a time must fit 64 bits"):
            read_tables(folder, options=ReadingOptions(time_format="s"))

    def test_a_time_of_another_format_is_named_with_its_row(self, tmp_path):
        times = pa.array(["01/02/2024", "2024-01-02"])
        folder = write(tmp_path, interactions=log(timestamp=times))
        with pytest.raises(DataError, match=r"row 2: a time must have the format '%m"):
            read_tables(folder, options=ReadingOptions(time_format="%m/%d/%Y"))

    @pytest.mark.parametrize(
        "pieces",
        [
            [pa.array([1_700_000_000]), pa.array([1_600_000_000.5])],
            [pa.array([0], pa.timestamp("us")), pa.array([1_700_000_000])],
            [pa.array([1_700_000_000]), pa.array([0], pa.timestamp("us"))],
            [pa.array(["1700000000"]), pa.array([0], pa.timestamp("us"))],
            [pa.array(["2023-11-14T00:00:00"]), pa.array([1_700_000_000])],
            [pa.array([1_700_000_000]), pa.array(["2023-11-14"])],
        ],
    )
    def test_one_unit_holds_for_the_whole_stream(self, pieces):
        times = Times()
        times(pieces[0], Place("log", "time"))
        with pytest.raises(DataError, match=r"row 1|must be integer or date"):
            times(pieces[1], Place("log", "time"))

    def test_no_values_do_not_decide_the_unit(self):
        times = Times()
        for kind in (pa.float64(), pa.int64()):
            assert len(times(pa.array([], kind), Place("log", "time"))) == 0
        assert times(pa.array([1.5]), Place("log", "time")).to_pylist() == [1_500_000]

    def test_a_later_file_may_not_change_the_unit(self, tmp_path):
        parts = tmp_path / "interactions"
        parts.mkdir()
        head = "user_id,item_id,timestamp\n"
        (parts / "0.csv").write_text(head + "1,7,100\n")
        (parts / "1.csv").write_text(head + "1,7,2024-01-01\n")
        with pytest.raises(DataError, match=r"1.csv, column `timestamp`, row 1"):
            everything(read_tables(tmp_path))

    def test_row_numbers_continue_across_batches(self, tmp_path):
        times = ["1"] * 200_000
        times[150_000] = "never"
        table = pa.table(
            {"user_id": ["u"] * 200_000, "item_id": ["i"] * 200_000, "timestamp": times}
        )
        csv.write_csv(table, tmp_path / "interactions.csv")
        data = read_tables(tmp_path)
        with pytest.raises(DataError, match=r"row 150001: .*'never'"):
            everything(data)


class TestRelevanceAndWeight:
    @pytest.mark.parametrize(
        ("role", "raw", "said"),
        [
            ("relevance", pa.array([1.0, float("nan")]), "row 2: must be finite"),
            ("relevance", pa.array([1.0, float("-inf")]), "Received: -inf"),
            ("relevance", pa.array([1.0, 1e300]), "row 2: must be finite"),
            ("relevance", pa.array(["1", "much"]), "row 2: must be a number"),
            ("relevance", pa.array([1.0, None]), "row 2: must have a value"),
            ("relevance", pa.array([[1.0], [2.0]]), "must be a number, not list"),
            ("relevance", pa.array([1, -1]), "row 2: a relevance must be 0 (shown"),
            ("weight", pa.array([1.0, float("nan")]), "row 2: must be finite"),
            ("weight", pa.array([1.0, float("inf")]), "row 2: must be finite"),
            ("weight", pa.array([0.0, -0.5]), "row 2: a weight must not be negative"),
        ],
    )
    def test_bad_values_are_refused_with_their_row(self, tmp_path, role, raw, said):
        folder = write(tmp_path, interactions=log(value=raw))
        with pytest.raises(DataError, match=re.escape(said)):
            read_tables(folder, {role: "value"})

    def test_rows_with_relevance_0_are_not_interactions(self, tmp_path):
        text = "user_id,item_id,timestamp,thumb\n1,7,1,1\n1,8,2,0\n2,8,3,0.5\n"
        folder = write(tmp_path, interactions=text)
        table = everything(read_tables(folder, {"relevance": "thumb"}))
        assert table["thumb"].to_pylist() == [1.0, 0.5]

    def test_an_empty_cell_of_csv_is_missing(self, tmp_path):
        text = "user_id,item_id,timestamp,stars\n1,7,1,5\n1,8,2,\n"
        folder = write(tmp_path, interactions=text)
        with pytest.raises(DataError, match=r"`stars`, row 2: must be a number"):
            read_tables(folder, {"relevance": "stars"})


def test_scores_of_a_column_without_a_type_are_missing():
    place = Place("lists", "score", 1)
    assert scores(pa.nulls(2), place).equals(pa.nulls(2, pa.float32()))


@pytest.mark.parametrize("form", [None, "s", "ms"])
@pytest.mark.parametrize(
    ("kind", "bits", "time"), [("float32", 24, 1.7e9), ("float16", 11, 4_000.0)]
)
def test_a_time_that_a_short_float_has_rounded_is_refused(form, kind, bits, time):
    times = pa.array([5.0, time]).cast(getattr(pa, kind)())
    wanted = rf"row 2: a float of {kind[5:]} bits must be below 2\*\*{bits}"
    with pytest.raises(DataError, match=wanted):
        Times(form)(times, Place("log", "timestamp", 1))


def test_categories_from_floats_of_32_bits_may_be_rounded():
    assert text_of(pa.array([2.0**25], pa.float32())).to_pylist() == ["33554432"]
