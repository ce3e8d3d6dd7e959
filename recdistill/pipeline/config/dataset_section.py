"""The `dataset` section: where the interactions come from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from recdistill.data.column_values import ColumnType
from recdistill.features.settings import LARGEST_SEED
from recdistill.pipeline.config.section import Section

Url = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9+.-]+://.+$")]
"""URL of a folder, as fsspec reads it."""

ColumnRole = Literal["query", "item", "time", "relevance", "weight", "list", "score"]


class SyntheticConfig(Section):
    """Size of the generated data set, for `reader = "synthetic"`."""

    LARGEST: ClassVar[Mapping[str, int]] = {"seed": LARGEST_SEED}

    queries: int = Field(default=2_000, gt=0, description="Number of queries.")
    items: int = Field(default=500, gt=0, description="Number of items.")
    interactions: int = Field(
        default=60_000, gt=0, description="Number of interactions."
    )
    seed: int = Field(default=1, ge=0, description="Seed of the generator.")

    @model_validator(mode="after")
    def _pairs_are_unique(self) -> Self:
        most = self.queries * self.items // 2
        if self.interactions > most:
            raise ValueError(
                f"`interactions` must be at most queries * items / 2 = {most}. "
                f"Received: interactions={self.interactions}"
            )
        return self


class TableConfig(Section):
    """Options of one table, for the readers `tables`, `listwise` and `frames`."""

    file: str | None = Field(
        default=None,
        min_length=1,
        description="Name of its file or folder inside `path`. By default the name of "
        "the table, with any suffix.",
    )
    columns: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="Column names in order, for text files without a header.",
    )
    types: dict[str, ColumnType] = Field(
        default_factory=dict,
        description="Types by column, for values that should be converted: `integer` "
        'reads the ids "0012" and "12.0" as 12, `number` reads prices, `decimal_comma` '
        'reads numbers and prices such as "1.250,00", and `text` keeps the digits.',
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = self.columns or ()
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"`columns` must name each column once. Received: {name!r} twice"
                )
        return self


TABLES = ("interactions", "lists", "items", "queries", "unlabelled")
"""Names of the sections of tables."""

_LOGS = ("tables", "listwise", "frames", "movielens", "recbole")

_READERS_OF_KEY = {
    "columns": _LOGS,
    "keep": _LOGS,
    "time_format": _LOGS,
    "delimiter": ("tables", "listwise"),
    "synthetic": ("synthetic",),
}
"""Keys that only some readers use."""


class DatasetConfig(Section):
    """Source of the interactions."""

    reader: Literal[
        "tables", "listwise", "frames", "movielens", "recbole", "synthetic"
    ] = Field(
        description="Layout of the data: tables of interactions, items and queries; a "
        "listwise table with one row per (list, candidate); DataFrames passed to "
        "`recdistill.run` as `tables`; a MovieLens or RecBole folder; or generated "
        "data."
    )
    path: Url | Path | None = Field(
        default=None,
        description="Folder with the data, relative to the current directory; or an "
        "fsspec URL of one, such as `s3://bucket/tables`, which is copied to the "
        "cache.",
    )
    fetch: str | None = Field(
        default=None,
        description="Name of a MovieLens release to download on first use, such as "
        "`ml-100k`; replaces `path`.",
    )
    licence: str | None = Field(
        default=None,
        min_length=1,
        description="Licence of the data, for the model card. By default that of a "
        "data set that recdistill knows (MovieLens, generated data), else not stated.",
    )
    columns: dict[ColumnRole, str] = Field(
        default_factory=dict,
        description="Column names by role, for data in tables. The roles `list` and "
        "`score` are for listwise data.",
    )
    delimiter: str | None = Field(
        default=None,
        min_length=1,
        description="Delimiter of text files, one or more characters, for the readers "
        "`tables` and `listwise`. By default it is recognised from the header: comma, "
        "tab, `::`, `|`, `;` and some others.",
    )
    keep: str | None = Field(
        default=None,
        description="Selects the interactions that are used: conditions joined by "
        "`and`, such as `rating >= 4` or `event_type == 'purchase'`. Operators: `==`, "
        "`!=`, `<`, `<=`, `>`, `>=`. Not for generated data.",
    )
    time_format: str | None = Field(
        default=None,
        min_length=1,
        description="Unit of the times, `s`, `ms`, `us` or `ns`, or their format, such "
        "as `%d/%m/%Y %H:%M` (as for Python's `strptime`; UTC). By default it is "
        "recognised: whole numbers, seconds with a fraction, or ISO 8601 dates.",
    )
    interactions: TableConfig = Field(
        default=TableConfig(),
        description="Options of the table of interactions.",
    )
    lists: TableConfig = Field(
        default=TableConfig(),
        description="Options of the table of lists, for the reader `listwise`.",
    )
    items: TableConfig = Field(
        default=TableConfig(), description="Options of the table of items."
    )
    queries: TableConfig = Field(
        default=TableConfig(), description="Options of the table of queries."
    )
    unlabelled: TableConfig = Field(
        default=TableConfig(),
        description="Options of the table of requests without an observed choice, from "
        "which the student learns the teacher's scores only. In listwise data, lists "
        "without a relevant row are unlabelled, and there is no such table.",
    )
    synthetic: SyntheticConfig = Field(
        default=SyntheticConfig(),
        description="Size of the generated data, for the reader `synthetic`.",
    )

    @model_validator(mode="after")
    def _time_format_is_one(self) -> Self:
        given = self.time_format
        if given is None or given in ("s", "ms", "us", "ns"):
            return self
        try:
            now = datetime(2024, 5, 1, tzinfo=UTC)
            datetime.strptime(now.strftime(given), given)
            known = "%" in given
        except ValueError:
            known = False
        if not known:
            raise ValueError(
                "`time_format` must be s, ms, us, ns, or a format of Python's "
                f"`strptime` such as `%d/%m/%Y %H:%M`. Received: {given!r}"
            )
        return self

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        given = [k for k in ("path", "fetch") if getattr(self, k) is not None]
        if self.reader in ("synthetic", "frames"):
            if given:
                raise ValueError(
                    f"`{given[0]}` must not be given for reader {self.reader!r}. "
                    f"Received: {getattr(self, given[0])}"
                )
        elif len(given) != 1:
            raise ValueError(
                "exactly one of `path` and `fetch` must be given. "
                f"Received: {given or 'neither'}"
            )
        for key, readers in _READERS_OF_KEY.items():
            default = (
                type(self).model_fields[key].get_default(call_default_factory=True)
            )
            if getattr(self, key) != default and self.reader not in readers:
                raise ValueError(
                    f"`{key}` must not be given for reader {self.reader!r}, which does "
                    f"not use it. Received: {getattr(self, key)!r}"
                )
        self._check_tables()
        listwise = sorted({"list", "score"} & set(self.columns))
        if listwise and self.reader not in ("listwise", "frames"):
            raise ValueError(
                f"`columns.{listwise[0]}` requires reader 'listwise' or 'frames'. "
                f"Received: reader={self.reader!r}"
            )
        return self

    def _check_tables(self) -> None:
        for name in TABLES:
            table: TableConfig = getattr(self, name)
            if table == TableConfig():
                continue
            if self.reader not in ("tables", "listwise", "frames"):
                raise ValueError(
                    f"`{name}` requires reader 'tables', 'listwise' or 'frames'. "
                    f"Received: reader={self.reader!r}"
                )
            other = {"interactions": "listwise", "lists": "tables"}.get(name)
            if self.reader == other:
                raise ValueError(
                    f"`{name}` has no meaning for reader {other!r}, whose table is "
                    f"`{'lists' if other == 'listwise' else 'interactions'}`. "
                    f"Received: {table.model_dump(exclude_defaults=True)}"
                )
            if name == "unlabelled" and self.reader == "listwise":
                raise ValueError(
                    "`unlabelled` has no meaning for reader 'listwise', which takes "
                    "the lists without a relevant row. Received: "
                    f"{table.model_dump(exclude_defaults=True)}"
                )
            if self.reader == "frames" and (table.file or table.columns):
                raise ValueError(
                    f"`{name}` may only have `types` for reader 'frames', which reads "
                    f"no files. Received: {table.model_dump(exclude_defaults=True)}"
                )
