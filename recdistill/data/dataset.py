"""What a data set is, whichever files it came from."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

import pyarrow as pa

from recdistill.errors import DataError

BATCH_ROWS = 65_536
"""The most rows a batch of interactions has."""


@dataclass(frozen=True)
class Columns:
    """Which column of the tables plays which role.

    Attributes:
        query: Id of the query (the user), in interactions and queries.
        item: Id of the item, in interactions and items.
        time: When it happened, in interactions.
        relevance: How much the item was liked; None where any interaction counts as 1.
        weight: How much the interaction counts in training; None for 1.
        list: Id of the list that a row belongs to; None where each row is one.
        score: What a teacher thinks of the row's item; None where there is none.
    """

    query: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    relevance: str | None = None
    weight: str | None = None
    list: str | None = None
    score: str | None = None

    def __post_init__(self) -> None:
        names = self.names()
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise DataError(
                f"`columns` must give each role a column of its own. "
                f"Received: {repeated[0]!r} for several roles"
            )

    @classmethod
    def of(cls, columns: "Mapping[str, str] | Columns | None") -> "Columns":
        """Roles from a mapping such as `{"query": "userId"}`; the rest keep defaults.

        Raises:
            DataError: If a key is not a role.
        """
        if isinstance(columns, Columns):
            return columns
        roles = [each.name for each in fields(cls)]
        for role in columns or {}:
            if role not in roles:
                raise DataError(
                    f"`columns` maps roles to column names; the roles are "
                    f"{', '.join(roles)}. Received: {role!r}.{nearest(role, roles)}"
                )
        return cls(**(columns or {}))

    def names(self) -> Sequence[str]:
        """The columns that interactions must have."""
        return [name for name in asdict(self).values() if name is not None]


@dataclass(frozen=True)
class Dataset:
    """Items, queries and a stream of interactions.

    Attributes:
        name: A short name for reports.
        columns: The roles of the columns below.
        items: One row an item. The column `columns.item` is a string and unique; the
            other columns are features. None where the data has no item table.
        queries: The same for queries, with `columns.query`.
        fingerprint: SHA-256 (hex) over the content of the source files, or over the
            parameters of the generator.
        source: File name to its SHA-256.
        stream: Starts a new pass over the interactions; see `interactions`.
        scores: Starts a pass over a teacher's scores: record batches with the columns
            `key` (a list's id), `item` and `score`. None where the data has none.
    """

    name: str
    columns: Columns
    items: pa.Table | None
    queries: pa.Table | None
    fingerprint: str
    source: Mapping[str, str]
    stream: Callable[[], Iterator[pa.RecordBatch]] = field(repr=False, compare=False)
    scores: Callable[[], Iterator[pa.RecordBatch]] | None = field(
        default=None, repr=False, compare=False
    )

    def interactions(self) -> Iterator[pa.RecordBatch]:
        """One pass over the interactions, in the order of the source.

        Returns:
            Batches of at most 65,536 rows. The query and item columns are strings, the
            time is int64, relevance and weight (where there are any) are float32; other
            columns are as read. None of these has a missing value.

        Raises:
            DataError: While iterating, at the first bad value.
        """
        return self.stream()


def nearest(name: str, names: Iterable[str]) -> str:
    """A closing sentence for an error: which of `names` may be meant, or nothing."""
    lowered = {each.lower(): each for each in names}
    close = difflib.get_close_matches(name.lower(), lowered, n=1)
    return f" Did you mean {lowered[close[0]]!r}?" if close else ""


def require_columns(names: list[str], required: Iterable[str], file: str) -> None:
    """Checks that a table has the columns it needs, each once.

    Raises:
        DataError: Names the column, the nearest one, and all there are.
    """
    for name in required:
        if name not in names:
            raise DataError(
                f"{file} has no column {name!r}.{nearest(name, names)} Its columns "
                f"are: {', '.join(names)}. Map your names with `columns`."
            )
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{file} has several columns named {name!r}. Rename one.")
