"""table_files: layouts of files, their kinds, and tables in memory."""

import gzip
import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from recdistill.data import read_tables
from recdistill.data.reading_options import ReadingOptions, TableOptions
from recdistill.data.table_files import TableFile, files_of, read_table
from recdistill.errors import DataError
from tests.data.table_files import RATINGS, everything, log, write


@pytest.fixture
def parts(tmp_path):
    folder = tmp_path / "interactions"
    folder.mkdir()
    return folder


def packed(text, compression):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, compression) as stream:
        stream.write(text.encode())
    return sink.getvalue().to_pybytes()


class TestReadTable:
    def test_csv_columns_are_the_text_of_the_file(self, tmp_path):
        path = tmp_path / "items.CSV"
        path.write_text("item_id,zip,new\n0012,01307,true\n7,9.0,NA\n")
        assert read_table(path).to_pydict() == {
            "item_id": ["0012", "7"],
            "zip": ["01307", "9.0"],
            "new": ["true", "NA"],
        }

    def test_parquet_columns_keep_their_types(self, tmp_path):
        parquet.write_table(log(), tmp_path / "items.PARQUET")
        assert read_table(tmp_path / "items.PARQUET").equals(log())

    def test_only_the_named_columns_are_read(self, tmp_path):
        path = tmp_path / "a.csv"
        path.write_text("x,y,y\n1,2,3\n")
        assert read_table(path, ["x"]).to_pydict() == {"x": ["1"]}
        with pytest.raises(DataError, match="several columns named 'y'"):
            read_table(path)
        with pytest.raises(DataError, match="no column 'z'"):
            read_table(path, ["z"])

    @pytest.mark.parametrize("name", ["no.csv", "no.xlsx"])
    def test_a_missing_file_is_named(self, tmp_path, name):
        with pytest.raises(DataError, match=f"{name} does not exist"):
            read_table(tmp_path / name)

    def test_an_unknown_suffix_is_refused_with_the_known_ones(self, tmp_path):
        (tmp_path / "a.xlsx").touch()
        with pytest.raises(DataError, match=r"must be a table: .* \.parquet, .*\.csv"):
            read_table(tmp_path / "a.xlsx")

    @pytest.mark.parametrize(
        ("name", "remedy"),
        [
            ("interactions.csv.zip", "unpack it"),
            ("interactions.xlsx", "save it as CSV or Parquet"),
        ],
    )
    def test_an_archive_or_a_spreadsheet_is_to_be_converted(
        self, tmp_path, name, remedy
    ):
        (tmp_path / name).touch()
        said = rf"{name} is a \.\w+ file, which cannot be read; {remedy}\."
        with pytest.raises(DataError, match=said):
            read_table(tmp_path / name)
        with pytest.raises(DataError, match=said) as error:
            read_tables(tmp_path)
        assert "Did you mean" not in str(error.value)


class TestDelimiters:
    @pytest.mark.parametrize("delimiter", [",", "\t", "::", "|", ";"])
    def test_the_delimiter_is_recognised_from_the_header(self, tmp_path, delimiter):
        text = RATINGS.replace(",", delimiter)
        data = read_tables(write(tmp_path, interactions=text))
        assert everything(data)["item_id"].to_pylist() == ["7", "8"]

    @pytest.mark.parametrize("delimiter", ["\x01", "^", "~", " "])
    def test_rare_delimiters_are_recognised_by_the_wanted_columns(
        self, tmp_path, delimiter
    ):
        text = RATINGS.replace(",", delimiter)
        options = ReadingOptions(frozenset(), frozenset())
        data = read_tables(write(tmp_path, interactions=text), options=options)
        assert everything(data)["item_id"].to_pylist() == ["7", "8"]

    def test_spaces_in_a_header_do_not_divide_it(self, tmp_path):
        (tmp_path / "items.csv").write_text("item_id;name of the thing\n7;a b c\n")
        assert read_table(tmp_path / "items.csv").column_names[0] == "item_id"

    def test_the_delimiter_with_the_wanted_columns_wins(self, tmp_path):
        text = 'user_id;item_id;timestamp;"a,b,c,d,e"\n1;7;5;x\n'
        options = ReadingOptions(frozenset(), frozenset())
        data = read_tables(write(tmp_path, interactions=text), options=options)
        assert everything(data).column_names[:3] == ["user_id", "item_id", "timestamp"]

    def test_a_given_delimiter_is_used(self, tmp_path):
        text = RATINGS.replace(",", "~~")
        options = ReadingOptions(delimiter="~~")
        data = read_tables(write(tmp_path, interactions=text), options=options)
        assert everything(data)["device"].to_pylist() == ["tv", "phone"]

    @pytest.mark.parametrize("start", ["sep={}\n", '\ufeff"SEP={}"\r\n'])
    @pytest.mark.parametrize("delimiter", [";", "\t", "+"])
    def test_a_first_line_of_excel_gives_the_delimiter(
        self, tmp_path, start, delimiter
    ):
        text = start.format(delimiter) + RATINGS.replace(",", delimiter)
        rows = everything(read_tables(write(tmp_path, interactions=text)))
        assert rows["item_id"].to_pylist() == ["7", "8"]
        options = ReadingOptions(delimiter=",")
        write(tmp_path, interactions=f"sep=;\n{RATINGS}")
        data = read_tables(tmp_path, options=options)
        assert everything(data)["item_id"].to_pylist() == ["7", "8"]

    def test_the_line_of_an_uneven_row_counts_the_line_of_excel(self, tmp_path):
        text = "sep=;\n" + RATINGS.replace(",", ";") + "3;9;102\n"
        with pytest.raises(DataError, match=r"csv, line 5: a row must have as many"):
            everything(read_tables(write(tmp_path, interactions=text)))

    def test_a_quote_in_a_file_with_the_line_of_excel_may_be_text(self, tmp_path):
        text = 'sep=;\nitem_id;a\n7;"Big" one\n8;"x\n'
        items = read_table(write(tmp_path, items=text) / "items.csv")
        assert items["a"].to_pylist() == ['"Big" one', '"x']

    @pytest.mark.parametrize(
        ("above", "number", "said"),
        [
            ("# Ratings\n", 1, "1 value, and line 2 has 5"),
            ("\nRatings\nof users\n\n", 2, "1 value, and line 5 has 5"),
            ("# Ratings, 2024\n# of users\n", 1, "2 values, and line 2 has 1"),
            ("# Ratings, 2024\n# a, b\n", 1, "2 values, and line 3 has 5"),
            ("Ratings, 2024\n", 1, "2 values, and line 2 has 5"),
        ],
    )
    def test_lines_above_the_header_are_to_be_removed(
        self, tmp_path, above, number, said
    ):
        with pytest.raises(DataError) as error:
            read_tables(write(tmp_path, interactions=above + RATINGS))
        place = tmp_path / "interactions.csv"
        assert str(error.value).startswith(
            f"{place}: line {number} does not look like a header, because it has "
            f"{said}. Remove the lines above the column names."
        )

    def test_a_delimiter_of_two_characters_is_found_across_blocks(self, tmp_path):
        rows = [f"u{k}::i{k % 7}::{k}" for k in range(200_000)]
        (tmp_path / "interactions.dat").write_text(
            "\n".join(["user_id::item_id::timestamp", *rows])
        )
        times = everything(read_tables(tmp_path))["timestamp"]
        assert times.to_pylist() == list(range(200_000))


class TestSeveralFiles:
    def test_the_columns_may_be_in_another_order(self, tmp_path, parts):
        (parts / "a.csv").write_text("user_id,item_id,timestamp\n1,7,100\n")
        (parts / "b.csv").write_text("timestamp,note,item_id,user_id\n101,x,8,2\n")
        options = ReadingOptions(frozenset(), frozenset())
        batches = list(read_tables(tmp_path, options=options).interactions())
        assert len({tuple(batch.schema.names) for batch in batches}) == 1
        assert pa.Table.from_batches(batches).to_pylist() == [
            {"user_id": "1", "item_id": "7", "timestamp": 100},
            {"user_id": "2", "item_id": "8", "timestamp": 101},
        ]

    def test_a_missing_file_with_its_suffix_is_named_with_the_nearest(self, tmp_path):
        write(tmp_path, rating=RATINGS)
        with pytest.raises(DataError, match=r"a file with this name.*'rating.csv'\?"):
            read_tables(tmp_path, interactions="ratings.csv")


class TestJsonFiles:
    def test_a_column_that_one_file_lacks_is_missing_there(self, tmp_path, parts):
        row = {"user_id": 1, "item_id": 7, "timestamp": 100}
        for name, more in {"a": {}, "b": {"tags": ["x", "y"]}}.items():
            (parts / f"{name}.json").write_text(json.dumps(row | more))
        (parts / "c.json").touch()  # a task of Spark without rows
        data = everything(read_tables(tmp_path))
        assert data["tags"].to_pylist() == [None, ["x", "y"]]

    def test_an_empty_file_is_an_error(self, tmp_path):
        (tmp_path / "interactions.jsonl").touch()
        with pytest.raises(DataError, match="must have at least one line"):
            read_tables(tmp_path)


class TestFilesWithoutHeader:
    NAMES = ("user_id", "item_id", "stars", "timestamp")

    def options(self, **tables):
        return ReadingOptions(
            tables={name: TableOptions(columns=names) for name, names in tables.items()}
        )

    @pytest.mark.parametrize("delimiter", [",", "\t", "::", "|", ";"])
    def test_the_names_are_given_in_order(self, tmp_path, delimiter):
        rows = [["1", "007", "5", "100"], ["2", "8", "3", "101"]]
        text = "".join(delimiter.join(row) + "\n" for row in rows)
        (tmp_path / "interactions.dat").write_text(text)
        data = read_tables(tmp_path, options=self.options(interactions=self.NAMES))
        assert everything(data).to_pydict() == {
            "user_id": ["1", "2"],
            "item_id": ["007", "8"],
            "stars": ["5", "3"],
            "timestamp": [100, 101],
        }

    def test_the_delimiter_gives_as_many_values_as_there_are_names(self, tmp_path):
        (tmp_path / "items.csv").write_text("7|Rain, Wind, Snow, Ice, Fog\n8|Sun\n")
        options = self.options(items=("item_id", "title"))
        items = read_tables(
            write(tmp_path, interactions=RATINGS), options=options
        ).items
        assert items.to_pydict() == {
            "item_id": ["7", "8"],
            "title": ["Rain, Wind, Snow, Ice, Fog", "Sun"],
        }

    def test_several_compressed_files(self, tmp_path, parts):
        for number, row in enumerate(["1,7,5,100\n", "2,8,5,101\n"]):
            (parts / f"{number}.csv.gz").write_bytes(gzip.compress(row.encode()))
        data = read_tables(tmp_path, options=self.options(interactions=self.NAMES))
        assert everything(data)["item_id"].to_pylist() == ["7", "8"]

    def test_another_number_of_columns_is_an_error(self, tmp_path):
        folder = write(tmp_path, interactions="1,7,5,100,x\n")
        with pytest.raises(DataError, match=r"line 1: .* columns \(4\). Received: 5"):
            read_tables(folder, options=self.options(interactions=self.NAMES))

    def test_a_file_that_has_a_header_is_refused(self, tmp_path):
        text = "user_id,item_id,stars,timestamp\n1,7,5,9\n"
        folder = write(tmp_path, interactions=text)
        with pytest.raises(DataError, match=r"csv has a header.*Remove `columns`"):
            read_tables(folder, options=self.options(interactions=self.NAMES))

    def test_a_file_without_header_names_the_key_that_gives_the_names(self, tmp_path):
        folder = write(tmp_path, interactions="1,7,5,100\n")
        with pytest.raises(
            DataError, match=r"no header.*`dataset.interactions.columns"
        ):
            read_tables(folder)

    def test_files_with_names_of_their_own_are_refused(self, tmp_path):
        folder = write(tmp_path, interactions=log())
        with pytest.raises(DataError, match=r"parquet must be a text file without a"):
            read_tables(folder, options=self.options(interactions=self.NAMES))


class TestColumnTypes:
    def options(self, **types):
        return ReadingOptions(
            tables={name: TableOptions(types=given) for name, given in types.items()}
        )

    def test_ids_of_two_programs_become_the_same(self, tmp_path):
        write(
            tmp_path,
            interactions="user_id,item_id,timestamp\n1.0,0012,5\n2.0,7,6\n",
            items=pa.table({"item_id": [12, 7], "size": ["1,250.5", None]}),
        )
        types = {"user_id": "integer", "item_id": "integer"}
        options = self.options(interactions=types, items={"size": "number"})
        data = read_tables(tmp_path, options=options)
        assert everything(data)["user_id"].to_pylist() == ["1", "2"]
        assert everything(data)["item_id"].to_pylist() == ["12", "7"]
        assert data.items.to_pydict() == {
            "item_id": ["12", "7"],
            "size": [1250.5, None],
        }

    def test_numbers_may_have_decimal_commas(self, tmp_path):
        prices = ["1.250,50 €", "0,5", "-7", " ", "1 299 000,25", "NA"]
        log = "user_id;item_id;timestamp;grade\n"
        log += "".join(f"1;{k};{k};{k},5\n" for k in range(6))
        items = pa.table({"item_id": list(range(6)), "price": prices})
        folder = write(tmp_path, interactions=log, items=items)
        options = self.options(
            interactions={"grade": "decimal_comma"}, items={"price": "decimal_comma"}
        )
        data = read_tables(folder, {"relevance": "grade"}, options=options)
        assert everything(data)["grade"].to_pylist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
        assert data.items["price"].to_pylist() == [
            *(1250.5, 0.5, -7.0, None),
            *(1299000.25, None),
        ]

    @pytest.mark.parametrize(
        ("grade", "kind", "said"),
        [
            ("4.5", "decimal_comma", "row 1: must be a number with a decimal comma; a"),
            ("a,5", "decimal_comma", "must be a number with a decimal comma"),
            (
                "4,5",
                "number",
                "a decimal point; a comma sep.*`decimal_comma` in",
            ),
            ("4,5", None, "a decimal point; a comma sep.*`decimal_comma` in"),
        ],
    )
    def test_another_decimal_sign_is_named(self, tmp_path, grade, kind, said):
        text = f"user_id;item_id;timestamp;grade\n1;7;5;{grade}\n"
        folder = write(tmp_path, interactions=text)
        options = self.options(interactions={"grade": kind} if kind else {})
        with pytest.raises(DataError, match=f"`grade`.*{said}.*'{grade}'"):
            read_tables(folder, {"relevance": "grade"}, options=options)

    def test_numbers_can_be_text(self, tmp_path):
        folder = write(tmp_path, interactions=log(device=[6.0, 6.5]))
        options = self.options(interactions={"device": "text"})
        data = read_tables(folder, options=options)
        assert everything(data)["device"].to_pylist() == ["6", "6.5"]

    def test_another_value_is_named_with_its_row(self, tmp_path):
        folder = write(
            tmp_path, interactions="user_id,item_id,timestamp\n1,7,5\nx,8,6\n"
        )
        options = self.options(interactions={"user_id": "integer"})
        with pytest.raises(DataError, match=r"`user_id`, row 2: must be a number.*'x'"):
            read_tables(folder, options=options)

    def test_a_table_that_does_not_exist_is_named(self, tmp_path):
        options = self.options(items={"size": "number"})
        with pytest.raises(DataError, match=r"has no table 'items', although"):
            read_tables(write(tmp_path, interactions=RATINGS), options=options)

    def test_a_column_that_does_not_exist_is_named(self, tmp_path):
        options = self.options(interactions={"devise": "text"})
        with pytest.raises(DataError, match=r"no column 'devise'.*'device'.*`types`"):
            read_tables(write(tmp_path, interactions=RATINGS), options=options)


SUFFIX = {"gzip": "gz", "zstd": "zst"}


class TestCompression:
    @pytest.mark.parametrize(
        ("suffix", "compression"), [(".gz", "gzip"), (".zst", "zstd"), (".GZ", "gzip")]
    )
    def test_compressed_text_is_unpacked(self, tmp_path, suffix, compression):
        path = tmp_path / f"interactions.csv{suffix}"
        path.write_bytes(packed(RATINGS, compression))
        assert everything(read_tables(tmp_path))["user_id"].to_pylist() == ["1", "2"]

    @pytest.mark.parametrize("compression", ["gzip", "zstd"])
    def test_a_file_of_several_parts_is_read_to_the_end(self, tmp_path, compression):
        parts = RATINGS[:50], RATINGS[50:]
        raw = b"".join(packed(part, compression) for part in parts)
        (tmp_path / f"interactions.csv.{SUFFIX[compression]}").write_bytes(raw)
        assert everything(read_tables(tmp_path))["user_id"].to_pylist() == ["1", "2"]

    def test_compressed_text_that_is_not_utf8_is_refused(self, tmp_path):
        raw = gzip.compress(RATINGS.encode() + b"\xe9,7,1,1,x\n")
        (tmp_path / "interactions.csv.gz").write_bytes(raw)
        with pytest.raises(DataError, match=r"byte 0xe9 at offset \d+ \(line 4\)"):
            read_tables(tmp_path)

    def test_a_truncated_archive_is_an_error(self, tmp_path):
        raw = gzip.compress(RATINGS.encode() * 1000)
        (tmp_path / "interactions.csv.gz").write_bytes(raw[: len(raw) // 2])
        with pytest.raises(DataError, match="cannot be read"):
            read_tables(tmp_path)


class TestJsonLines:
    def write(self, tmp_path, *rows):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / "interactions.jsonl").write_text("\n".join(lines) + "\n")
        return tmp_path

    def row(self, **more):
        return {"user_id": 1, "item_id": "007", "timestamp": 5, **more}

    def test_values_become_text_by_the_rule_of_all_tables(self, tmp_path):
        nan = float("nan")
        rows = (
            self.row(a=5.0, b=True, c=[1, nan, 2.5]),
            self.row(user_id=2**60 + 1, a=6.5, b=nan),
        )
        table = everything(read_tables(self.write(tmp_path, *rows, "")))
        assert table.to_pydict() == {
            "user_id": ["1", str(2**60 + 1)],
            "item_id": ["007", "007"],
            "timestamp": [5, 5],
            "a": ["5", "6.5"],
            "b": ["true", None],
            "c": [["1", "2.5"], None],
        }

    @pytest.mark.parametrize(
        ("row", "said"),
        [
            ("[1, 2]", "line 2: must be a JSON object"),
            ("{'user_id': 1}", "line 2: must be a JSON object"),
            ({"user_id": {"id": 1}}, "line 2: 'user_id' must be text"),
            ({"user_id": [[1]]}, "line 2: 'user_id' must be "),
            ({"user_id": [1]}, "line 2: 'user_id' must be a list in every line"),
            ({"user_id": "\ud800"}, "line 2: 'user_id' must be text that UTF-8 can"),
        ],
    )
    def test_other_lines_are_refused(self, tmp_path, row, said):
        with pytest.raises(DataError, match=said.replace("[", r"\[")):
            read_tables(self.write(tmp_path, self.row(), row))

    def test_columns_that_are_not_used_may_hold_anything(self, tmp_path):
        folder = self.write(tmp_path, self.row(x={"a": 1}), self.row(x=[[2]]))
        options = ReadingOptions(frozenset(), frozenset())
        data = read_tables(folder, options=options)
        assert everything(data).column_names == ["user_id", "item_id", "timestamp"]


class TestFolders:
    def test_columns_that_are_not_used_may_differ(self, parts, tmp_path):
        parquet.write_table(log(coupon=pa.nulls(2)), parts / "0.parquet")
        parquet.write_table(log(coupon=[["X"], []]), parts / "1.parquet")
        parquet.write_table(log(other=[1, 2]), parts / "2.parquet")
        options = ReadingOptions(frozenset(), frozenset())
        table = everything(read_tables(tmp_path, options=options))
        assert table.num_rows == 6
        assert table.column_names == ["user_id", "item_id", "timestamp"]

    def test_hive_partitions_are_columns(self, parts, tmp_path):
        for day in ("2024-05-01", "2024%2F05%2F02", "__HIVE_DEFAULT_PARTITION__"):
            folder = parts / f"day={day}"
            folder.mkdir()
            parquet.write_table(log(), folder / "part-0.parquet")
        days = everything(read_tables(tmp_path))["day"].to_pylist()
        assert days == ["2024/05/02"] * 2 + ["2024-05-01"] * 2 + [None] * 2

    def test_files_of_other_programs_are_ignored(self, parts):
        running = parts / "_temporary" / "0"
        running.mkdir(parents=True)
        for path in (parts / "a.parquet", running / "b.parquet"):
            parquet.write_table(log(), path)
        for name in ("_SUCCESS", ".a.parquet.crc", "readme.txt", "notes.md"):
            (parts / name).touch()
        assert [file.path.name for file in files_of(parts)] == ["a.parquet"]

    def test_items_may_be_several_files(self, tmp_path):
        write(tmp_path, interactions=log())
        (tmp_path / "items").mkdir()
        for k in range(2):
            ids = {"item_id": [f"i{k}"], "price": [k + 0.5]}
            parquet.write_table(pa.table(ids), tmp_path / "items" / f"{k}.parquet")
        data = read_tables(tmp_path)
        assert data.items.to_pydict() == {"item_id": ["i0", "i1"], "price": [0.5, 1.5]}

    def test_the_columns_that_exist_are_listed_also_if_not_used(self, tmp_path):
        options = ReadingOptions(frozenset(["device"]), frozenset())
        folder = write(tmp_path, interactions=RATINGS, items="item_id,x\n7,1\n8,2\n")
        data = read_tables(folder, options=options)
        assert data.items.column_names == ["item_id"]
        assert data.offered["items"] == ("item_id", "x")
        assert everything(data).column_names == [
            "user_id",
            "item_id",
            "timestamp",
            "device",
        ]


def test_kinds_do_not_depend_on_the_case_of_the_suffix(tmp_path):
    kinds = {"a.CSV": "text", "a.Parquet": "Parquet", "a.JSONL.GZ": "JSON lines"}
    for name, kind in kinds.items():
        assert TableFile(tmp_path / name).kind == kind
    assert TableFile(tmp_path / "a.csv.bak").kind is None
