"""Data set: items, queries and a stream of interactions, from any source."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Protocol

import pyarrow as pa

from recdistill.errors import DataError


class Progress(Protocol):
    """Callback for progress: activity, amount done, total amount (or None), note."""

    def __call__(
        self, activity: str, done: int, total: int | None, note: str = "", /
    ) -> None:
        """Reports an activity.

        Args:
            activity: The activity.
            done: The amount done.
            total: The total amount; None if unknown.
            note: The latest intermediate result, such as a validation metric.
        """


def no_progress(activity: str, done: int, total: int | None, note: str = "", /) -> None:
    """Callback for progress that does nothing."""


BATCH_ROWS = 65_536
"""Largest number of rows in a batch of interactions."""


@dataclass(frozen=True)
class Columns:
    """Column name of each role in the tables.

    Attributes:
        query: Id of the query (the user), in interactions and queries.
        item: Id of the item, in interactions and items.
        time: Time of the interaction; None if the data has no times.
        relevance: Relevance of the item; None if each interaction has relevance 1.
        weight: Weight of the interaction in training; None if each has weight 1.
        list: Id of the row's list; None if interactions of the same query
            and time are one list.
        score: Teacher's score of the row's item; None if the data has no scores.
    """

    query: str = "user_id"
    item: str = "item_id"
    time: str | None = "timestamp"
    relevance: str | None = None
    weight: str | None = None
    list: str | None = None
    score: str | None = None

    def __post_init__(self) -> None:
        names = [*self.names()]
        if self.list == self.query:
            names.remove(self.query)  # Each query has one list, as a search has.
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise DataError(
                f"`columns` must have a different column for each role. "
                f"Received: {repeated[0]!r} for several roles"
            )

    @classmethod
    def of(cls, columns: "Mapping[str, str] | Columns | None") -> "Columns":
        """Roles from a mapping such as `{"query": "userId"}`; others keep defaults.

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
        """Names of the columns that interactions must have."""
        return [name for name in asdict(self).values() if name is not None]


@dataclass(frozen=True)
class Dataset:
    """Items, queries and a stream of interactions.

    Attributes:
        name: Short name for reports.
        columns: Roles of the columns.
        items: One row per item. The column `columns.item` is a string and unique; the
            other columns are features. None if the data has no item table.
        queries: The same for queries, with `columns.query`.
        fingerprint: SHA-256 (hex) over the content of the source files, or over the
            parameters of the generator.
        source: SHA-256 of each file or table, by name.
        stream: Function that starts a new pass over the interactions; see
            `interactions`.
        scores: Function that starts a pass over a teacher's scores: record batches with
            the columns `key` (id of the list), `item` and `score`. None if the data has
            no scores.
        not_chosen: Function that starts a pass over the rows of listwise data with
            relevance 0, which were shown and not chosen; see `interactions`. None if
            the data is not listwise.
        unlabelled: Function that starts a pass over requests without an observed
            choice, which only the teacher's scores can be learned for: rows with the
            columns of the query, the time and the query features of the interactions.
            None if there are none, or if the data is listwise, where they are the lists
            without a relevant row.
        offered: Names of all columns by table, including columns that are not read.
        notes: Sentences on properties of the files that may be mistakes.
        verify: Function that raises a DataError if a source file has changed since the
            data set was opened.
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
    not_chosen: Callable[[], Iterator[pa.RecordBatch]] | None = field(
        default=None, repr=False, compare=False
    )
    unlabelled: Callable[[], Iterator[pa.RecordBatch]] | None = field(
        default=None, repr=False, compare=False
    )
    offered: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    notes: Sequence[str] = ()
    verify: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)

    def interactions(self) -> Iterator[pa.RecordBatch]:
        """One pass over the interactions, in the order of the source.

        Returns:
            Batches of at most 65,536 rows. The query and item columns are strings, the
            time is int64, relevance and weight (if they have columns) are float32;
            other columns are as read. None of these has a missing value.

        Raises:
            DataError: While iterating, at the first bad value.
        """
        return self.stream()


def nearest(name: str, names: Iterable[str]) -> str:
    """Hint for an error: " Did you mean …?" with the closest of `names`, or nothing."""
    lowered = {each.lower(): each for each in names}
    close = difflib.get_close_matches(name.lower(), lowered, n=1)
    return f" Did you mean {lowered[close[0]]!r}?" if close else ""


MAP_NAMES = "Map your names with `columns`."
"""Advice about a missing column where the roles of columns are configurable."""


def require_columns(
    names: list[str], required: Iterable[str], file: str, advice: str = ""
) -> None:
    """Checks that a table has the columns it needs, each once.

    Args:
        names: Columns of the table.
        required: Columns it needs.
        file: Name of the table in the error.
        advice: What the user can do about a missing column.

    Raises:
        DataError: Names the missing column, the closest one and all columns.
    """
    for name in required:
        if name not in names:
            raise DataError(
                f"{file} has no column {name!r}.{nearest(name, names)} Its columns "
                f"are: {', '.join(names)}. {advice}".rstrip()
            )
        if names.count(name) > 1:
            raise DataError(f"{file} has several columns named {name!r}. Rename one.")
