"""MovieLens, in the layouts GroupLens has used over the years."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from recdistill.data.dataset import Columns, Dataset, require_columns
from recdistill.data.streams import (
    Source,
    checked_table,
    csv_source,
    feature_table,
    file_digest,
    fingerprint,
    interaction_stream,
    reading,
)
from recdistill.errors import DataError

GENRES_100K = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
"""The genre flags of `u.item`, in their order."""

_RATINGS = ("user_id", "item_id", "rating", "timestamp")
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
    """One way GroupLens has laid out its files.

    Attributes:
        name: What the layout is known by.
        files: Ratings, films and, where there are any, users.
        ratings: The interactions file as a source with the columns of `_RATINGS`.
        items: Reads the films.
        queries: Reads the users.
    """

    name: str
    files: tuple[str, ...]
    ratings: Callable[[Path], Source]
    items: Callable[[Path], pa.Table]
    queries: Callable[[Path], pa.Table] | None = None


def read_movielens(
    path: str | Path, columns: Mapping[str, str] | Columns | None = None
) -> Dataset:
    """Reads a MovieLens folder: 100K, 1M, or the CSV layout of the newer releases.

    Interactions have `user_id`, `item_id`, `rating` and `timestamp` (seconds since
    1970). Items have `item_id`, `title` (without the year), `year` (missing where the
    title has none) and `genres`. The layouts of 100K and 1M also have queries:
    `user_id`, `age`, `gender`, `occupation` and `zip_code`.

    Args:
        path: The unpacked folder.
        columns: Roles to column names; say `{"relevance": "rating"}` to learn from the
            ratings rather than from the fact that a film was rated.

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
    text = layout.name == _CSV_LAYOUT
    digests = {each.name: file_digest(each, text=text) for each in paths}
    return Dataset(
        name=folder.resolve().name,
        columns=roles,
        items=layout.items(paths[1]),
        queries=layout.queries(paths[2]) if layout.queries else None,
        fingerprint=fingerprint(digests),
        source=digests,
        stream=interaction_stream([layout.ratings(paths[0])], roles),
    )


def rows(path: Path, separator: str, width: int) -> list[list[str]]:
    """The lines of a small Latin-1 file, split at `separator` into `width` values.

    Raises:
        DataError: At a line of another width, with its number.
    """
    with reading(path):
        lines = path.read_text(encoding="latin-1").split("\n")
    split = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parts = line.rstrip("\r").split(separator)
        if len(parts) != width:
            raise DataError(
                f"{path}, line {number}: {width} values divided by {separator!r} are "
                f"needed. Received: {len(parts)} in {line!r}"
            )
        split.append(parts)
    return split


def genres_100k(flags: Sequence[str]) -> list[str]:
    """The genres that a row of 0/1 flags of `u.item` stands for."""
    return [name for name, flag in zip(GENRES_100K, flags, strict=True) if flag == "1"]


def _fits(layout: _Layout, folder: Path) -> bool:
    return all((folder / name).is_file() for name in layout.files)


def _items(films: Sequence[tuple[str, str, list[str]]], path: Path) -> pa.Table:
    """The table of films given as (id, title with the year, genres)."""
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
    return checked_table(table, "item_id", path)


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
        return checked_table(table.cast(_QUERY_SCHEMA), "user_id", path)


def _ratings_100k(path: Path) -> Source:
    return csv_source(
        path,
        ["user_id", "item_id", "timestamp"],
        types={"rating": pa.float64()},
        names=_RATINGS,
        delimiter="\t",
        quoted=False,
    )


def _items_100k(path: Path) -> pa.Table:
    films = rows(path, "|", 5 + len(GENRES_100K))
    return _items([(film[0], film[1], genres_100k(film[5:])) for film in films], path)


def _queries_100k(path: Path) -> pa.Table:
    return _queries(rows(path, "|", 5), path)


def _ratings_1m(path: Path) -> Source:
    """Split at single colons, `a::b` is three values; the empty ones are left out."""
    return csv_source(
        path,
        ["user_id", "item_id", "timestamp"],
        types={"rating": pa.float64()},
        names=["user_id", "_1", "item_id", "_2", "rating", "_3", "timestamp"],
        keep=_RATINGS,
        delimiter=":",
        quoted=False,
    )


def _items_1m(path: Path) -> pa.Table:
    films = rows(path, "::", 3)
    return _items([(item, title, _genres(text)) for item, title, text in films], path)


def _queries_1m(path: Path) -> pa.Table:
    users = rows(path, "::", 5)
    return _queries([[user[i] for i in _QUERY_ORDER_1M] for user in users], path)


def _ratings_csv(path: Path) -> Source:
    source = csv_source(
        path, ["userId", "movieId", "timestamp"], types={"rating": pa.float64()}
    )
    return source.mapped(_renamed)


def _items_csv(path: Path) -> pa.Table:
    source = csv_source(path, ["movieId", "title", "genres"], whole=True)
    require_columns(source.schema.names, ["movieId", "title", "genres"], str(path))
    table = feature_table(source.mapped(_renamed), "item_id")
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
    _Layout(_CSV_LAYOUT, ("ratings.csv", "movies.csv"), _ratings_csv, _items_csv),
)
