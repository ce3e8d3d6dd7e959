"""How a text file uses quotes, and the values that are read from it."""

import csv
import io

import pytest

from recdistill.data import quoting
from recdistill.data.quoting import Quoting, doubled_quotes, quoting_of
from recdistill.data.rewritten_file import RewrittenFile
from recdistill.data.table_files import read_table
from recdistill.errors import DataError


def titles(folder, text, name="items.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return read_table(folder / name, ["title"])["title"].to_pylist()


def test_quoted_values_may_have_line_breaks_and_quotes(tmp_path):
    text = 'item_id,title\n1,"two\nlines, ""quoted"""\n2,"b"\n3,5" disk\n'
    assert titles(tmp_path, text) == ['two\nlines, "quoted"', "b", '5" disk']


@pytest.mark.parametrize("first", ['"Up and away', '"Up" and away', 'Up "and" "away'])
def test_quotes_that_do_not_match_are_text_if_all_lines_are_alike(tmp_path, first):
    rows = "".join(f"{k}\tplain {k}\tx\n" for k in range(5))
    text = f'item_id\ttitle\tkind\na\t{first}\tx\n{rows}b\t"Down\tx\n'
    expected = [first, *[f"plain {k}" for k in range(5)], '"Down']
    assert titles(tmp_path, text, "items.tsv") == expected


@pytest.mark.parametrize("delimiter", ["\t", ",", "|"])
@pytest.mark.parametrize("kind", [["x"], []])
def test_quotes_that_match_across_lines_that_are_alike_are_text(
    tmp_path, delimiter, kind
):
    names = {10: '"Hamlet', 60: 'Pipe 6"'}
    expected = [names.get(k, f"plain {k}") for k in range(100)]
    rows = [["item_id", "title", *["kind"][: len(kind)]]]
    rows += [[str(k), title, *kind] for k, title in enumerate(expected)]
    text = "".join(delimiter.join(row) + "\n" for row in rows)
    assert titles(tmp_path, text) == expected


@pytest.mark.parametrize("delimiter", ["\t", ","])
def test_values_of_several_lines_make_the_lines_uneven(tmp_path, delimiter):
    text = '1,"two\nlines\n\nand a fourth",x\n2,b,x\n'.replace(",", delimiter)
    text = "item_id,title,kind\n".replace(",", delimiter) + text
    assert titles(tmp_path, text) == ["two\nlines\n\nand a fourth", "b"]


def test_values_of_several_lines_in_a_file_of_one_column(tmp_path):
    lines = "\n".join(str(k) for k in range(9))
    assert titles(tmp_path, f'title\n"{lines}"\nb\n') == [lines, "b"]


def test_even_lines_are_no_proof_where_a_text_may_have_the_delimiter(tmp_path):
    text = 'item_id,title\n1,"two\nlines, and more"\n2,b\n'
    assert titles(tmp_path, text) == ["two\nlines, and more", "b"]


def test_a_quote_that_is_not_closed_is_an_error_with_its_line(tmp_path):
    text = 'item_id,title\n1,"a, b"\n2,"c, d\n3,e\n'
    with pytest.raises(DataError, match=r"items.csv, line 3: a value that begins with"):
        titles(tmp_path, text)


def test_escaped_quotes_are_read_as_quotes(tmp_path):
    text = 'item_id,title\n1,"The \\"old\\" lamp, red"\n2,"an \\"odd one"\n3,Lamp\n'
    assert titles(tmp_path, text) == ['The "old" lamp, red', 'an "odd one', "Lamp"]


def test_escaped_quotes_far_down_are_found(tmp_path):
    rows = "".join(f"{k},plain title\n" for k in range(100_000))
    text = f'item_id,title\n{rows}x,"a \\"b\\" c"\n'
    assert titles(tmp_path, text)[-1] == 'a "b" c'


def test_only_backslashes_before_quotes_are_escapes(tmp_path, monkeypatch):
    text = 'item_id,title\n1,CORP\\ann\n2,"C:\\new, \\"x\\" y"\n3,"D:\\\\"\n'
    want = ["CORP\\ann", 'C:\\new, "x" y', "D:\\"]
    assert titles(tmp_path, text) == want
    for size in range(1, 9):
        monkeypatch.setattr("recdistill.data.rewritten_file.READ_BYTES", size)
        source = RewrittenFile(io.BytesIO(text.encode()), doubled_quotes)
        read = b"".join(iter(source.read, b"")).decode()
        assert [row[1] for row in csv.reader(io.StringIO(read))][1:] == want


def test_a_quote_before_a_delimiter_may_be_escaped_if_another_one_shows_it(tmp_path):
    text = 'item_id,title\n1,"12\\", 14\\" and 16\\""\n2,b\n'
    assert titles(tmp_path, text) == ['12", 14" and 16"', "b"]


def test_the_line_of_an_uneven_row_is_that_of_a_file_with_escaped_quotes(tmp_path):
    text = 'item_id,title\n1,"a \\"b\\" c"\n2,x,3\n4,d\n'
    with pytest.raises(DataError, match=r"items.csv, line 3: .*Received: 3"):
        titles(tmp_path, text)


def test_many_escaped_quotes_outside_of_quotes_take_no_time(tmp_path, monkeypatch):
    looked = []
    real = quoting._InQuotes.__call__
    monkeypatch.setattr(
        quoting._InQuotes,
        "__call__",
        lambda self, before: looked.append(1) or real(self, before),
    )
    rows = "".join(f'{k}\t{{a: \\"x\\" }}\n' for k in range(6_000))
    (tmp_path / "a.tsv").write_text(f"item_id\ttitle\n{rows}")
    assert quoting_of(tmp_path / "a.tsv", "\t") == Quoting()
    assert len(looked) == 5_000


def test_an_escaped_quote_outside_of_quotes_is_text(tmp_path):
    text = 'item_id\ttitle\n1\tC:\\new\n2\tsay \\"hi\\" x\n'
    assert titles(tmp_path, text, "items.tsv") == ["C:\\new", 'say \\"hi\\" x']


def test_a_backslash_before_the_end_of_a_value_stays(tmp_path):
    text = 'item_id,title\n1,"C:\\temp\\"\n2,"a ""b"" c"\n3,"\\""quoted"""\n'
    assert titles(tmp_path, text) == ["C:\\temp\\", 'a "b" c', '\\"quoted"']


@pytest.mark.parametrize("place", range(4))
def test_line_breaks_in_quotes_are_found_across_blocks(tmp_path, monkeypatch, place):
    monkeypatch.setattr("recdistill.data.quoting.READ_BYTES", 4)
    text = " " * place + 'a,"b\nc"\n1,2\n'
    (tmp_path / "a.csv").write_text(text)
    assert quoting_of(tmp_path / "a.csv", ",") == Quoting()
    (tmp_path / "a.csv").write_text(text.replace('c"', "c"))
    with pytest.raises(DataError, match="line 1"):
        quoting_of(tmp_path / "a.csv", ",")
