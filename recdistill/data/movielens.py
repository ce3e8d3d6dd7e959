"""Reader for MovieLens, in the layouts that GroupLens has used over the years."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from recdistill.data.checked_tables import (
    checked_table,
    feature_table,
    interaction_stream,
)
from recdistill.data.dataset import Columns, Dataset, require_columns
from recdistill.data.delimited_text import TextLayout, text_stream
from recdistill.data.movielens_100k import GENRES, genres_of, split_lines
from recdistill.data.reading_options import ReadingOptions
from recdistill.data.source_files import SourceFiles
from recdistill.data.table_streams import (
    TableStream,
    check_utf8,
    fingerprint,
    reading,
)
from recdistill.errors import DataError

_RATINGS = ("user_id", "item_id", "rating", "timestamp")
_RATING_TYPE = {"rating": pa.float64()}
_YEAR = re.compile(r"\s*\((\d{4})\)(?: \(V\))?\s*$")
_ITEM_SCHEMA = pa.schema(
    {
        "item_id": pa.string(),
        "title": pa.string(),
        "year": pa.int64(),
        "genres": pa.list_(pa.string()),
    }
)
_QUERY_SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "age": pa.int64(),
        "gender": pa.string(),
        "occupation": pa.string(),
        "zip_code": pa.string(),
    }
)
_QUERY_ORDER_1M = (0, 2, 1, 3, 4)


@dataclass(frozen=True)
class _Layout:
    """One of GroupLens's layouts.

    Attributes:
        name: Name in error messages.
        files: Names of the files of ratings, films and, if they exist, users.
        ratings: Function that opens the ratings, with the columns of `_RATINGS`.
        items: Function that reads the films.
        queries: Function that reads the users.
    """

    name: str
    files: tuple[str, ...]
    ratings: Callable[[Path], TableStream]
    items: Callable[[Path], pa.Table]
    queries: Callable[[Path], pa.Table] | None = None


def read_movielens(
    path: str | Path,
    columns: Mapping[str, str] | Columns | None = None,
    *,
    options: ReadingOptions | None = None,
) -> Dataset:
    """Reader for a MovieLens folder: 100K, 1M, 10M, or newer releases as CSV.

    Interactions have `user_id`, `item_id`, `rating` and `timestamp` (seconds since
    1970). Items have `item_id`, `title` (without the year), `year` (missing if the
    title has none) and `genres`. The layouts of 100K and 1M also have queries:
    `user_id`, `age`, `gender`, `occupation` and `zip_code`.

    Args:
        path: The unpacked folder.
        columns: Roles to column names, for example `{"relevance": "rating"}` to use the
            rating as relevance; by default each rated film has relevance 1.
        options: How the interactions are read: `keep` and `time_format`.

    Raises:
        DataError: If the folder has none of the layouts or a file is damaged.
    """
    folder = Path(path)
    roles = Columns.of(columns)
    layout = next((each for each in _LAYOUTS if _fits(each, folder)), None)
    if layout is None:
        looked_for = "; ".join(f"{', '.join(o.files)} ({o.name})" for o in _LAYOUTS)
        raise DataError(
            f"`path` must be a MovieLens folder with one of these sets of files: "
            f"{looked_for}. Received: {folder}"
        )
    paths = [folder / name for name in layout.files]
    if layout.name == _CSV_LAYOUT:
        for each in paths:
            check_utf8(each)
    source = SourceFiles.of({each.name: each for each in paths})
    return Dataset(
        name=folder.resolve().name,
        columns=roles,
        items=layout.items(paths[1]),
        queries=layout.queries(paths[2]) if layout.queries else None,
        fingerprint=fingerprint(source.digests),
        source=source.digests,
        verify=source.verify,
        stream=interaction_stream([layout.ratings(paths[0])], roles, options),
    )


def movielens_files(folder: Path) -> tuple[str, ...] | None:
    """Names of the files of a MovieLens folder; None if it has none of the layouts."""
    for layout in _LAYOUTS:
        if _fits(layout, folder):
            return layout.files
    return None


def _fits(layout: _Layout, folder: Path) -> bool:
    return all((folder / name).is_file() for name in layout.files)


def _items(films: Sequence[tuple[str, str, list[str]]], path: Path) -> pa.Table:
    """Table of films, given as (id, title with the year, genres)."""
    records = []
    for item, title, genres in films:
        match = _YEAR.search(title)
        records.append(
            {
                "item_id": item,
                "title": (title[: match.start()] if match else title).strip(),
                "year": int(match[1]) if match else None,
                "genres": genres,
            }
        )
    table = pa.Table.from_pylist(records, schema=_ITEM_SCHEMA)
    return checked_table(table, "item_id", str(path))


def _genres(text: str) -> list[str]:
    return [] if text in ("", "(no genres listed)") else text.split("|")


def _queries(users: Sequence[Sequence[str]], path: Path) -> pa.Table:
    table = pa.table(
        {
            name: pa.array([user[column] for user in users], pa.string())
            for column, name in enumerate(_QUERY_SCHEMA.names)
        }
    )
    with reading(path):
        return checked_table(table.cast(_QUERY_SCHEMA), "user_id", str(path))


def _ratings_100k(path: Path) -> TableStream:
    return text_stream(path, layout=TextLayout("\t", False, _RATINGS, _RATING_TYPE))


def _items_100k(path: Path) -> pa.Table:
    films = split_lines(path, "|", 5 + len(GENRES))
    return _items([(film[0], film[1], genres_of(film[5:])) for film in films], path)


def _queries_100k(path: Path) -> pa.Table:
    return _queries(split_lines(path, "|", 5), path)


def _ratings_1m(path: Path) -> TableStream:
    return text_stream(path, layout=TextLayout("::", False, _RATINGS, _RATING_TYPE))


def _items_1m(path: Path, encoding: str = "latin-1") -> pa.Table:
    films = split_lines(path, "::", 3, encoding)
    return _items([(item, title, _genres(text)) for item, title, text in films], path)


def _items_10m(path: Path) -> pa.Table:
    return _items_1m(path, "utf-8")


def _queries_1m(path: Path) -> pa.Table:
    users = split_lines(path, "::", 5)
    return _queries([[user[i] for i in _QUERY_ORDER_1M] for user in users], path)


def _ratings_csv(path: Path) -> TableStream:
    stream = text_stream(path, layout=TextLayout(",", types=_RATING_TYPE))
    return stream.mapped(_renamed)


def _items_csv(path: Path) -> pa.Table:
    stream = text_stream(path, layout=TextLayout(","))
    require_columns(stream.schema.names, ["movieId", "title", "genres"], str(path))
    table = feature_table([stream.mapped(_renamed)], "item_id")
    films = zip(
        *(table[name].to_pylist() for name in ("item_id", "title", "genres")),
        strict=True,
    )
    return _items([(item, title, _genres(text)) for item, title, text in films], path)


def _renamed(batch: pa.RecordBatch) -> pa.RecordBatch:
    names = {"userId": "user_id", "movieId": "item_id"}
    return batch.rename_columns([names.get(name, name) for name in batch.schema.names])


_CSV_LAYOUT = "latest-small, 20M, 25M, 32M"
_LAYOUTS = (
    _Layout(
        "100K",
        ("u.data", "u.item", "u.user"),
        _ratings_100k,
        _items_100k,
        _queries_100k,
    ),
    _Layout(
        "1M",
        ("ratings.dat", "movies.dat", "users.dat"),
        _ratings_1m,
        _items_1m,
        _queries_1m,
    ),
    _Layout("10M", ("ratings.dat", "movies.dat"), _ratings_1m, _items_10m),
    _Layout(_CSV_LAYOUT, ("ratings.csv", "movies.csv"), _ratings_csv, _items_csv),
)
