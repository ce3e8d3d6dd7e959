"""MovieLens 100K: its genre flags, and its conversion to RecBole atomic files."""

from collections.abc import Sequence
from pathlib import Path

from recdistill.data.table_streams import reading
from recdistill.errors import DataError

GENRES = (
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
"""Genres of the flags in `u.item`, in order."""

_HEADERS = {
    ".inter": "user_id:token item_id:token rating:float timestamp:float",
    ".item": "item_id:token movie_title:token_seq release_year:token class:token_seq",
    ".user": "user_id:token age:token gender:token occupation:token zip_code:token",
}
_NO_TITLE = "unkonwn"
"""RecBole's spelling, kept so that both sources give the same bytes."""


def split_lines(
    path: Path, separator: str, width: int, encoding: str = "latin-1"
) -> list[list[str]]:
    """The lines of a small file, each split at `separator` into `width` values.

    Raises:
        DataError: If a line has another number of values; names the line.
    """
    with reading(path):
        lines = path.read_text(encoding=encoding).split("\n")
    split = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parts = line.rstrip("\r").split(separator)
        if len(parts) != width:
            raise DataError(
                f"{path}, line {number}: must have {width} values separated by "
                f"{separator!r}. Received: {len(parts)} in {line!r}"
            )
        split.append(parts)
    return split


def genres_of(flags: Sequence[str]) -> list[str]:
    """Genres whose flag in a row of `u.item` is 1."""
    return [name for name, flag in zip(GENRES, flags, strict=True) if flag == "1"]


def write_atomic_files(source: Path, folder: Path) -> Path:
    """Convert the `u.*` files of MovieLens 100K to RecBole atomic files.

    Args:
        source: Folder with `u.data`, `u.item` and `u.user`.
        folder: Output folder, which is created.

    Returns:
        The output folder, with `ml-100k.inter`, `ml-100k.item` and `ml-100k.user`.

    Raises:
        DataError: If a line is malformed.
    """
    films = split_lines(source / "u.item", "|", 5 + len(GENRES))
    tables = {
        ".inter": split_lines(source / "u.data", "\t", 4),
        ".item": [_atomic_film(film) for film in films],
        ".user": split_lines(source / "u.user", "|", 5),
    }
    folder.mkdir()
    for suffix, table in tables.items():
        lines = ["\t".join(row) + "\n" for row in [_HEADERS[suffix].split(), *table]]
        (folder / f"ml-100k{suffix}").write_text(
            "".join(lines), encoding="utf-8", newline="\n"
        )
    return folder


def _atomic_film(film: list[str]) -> list[str]:
    """Id, title, year (the content of the last parentheses) and genres."""
    title, opened, rest = film[1].rpartition("(")
    year = rest.strip().removesuffix(")")
    if not opened:
        title = year = _NO_TITLE
    return [film[0], title.strip(), year, " ".join(genres_of(film[5:]))]
