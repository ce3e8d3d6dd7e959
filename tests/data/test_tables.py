"""read_tables: what a good folder gives, and what is said about a bad one."""

import datetime
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from recdistill.data import Columns, Dataset, read_tables
from recdistill.errors import DataError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
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


class TestAGoodFolder:
    def test_csv_gives_text_ids_whole_times_and_context_as_read(self, tmp_path):
        data = read_tables(write(tmp_path, interactions=RATINGS))
        assert everything(data).to_pydict() == {
            "user_id": ["1", "2"],
            "item_id": ["7", "8"],
            "timestamp": [100, 101],
            "rating": [4.5, 3.0],
            "device": ["tv", "phone"],
        }
        assert everything(data).schema.field("timestamp").type == pa.int64()
        assert data.items is None and data.queries is None

    def test_parquet_and_csv_give_the_same(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        table = log(rating=[4.5, 3.0], device=["tv", "phone"])
        ours = everything(read_tables(write(tmp_path / "a", interactions=table)))
        text = everything(read_tables(write(tmp_path / "b", interactions=RATINGS)))
        assert ours.equals(text)

    def test_roles_are_mapped_and_relevance_and_weight_are_float32(self, tmp_path):
        text = "who,what,when,stars,w\na,x,5,4,0\nb,y,6,-1,2.5\n"
        roles = Columns("who", "what", "when", "stars", "w")
        table = everything(read_tables(write(tmp_path, interactions=text), roles))
        assert table["stars"].to_pylist() == [4.0, -1.0]
        assert table["w"].to_pylist() == [0.0, 2.5]
        assert table.schema.field("stars").type == pa.float32()
        assert table.schema.field("w").type == pa.float32()

    def test_each_pass_gives_the_same(self, tmp_path):
        data = read_tables(write(tmp_path, interactions=RATINGS))
        assert everything(data).equals(everything(data))

    def test_items_and_queries_are_found_by_their_names(self, tmp_path):
        items = "item_id,title\n7,Seven\n8,\n"
        queries = pa.table({"user_id": [1, 2], "age": [31, 32]})
        folder = write(tmp_path, interactions=RATINGS, items=items, queries=queries)
        data = read_tables(folder)
        assert data.items.to_pydict() == {"item_id": ["7", "8"], "title": ["Seven", ""]}
        assert data.queries.to_pydict() == {"user_id": ["1", "2"], "age": [31, 32]}
        assert set(data.source) == {"interactions.csv", "items.csv", "queries.parquet"}

    def test_tables_may_have_other_names(self, tmp_path):
        folder = write(tmp_path, log=RATINGS, films="item_id\n7\n8\n")
        data = read_tables(folder, interactions="log", items="films.csv")
        assert everything(data).num_rows == 2
        assert data.items["item_id"].to_pylist() == ["7", "8"]

    def test_a_folder_of_parts_is_one_table_in_the_order_of_names(self, tmp_path):
        parts = tmp_path / "interactions"
        parts.mkdir()
        parquet.write_table(log(), parts / "part-0.parquet")
        parquet.write_table(log(item_id=[9, 9]), parts / "part-1.parquet")
        (parts / "_SUCCESS").touch()
        data = read_tables(tmp_path)
        assert everything(data)["item_id"].to_pylist() == ["7", "8", "9", "9"]
        assert set(data.source) == {
            "interactions/part-0.parquet",
            "interactions/part-1.parquet",
        }

    def test_csv_parts_share_the_types_of_the_first(self, tmp_path):
        parts = tmp_path / "interactions"
        parts.mkdir()
        head = "user_id,item_id,timestamp,score\n"
        (parts / "0.csv").write_text(head + "1,7,100,0.5\n")
        (parts / "1.csv").write_text(head + "1,8,101,2\n")
        assert everything(read_tables(tmp_path))["score"].to_pylist() == [0.5, 2.0]

    def test_quoted_text_may_hold_commas_and_line_breaks(self, tmp_path):
        items = 'item_id,title\n7,"Good, Bad\nand Ugly"\n'
        data = read_tables(write(tmp_path, interactions=RATINGS, items=items))
        assert data.items["title"].to_pylist() == ["Good, Bad\nand Ugly"]

    def test_types_of_items_are_inferred_from_all_rows(self, tmp_path):
        rows = "".join(f"{i},{i},{'x' * 60}\n" for i in range(80_000))
        items = "item_id,price,text\n" + rows + "last,0.5,x\n"
        data = read_tables(write(tmp_path, interactions=RATINGS, items=items))
        assert data.items["price"][-1].as_py() == 0.5

    def test_lists_of_ids_become_text_and_vectors_stay(self, tmp_path):
        items = pa.table(
            {
                "item_id": pa.array(["7", "8"]),
                "tags": pa.array([[1, 2], []], pa.list_(pa.int64())),
                "words": pa.array([["a"], None], pa.list_(pa.string())),
                "vector": pa.array([[0.5, 1.0], [2.0, 3.0]], pa.list_(pa.float32())),
                "kind": pa.array(["x", "y"]).dictionary_encode(),
                "price": pa.array([3, 4], pa.int32()),
            }
        )
        data = read_tables(write(tmp_path, interactions=log(), items=items))
        assert data.items["tags"].to_pylist() == [["1", "2"], []]
        assert data.items["words"].to_pylist() == [["a"], None]
        assert data.items.schema.field("vector").type == pa.list_(pa.float32())
        assert data.items["kind"].to_pylist() == ["x", "y"]
        assert data.items.schema.field("price").type == pa.int32()

    def test_a_byte_order_mark_and_windows_line_ends_are_fine(self, tmp_path):
        raw = b"\xef\xbb\xbf" + RATINGS.replace("\n", "\r\n").encode()
        data = read_tables(write(tmp_path, interactions=raw))
        assert everything(data)["user_id"].to_pylist() == ["1", "2"]


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
        ],
    )
    def test_ids_of_parquet_keep_their_text_or_digits(self, tmp_path, raw, ids):
        data = read_tables(write(tmp_path, interactions=log(user_id=raw)))
        assert everything(data)["user_id"].to_pylist() == ids
        assert everything(data).schema.field("user_id").type == pa.string()

    def test_ids_of_csv_lose_an_empty_fraction_and_keep_leading_zeros(self, tmp_path):
        text = "user_id,item_id,timestamp\n1.0,007,1\n-2.00,NA,2\nv1.0,x,3\n"
        table = everything(read_tables(write(tmp_path, interactions=text)))
        assert table["user_id"].to_pylist() == ["1", "-2", "v1.0"]
        assert table["item_id"].to_pylist() == ["007", "NA", "x"]

    @pytest.mark.parametrize(
        ("raw", "said"),
        [
            (pa.array([1.0, 1.5]), "row 2: must be a whole number. Received: 1.5"),
            (pa.array([1.0, float("nan")]), "row 2: must be a whole number"),
            (pa.array([1.0, 2.0**60]), "row 2: must be a whole number"),
            (pa.array(["a", None]), "row 2: must have a value. Received: None"),
            (pa.array(["a", ""]), "row 2: an id must not be empty"),
            (pa.array([True, False]), "must be text or integer, not bool"),
        ],
    )
    def test_other_ids_are_refused_with_their_row(self, tmp_path, raw, said):
        folder = write(tmp_path, interactions=log(item_id=raw))
        with pytest.raises(DataError, match=re.escape(said)):
            read_tables(folder)

    def test_a_fraction_in_csv_is_refused(self, tmp_path):
        text = "user_id,item_id,timestamp\n1,7,1\n1.5,7,2\n"
        with pytest.raises(DataError, match=r"`user_id`, row 2: .*Received: '1.5'"):
            read_tables(write(tmp_path, interactions=text))

    def test_a_repeated_item_is_named_with_its_rows(self, tmp_path):
        items = "item_id\n7\n8\n9\n8\n"
        with pytest.raises(DataError, match=r"'8' is in rows 2, 4\. Keep one row"):
            read_tables(write(tmp_path, interactions=RATINGS, items=items))

    def test_ids_that_become_equal_as_text_are_repeated(self, tmp_path):
        queries = "user_id\n1\n1.0\n"
        with pytest.raises(DataError, match="'1' is in rows 1, 2"):
            read_tables(write(tmp_path, interactions=RATINGS, queries=queries))

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
            (pa.array([NEW_YEAR, NEW_YEAR], pa.timestamp("ns", "UTC")), [0, 0]),
            (pa.array([NEW_YEAR, NEW_YEAR], pa.timestamp("s")), [0, 0]),
            (pa.array([NEW_YEAR.date(), NEW_YEAR.date()], pa.date32()), [0, 0]),
        ],
    )
    def test_numbers_stay_and_dates_become_microseconds(self, tmp_path, raw, times):
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
            (pa.array([1.0, 1.5]), "row 2: must be a whole number. Received: 1.5"),
            (pa.array(["1", "1.5"]), "row 2: must be a whole number. Received: 1.5"),
            (pa.array([1, None]), "row 2: must have a value"),
            (pa.array([1, 2**63], pa.uint64()), "row 2: a time must fit 64 bits"),
            (pa.array([True, False]), "a time must be integer or date, not bool"),
        ],
    )
    def test_other_times_are_refused_with_their_row(self, tmp_path, raw, said):
        folder = write(tmp_path, interactions=log(timestamp=raw))
        with pytest.raises(DataError, match=re.escape(said)):
            read_tables(folder)

    def test_a_later_file_may_not_change_the_unit(self, tmp_path):
        parts = tmp_path / "interactions"
        parts.mkdir()
        head = "user_id,item_id,timestamp\n"
        (parts / "0.csv").write_text(head + "1,7,100\n")
        (parts / "1.csv").write_text(head + "1,7,2024-01-01\n")
        with pytest.raises(DataError, match=r"1.csv, column `timestamp`, row 1"):
            everything(read_tables(tmp_path))

    def test_the_row_counts_on_through_the_batches_of_a_file(self, tmp_path):
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
            ("weight", pa.array([1.0, float("nan")]), "row 2: must be finite"),
            ("weight", pa.array([1.0, float("inf")]), "row 2: must be finite"),
            ("weight", pa.array([0.0, -0.5]), "row 2: a weight must not be negative"),
        ],
    )
    def test_bad_values_are_refused_with_their_row(self, tmp_path, role, raw, said):
        folder = write(tmp_path, interactions=log(value=raw))
        with pytest.raises(DataError, match=re.escape(said)):
            read_tables(folder, {role: "value"})

    def test_an_empty_cell_of_csv_is_missing(self, tmp_path):
        text = "user_id,item_id,timestamp,stars\n1,7,1,5\n1,8,2,\n"
        folder = write(tmp_path, interactions=text)
        with pytest.raises(DataError, match=r"`stars`, row 2: must be a number"):
            read_tables(folder, {"relevance": "stars"})


class TestABadFolder:
    def test_no_folder(self, tmp_path):
        with pytest.raises(DataError, match="must be a folder of tables"):
            read_tables(tmp_path / "nowhere")

    def test_a_missing_table_names_the_nearest_file_and_all_there_are(self, tmp_path):
        write(tmp_path, interaction=RATINGS, other="a\n1\n")
        with pytest.raises(DataError) as error:
            read_tables(tmp_path)
        assert "no table 'interactions'" in str(error.value)
        assert "Did you mean 'interaction'?" in str(error.value)
        assert "The folder contains: interaction.csv, other.csv" in str(error.value)

    def test_a_named_table_must_be_there(self, tmp_path):
        with pytest.raises(DataError, match="no table 'movies'"):
            read_tables(write(tmp_path, interactions=RATINGS), items="movies")

    def test_two_tables_of_one_name(self, tmp_path):
        write(tmp_path, interactions=RATINGS)
        write(tmp_path, interactions=log())
        with pytest.raises(DataError, match=r"interactions.parquet, interactions.csv"):
            read_tables(tmp_path)

    def test_a_missing_column_names_the_nearest_and_all_there_are(self, tmp_path):
        text = "userId,item_id,timestamp\n1,7,1\n"
        with pytest.raises(DataError) as error:
            read_tables(write(tmp_path, interactions=text))
        assert "no column 'user_id'. Did you mean 'userId'?" in str(error.value)
        assert "userId, item_id, timestamp. Map your names" in str(error.value)

    def test_a_missing_id_column_of_items(self, tmp_path):
        folder = write(tmp_path, interactions=RATINGS, items="id,title\n7,x\n")
        with pytest.raises(DataError, match=r"items.csv has no column 'item_id'"):
            read_tables(folder)

    def test_a_repeated_column(self, tmp_path):
        text = "user_id,item_id,timestamp,x,x\n1,7,1,2,3\n"
        with pytest.raises(DataError, match="several columns named 'x'"):
            read_tables(write(tmp_path, interactions=text))

    @pytest.mark.parametrize("text", ["user_id,item_id,timestamp\n", log().slice(0, 0)])
    def test_no_interactions(self, tmp_path, text):
        with pytest.raises(DataError, match="must have at least one row"):
            read_tables(write(tmp_path, interactions=text))

    def test_an_empty_file(self, tmp_path):
        with pytest.raises(DataError, match=r"interactions.csv cannot be read: Empty"):
            read_tables(write(tmp_path, interactions=b""))

    def test_a_row_of_another_width(self, tmp_path):
        text = "user_id,item_id,timestamp\n1,7,1\n1,8\n"
        with pytest.raises(DataError, match="Expected 3 columns, got 2"):
            read_tables(write(tmp_path, interactions=text))

    @pytest.mark.parametrize("before", [0, 3_000_000])
    def test_text_that_is_not_utf8_is_found_to_the_byte(self, tmp_path, before):
        good = b"user_id,item_id,timestamp\n" + b"\xc3\xa9,7,1\n" * before
        write(tmp_path, interactions=good + b"caf\xe9,7,1\n")
        with pytest.raises(DataError) as error:
            read_tables(tmp_path)
        said = f"byte 0xe9 at offset {len(good) + 3} (line {before + 2})"
        assert said in str(error.value)

    def test_utf8_that_breaks_off_at_the_end_is_found(self, tmp_path):
        raw = b"user_id,item_id,timestamp\nx,7,1\n\xc3"
        with pytest.raises(DataError, match=f"byte 0xc3 at offset {len(raw) - 1}"):
            read_tables(write(tmp_path, interactions=raw))

    def test_a_damaged_parquet_file(self, tmp_path):
        (tmp_path / "interactions.parquet").write_bytes(b"PAR1 and nothing else PAR1")
        with pytest.raises(DataError, match=r"interactions.parquet cannot be read"):
            read_tables(tmp_path)

    def test_parts_that_differ_say_in_what(self, tmp_path):
        parts = tmp_path / "interactions"
        parts.mkdir()
        parquet.write_table(log(), parts / "0.parquet")
        parquet.write_table(log(user_id=["a", "b"]), parts / "1.parquet")
        with pytest.raises(DataError, match="'user_id' is string instead of int64"):
            read_tables(tmp_path)

    def test_parts_of_two_kinds(self, tmp_path):
        parts = tmp_path / "interactions"
        parts.mkdir()
        parquet.write_table(log(), parts / "0.parquet")
        (parts / "1.csv").write_text(RATINGS)
        with pytest.raises(DataError, match=r"Received: .csv, .parquet"):
            read_tables(tmp_path)


class TestColumns:
    def test_an_unknown_role_names_the_nearest(self):
        with pytest.raises(DataError, match="Received: 'user'"):
            Columns.of({"user": "u"})
        with pytest.raises(DataError, match=r"Did you mean 'weight'\?"):
            Columns.of({"weights": "w"})

    def test_one_column_cannot_play_two_roles(self):
        with pytest.raises(DataError, match="Received: 'id' for several roles"):
            Columns(query="id", item="id")

    def test_roles_left_out_keep_their_names(self):
        assert Columns.of({"time": "when"}) == Columns(time="when")
        assert Columns.of(None) == Columns()


class TestFingerprint:
    def test_it_follows_the_content_and_nothing_else(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        one = read_tables(write(tmp_path / "a", interactions=RATINGS))
        same = read_tables(write(tmp_path / "b", interactions=RATINGS))
        assert one.fingerprint == same.fingerprint
        other = read_tables(
            write(tmp_path / "b", interactions=RATINGS + "3,7,9,1,tv\n")
        )
        assert one.fingerprint != other.fingerprint

    def test_the_source_is_the_hash_of_each_file(self, tmp_path):
        data = read_tables(
            write(tmp_path, interactions=b"user_id,item_id,timestamp\n1,2,3\n")
        )
        # printf 'user_id,item_id,timestamp\n1,2,3\n' | sha256sum
        digest = "e14300272f5bc7d5287f09f5958a925ad1b978fb4ebe337b14e8c4d2f078429e"
        assert data.source == {"interactions.csv": digest}


class TestStreaming:
    ROWS = 1_000_000

    def folder(self, tmp_path: Path, kind: str) -> Path:
        numbers = np.arange(self.ROWS)
        table = pa.table(
            {"user_id": numbers, "item_id": numbers % 1000, "timestamp": numbers}
        )
        if kind == "csv":
            csv.write_csv(table, tmp_path / "interactions.csv")
        else:
            path = tmp_path / "interactions.parquet"
            parquet.write_table(table, path, row_group_size=50_000)
        return tmp_path

    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    def test_batches_are_small_and_nothing_is_lost(self, tmp_path, kind):
        data = read_tables(self.folder(tmp_path, kind))
        sizes, total = [], 0
        for batch in data.interactions():
            sizes.append(batch.num_rows)
            total += sum(batch["timestamp"].to_pylist())
        assert max(sizes) <= 65_536
        assert sum(sizes) == self.ROWS
        assert total == self.ROWS * (self.ROWS - 1) // 2

    def test_memory_does_not_hold_the_whole(self, tmp_path):
        data = read_tables(self.folder(tmp_path, "parquet"))
        whole = everything(data).nbytes
        held = pa.total_allocated_bytes()
        peak = 0
        for batch in data.interactions():
            peak = max(peak, pa.total_allocated_bytes() - held)
            del batch
        assert peak < whole / 2


@pytest.mark.real_data
class TestAmazonBeauty:
    @pytest.fixture
    def data(self) -> Dataset:
        folder = SHARED / "amazon-beauty"
        if not folder.is_dir():
            pytest.skip(f"{folder} is not there")
        return read_tables(folder, {"time": "position"})

    def test_all_of_it_is_read(self, data):
        table = everything(data)
        assert table.num_rows == 198_502
        assert len(table["user_id"].unique()) == 22_363
        assert data.items.num_rows == 12_101
        assert data.items.schema.field("attributes").type == pa.list_(pa.string())
