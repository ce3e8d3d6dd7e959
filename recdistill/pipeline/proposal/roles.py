"""The roles that the columns of the interactions have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data.column_profile import ColumnProfile, profile_column
from recdistill.data.row_filter import RowFilter
from recdistill.pipeline.proposal import column_names as names
from recdistill.pipeline.proposal.questions import Question
from recdistill.pipeline.proposal.source_tables import SourceTable

_SAME = 0.99
"""Share of groups that must have one value, to tolerate errors in the data."""


@dataclass
class Roles:
    """Roles of the columns of the interactions, with reasons.

    Attributes:
        table: The table.
        columns: Column by role.
        reasons: Reason by column, also for columns without a role.
        keep: Conditions on the rows.
        alternative: Another condition that the user may prefer.
        time_format: Value of `dataset.time_format`.
        questions: What the columns do not tell.
    """

    table: SourceTable
    columns: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    keep: list[str] = field(default_factory=list)
    alternative: str | None = None
    time_format: str | None = None
    questions: list[Question] = field(default_factory=list)

    def profile(self, role: str) -> ColumnProfile:
        """Profile of the column with a role."""
        return self.table.columns[self.columns[role]]

    @property
    def kept_by(self) -> frozenset[str]:
        """The columns of the conditions on the rows.

        Raises:
            DataError: If the text is no condition.
        """
        condition = " and ".join(self.keep)
        return frozenset(RowFilter.parse(condition).columns if condition else ())

    def give(self, role: str, column: str, reason: str) -> None:
        """Gives a column a role."""
        self.columns[role] = column
        self.reasons[column] = reason

    def free(self, wanted: Sequence[str]) -> list[str]:
        """The columns with one of these names that have no role yet."""
        taken = self.columns.values()
        return [c for c in names.named(self.table.columns, wanted) if c not in taken]


def is_one_in_each(table: SourceTable, group: str, column: str) -> bool:
    """Whether nearly all groups of rows have one value of a column."""
    value = pc.fill_null(table.columns[column].values, "")
    rows = pa.table({"group": table.columns[group].values, "value": value})
    counts = rows.group_by("group").aggregate(
        [("value", "count_distinct"), ("value", "count")]
    )
    several = counts.filter(pc.greater(counts["value_count"], 1))
    if not len(several):
        return True
    one = pc.equal(several["value_count_distinct"], 1)
    return bool(pc.mean(one.cast(pa.float64())).as_py() >= _SAME)


def first_of_each(table: SourceTable, group: str, column: str) -> ColumnProfile:
    """Profile of a column whose values are the first ones of each group of rows."""
    groups = table.columns[group].values
    rows = pa.table({"group": groups, "row": np.arange(len(groups))})
    rows = rows.filter(pc.is_valid(groups)).group_by("group")
    first = np.sort(rows.aggregate([("row", "min")])["row_min"].to_numpy())
    return profile_column(column, table.sample.rows[column].take(pa.array(first)))


def quoted(column: str) -> str:
    """Name of a column in a condition."""
    plain = column.replace(".", "_").replace("-", "_")
    return column if plain.isidentifier() else f"`{column}`"
