"""A proposal: the tables, roles and features of a folder, with open questions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from recdistill.data.column_profile import ColumnProfile
from recdistill.pipeline.proposal.questions import Question
from recdistill.pipeline.proposal.roles import Roles
from recdistill.pipeline.proposal.source_tables import Source, SourceTable


@dataclass(frozen=True)
class ColumnUse:
    """How a column of a table is used.

    Attributes:
        table: Name of the table's file or folder.
        profile: Profile of the column.
        use: Its role or kind of feature; "" if it is left out.
        reason: Why.
    """

    table: str
    profile: ColumnProfile
    use: str
    reason: str


@dataclass
class Proposal:
    """What was found in a folder, and what is proposed.

    Attributes:
        source: The tables.
        roles: Roles of the columns of the interactions; None if no table has them.
        tables: The tables of interactions, items and queries by name.
        further_files: Files with the columns of the interactions that are not used.
        types: Types of columns that are converted, by table.
        query: Keys of each query feature.
        candidate: Keys of each candidate feature.
        uses: How each column is used.
        notes: Remarks about tables that are not used.
        questions: What the data does not tell; nothing can be written before they are
            answered.
        history: Whether queries have several interactions.
        by_query: Whether interactions of single queries can be held out, because two of
            them, or more, have three interactions.
        repeats: Share of the interactions, without the first one of each query, with
            an item that the query also has at another time.
        items: Number of items, at least.
    """

    source: Source
    roles: Roles | None = None
    tables: dict[str, SourceTable] = field(default_factory=dict)
    further_files: list[str] = field(default_factory=list)
    types: dict[str, dict[str, str]] = field(default_factory=dict)
    query: dict[str, dict[str, Any]] = field(default_factory=dict)
    candidate: dict[str, dict[str, Any]] = field(default_factory=dict)
    uses: list[ColumnUse] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    history: bool = False
    by_query: bool = False
    repeats: float = 0.0
    items: int = 0

    def known(self) -> Roles:
        """The roles.

        Raises:
            RuntimeError: If no table has the ids.
        """
        if self.roles is None:
            raise RuntimeError("The proposal has no table of interactions.")
        return self.roles
