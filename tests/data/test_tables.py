"""read_tables: data of good folders and errors of bad ones."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from recdistill.data import Columns, Dataset, read_tables
from recdistill.errors import DataError
from tests.data.table_files import RATINGS, everything, log, write
from tests.real_data import real_data


class TestAGoodFolder:
    def test_csv_gives_text_ids_integer_times_and_context_as_read(self, tmp_path):
        data = read_tables(write(tmp_path, interactions=RATINGS))
        assert everything(data).to_pydict() == {
            "user_id": ["1", "2"],
            "item_id": ["7", "8"],
            "timestamp": [100, 101],
            "rating": ["4.5", "3"],
            "device": ["tv", "phone"],
        }
        assert everything(data).schema.field("timestamp").type == pa.int64()
        assert data.items is None and data.queries is None

    def test_parquet_and_csv_give_the_same(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        table = log(rating=[4.5, 3.0], device=["tv", "phone"])
        roles = {"relevance": "rating"}
        ours, text = (
            everything(read_tables(write(tmp_path / name, interactions=each), roles))
            for name, each in (("a", table), ("b", RATINGS))
        )
        assert ours.equals(text)

    def test_roles_are_mapped_and_relevance_and_weight_are_float32(self, tmp_path):
        text = "who,what,when,stars,w\na,x,5,4,0\nb,y,6,1,2.5\n"
        roles = Columns("who", "what", "when", "stars", "w")
        table = everything(read_tables(write(tmp_path, interactions=text), roles))
        assert table["stars"].to_pylist() == [4.0, 1.0]
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

    def test_a_folder_of_files_is_one_table_in_order_of_name(self, tmp_path):
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

    def test_columns_of_different_types_become_text(self, tmp_path):
        parts = tmp_path / "interactions"
        parts.mkdir()
        extra = {"user_id": ["a", "b"], "store": [2.0, 2.5], "x": [None, None]}
        parquet.write_table(log(store=[1, 2], x=[1, 2]), parts / "0.parquet")
        parquet.write_table(log(**extra), parts / "1.parquet")
        table = everything(read_tables(tmp_path))
        assert table["user_id"].to_pylist() == ["1", "2", "a", "b"]
        assert table["store"].to_pylist() == ["1", "2", "2", "2.5"]
        assert table["x"].to_pylist() == [1, 2, None, None]

    def test_quoted_text_may_hold_commas_and_line_breaks(self, tmp_path):
        items = 'item_id,title\n7,"Good, Bad\nand Ugly"\n'
        data = read_tables(write(tmp_path, interactions=RATINGS, items=items))
        assert data.items["title"].to_pylist() == ["Good, Bad\nand Ugly"]

    def test_columns_of_csv_are_the_text_of_the_file(self, tmp_path):
        rows = "".join(f"{i},{i},{'x' * 60}\n" for i in range(80_000))
        items = "item_id,zip,text\n" + rows + "last,007,2023-11-02T10:00:00Z\n"
        data = read_tables(write(tmp_path, interactions=RATINGS, items=items))
        assert data.items["zip"].to_pylist()[-2:] == ["79999", "007"]
        assert data.items["text"][-1].as_py() == "2023-11-02T10:00:00Z"

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


class TestABadFolder:
    def test_no_folder(self, tmp_path):
        said = (
            "`dataset.path` in a configuration.* folder of tables.*nowhere, which does"
        )
        with pytest.raises(DataError, match=f"{said} not exist"):
            read_tables(tmp_path / "nowhere")
        (tmp_path / "file").write_text("a")
        with pytest.raises(DataError, match="file, which is not a folder"):
            read_tables(tmp_path / "file")

    def test_a_missing_table_error_names_the_closest_file_and_all_files(self, tmp_path):
        write(tmp_path, interaction=RATINGS, other="a\n1\n")
        with pytest.raises(DataError) as error:
            read_tables(tmp_path)
        assert "no table 'interactions'" in str(error.value)
        assert "Did you mean 'interaction'?" in str(error.value)
        assert "The folder contains: interaction.csv, other.csv" in str(error.value)

    def test_a_named_table_must_exist(self, tmp_path):
        with pytest.raises(DataError, match="no table 'movies'"):
            read_tables(write(tmp_path, interactions=RATINGS), items="movies")

    def test_two_tables_of_one_name(self, tmp_path):
        write(tmp_path, interactions=RATINGS)
        write(tmp_path, interactions=log())
        with pytest.raises(DataError, match=r"interactions.csv, interactions.parquet"):
            read_tables(tmp_path)

    def test_a_missing_column_error_names_the_closest_and_all_columns(self, tmp_path):
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
        with pytest.raises(
            DataError, match=r"csv, line 3: .* columns \(3\). Received: 2"
        ):
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

    def test_files_with_different_columns_name_the_column(self, tmp_path):
        parts = tmp_path / "interactions"
        parts.mkdir()
        parquet.write_table(log(x=[1, 2], y=[1, 2]), parts / "0.parquet")
        parquet.write_table(log(x=[[1], [2]], y=[1, 2]), parts / "1.parquet")
        with pytest.raises(
            DataError, match=r"'x' with list<element: int64> instead of"
        ):
            read_tables(tmp_path)
        parquet.write_table(log(x=[1, 2]), parts / "1.parquet")
        with pytest.raises(DataError, match="column 'y' in only one of them"):
            read_tables(tmp_path)

    def test_files_of_two_kinds_are_refused(self, tmp_path):
        parts = tmp_path / "interactions"
        parts.mkdir()
        parquet.write_table(log(), parts / "0.parquet")
        (parts / "1.csv").write_text(RATINGS)
        with pytest.raises(DataError, match=r"Received: Parquet, text"):
            read_tables(tmp_path)


class TestFingerprint:
    def test_the_fingerprint_depends_on_the_content_only(self, tmp_path):
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

    def test_the_table_is_never_in_memory_as_a_whole(self, tmp_path):
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
        return read_tables(real_data("amazon-beauty"), {"time": "position"})

    def test_every_row_is_read(self, data):
        table = everything(data)
        assert table.num_rows == 198_502
        assert len(table["user_id"].unique()) == 22_363
        assert data.items.num_rows == 12_101
        assert data.items.schema.field("attributes").type == pa.list_(pa.string())
