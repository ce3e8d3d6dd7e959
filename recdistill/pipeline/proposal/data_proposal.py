"""Proposal for a folder: which table, roles and features, with the reasons."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data.column_profile import ColumnProfile, profile_column
from recdistill.data.row_filter import RowFilter
from recdistill.errors import ConfigError, DataError
from recdistill.export.layout import RESERVED
from recdistill.pipeline.proposal import column_names as names
from recdistill.pipeline.proposal.column_roles import (
    Roles,
    find_roles,
    is_one_in_each,
    name_columns,
)
from recdistill.pipeline.proposal.feature_kinds import Kind, propose_kind
from recdistill.pipeline.proposal.questions import Answers, Question
from recdistill.pipeline.proposal.source_tables import Source, SourceTable

_OUTCOME = (
    "perhaps known only after the choice: add it to [query] if every request has it"
)
_OF_THE_ITEM = (
    "describes the item, which has one value; features of items are columns of a table "
    "of items"
)


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
        query: Keys of each query feature.
        candidate: Keys of each candidate feature.
        uses: How each column is used.
        notes: Remarks about tables that are not used.
        questions: What the data does not tell; nothing can be written before they are
            answered.
        history: Whether queries have several interactions.
        by_query: Whether interactions of single queries can be held out, because two of
            them, or more, have three interactions.
        items: Number of items, at least.
    """

    source: Source
    roles: Roles | None = None
    tables: dict[str, SourceTable] = field(default_factory=dict)
    query: dict[str, dict[str, Any]] = field(default_factory=dict)
    candidate: dict[str, dict[str, Any]] = field(default_factory=dict)
    uses: list[ColumnUse] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    history: bool = False
    by_query: bool = False
    items: int = 0

    def known(self) -> Roles:
        """The roles.

        Raises:
            RuntimeError: If no table has the ids.
        """
        if self.roles is None:
            raise RuntimeError("The proposal has no table of interactions.")
        return self.roles


def propose(source: Source, answers: Answers) -> Proposal:
    """Proposal for the tables of a folder.

    Args:
        source: The tables.
        answers: What the user has said.

    Raises:
        ConfigError: If an answer does not fit the data.
        DataError: If a condition on the rows cannot be evaluated.
    """
    proposal = Proposal(source)
    _choose_interactions(proposal, answers)
    roles = proposal.roles
    if roles is None or not {"query", "item"} <= set(roles.columns):
        return proposal
    for name, role in (("items", "item"), ("queries", "query")):
        _choose_features_table(proposal, name, role, answers)
    rows = _positive_rows(roles)
    _count_interactions(proposal, rows)
    _propose_candidate(proposal)
    _propose_query(proposal, answers)
    _propose_split(proposal)
    _describe_uses(proposal)
    return proposal


def _choose_interactions(proposal: Proposal, answers: Answers) -> None:
    tables = proposal.source.tables
    fixed = proposal.source.reader in ("movielens", "recbole")
    wanted = answers.tables.get("interactions")
    if wanted:
        tables = tuple(t for t in tables if wanted in (t.name, t.stem))
        if not tables:
            raise ConfigError(_no_table(proposal.source, "interactions", wanted))
    elif fixed:
        tables = tables[:1]
    found = [find_roles(table, answers, fixed) for table in tables]
    both = [r for r in found if {"query", "item"} <= set(r.columns)]
    both = [r for r in both if not r.profile("item").all_distinct] or both
    if len(both) > 1 and (clear := [r for r in both if _rank(r.table) is not None]):
        both = sorted(clear, key=lambda r: _rank(r.table) or 0)[:1]
    if len(both) > 1:
        both.sort(key=lambda r: -r.table.sample.count)
        if not answers.defaults:
            _ask_for_table(proposal, both)
    if both:
        proposal.roles = both[0]
    else:
        # The table that comes nearest says what is missing.
        found.sort(key=lambda r: (_rank(r.table) is None, -len(r.columns)))
        proposal.roles = found[0]
    proposal.tables["interactions"] = proposal.roles.table
    proposal.questions += proposal.roles.questions


def _rank(table: SourceTable) -> int | None:
    """Place of the table's name among the usual names of interactions."""
    name = names.plain_name(table.stem)
    for number, usual in enumerate(names.TABLES_OF_INTERACTIONS):
        if name == usual:
            return number
    return None


def _no_table(source: Source, table: str, wanted: str) -> str:
    listed = ", ".join(each.name for each in source.tables)
    return (
        f"`--table {table}={wanted}` must name a table of {source.path}. Its tables "
        f"are: {listed}."
    )


def _ask_for_table(proposal: Proposal, both: Sequence[Roles]) -> None:
    listed = "; ".join(
        f"{r.table.name} ({r.table.sample.count:,} rows: {', '.join(r.table.columns)})"
        for r in both
    )
    proposal.questions.append(
        Question(
            f"Several tables have ids of queries and items: {listed}. Which of them "
            "has the interactions to learn from?",
            "--table interactions=FILE",
            tuple(r.table.name for r in both),
            both[0].table.name,
        )
    )


def _choose_features_table(
    proposal: Proposal, name: str, role: str, answers: Answers
) -> None:
    """Finds the table of items or queries."""
    roles, source = proposal.known(), proposal.source
    if source.reader != "tables":
        for table in source.tables:
            if table.name == name:
                proposal.tables[name] = table
        return
    wanted = answers.tables.get(name)
    if wanted == "":
        return
    used = {table.name for table in proposal.tables.values()}
    others = [t for t in source.tables if t.name not in used]
    if wanted is not None:
        others = [t for t in others if wanted in (t.name, t.stem)]
        if not others:
            raise ConfigError(_no_table(source, name, wanted))
    ids = roles.profile(role)
    others = [_with_header(table, ids, answers) for table in others]
    fit = [t for t in others if _has_ids(t, ids)]
    fit.sort(key=lambda t: (t.stem != name, -len(t.columns)))
    if fit:
        proposal.tables[name] = fit[0]
        return
    for table in others:
        _explain_misfit(proposal, table, name, ids, wanted)


def _with_header(
    table: SourceTable, ids: ColumnProfile, answers: Answers
) -> SourceTable:
    """A table without a header, whose column of the ids gets the name of the ids."""
    if not table.sample.names:
        return table
    if table.name in answers.headers:
        return name_columns(table, answers)[0]
    for name, column in table.columns.items():
        if column.all_distinct and not column.missing and _overlap(column, ids) > 0.5:
            return table.renamed({name: ids.name})
    return table


def _has_ids(table: SourceTable, ids: ColumnProfile) -> bool:
    """Whether a table has one row for each of the ids, in a column of this name."""
    column = table.columns.get(ids.name)
    if column is None or column.missing or not column.all_distinct:
        return False
    return not table.sample.complete or _overlap(column, ids) > 0


def _overlap(column: ColumnProfile, ids: ColumnProfile) -> float:
    """Share of the ids that a column has."""
    different = pc.unique(pc.drop_null(ids.values))
    if not len(different):
        return 0.0
    found = pc.is_in(different, pc.drop_null(column.values))
    return float(pc.mean(found.cast(pa.float64())).as_py())


def _explain_misfit(
    proposal: Proposal,
    table: SourceTable,
    name: str,
    ids: ColumnProfile,
    wanted: str | None,
) -> None:
    """Says why a table that looks like one of items or queries is not used."""
    problem = None
    column = table.columns.get(ids.name)
    if column is not None and not column.all_distinct:
        problem = f"has several rows for the same `{ids.name}`"
    else:
        for other in table.columns.values():
            same = other.all_distinct and not other.missing and len(other.values) > 1
            if same and _overlap(other, ids) > 0.5:
                problem = (
                    f"calls its ids `{other.name}`, which must have the name "
                    f"`{ids.name}` as in {proposal.known().table.name}; rename the "
                    "column to use its features"
                )
                break
    if problem is None and (table.stem == name or wanted is not None):
        problem = f"has no column `{ids.name}` with the ids"
    if problem is None:
        return
    if table.stem == name or wanted is not None:
        raise DataError(f"{proposal.source.path / table.name} {problem}.")
    proposal.notes.append(f"{table.name} is not used, because it {problem}.")


def _positive_rows(roles: Roles) -> pa.Table:
    """Query and list of the rows of the sample that are interactions."""
    rows = roles.table.sample.rows
    held = pa.chunked_array([pa.array([True] * len(rows))])
    if roles.keep:
        condition = RowFilter.parse(" and ".join(roles.keep))
        missing = [c for c in condition.columns if c not in rows.column_names]
        if missing:
            raise ConfigError(
                f"`--keep` must use columns of {roles.table.name}. Received: "
                f"{missing[0]!r}. Its columns are: {', '.join(rows.column_names)}."
            )
        batches = rows.combine_chunks().to_batches()
        held = pa.chunked_array(
            [condition.holds(b, roles.table.name, 1) for b in batches], pa.bool_()
        )
    if "relevance" in roles.columns:
        held = pc.and_(held, pa.array(roles.profile("relevance").numbers > 0))
    table = pa.table(
        {
            "query": roles.profile("query").values,
            "item": roles.profile("item").values,
        }
    )
    return table.filter(held)


def _count_interactions(proposal: Proposal, rows: pa.Table) -> None:
    roles = proposal.known()
    if not len(rows):
        raise DataError(
            f"{roles.table.name} has no interactions: no row of the sample fulfils "
            f"{' and '.join(roles.keep) or 'relevance > 0'}. Choose other rows with "
            "`--keep CONDITION`, or all with `--keep ''`."
        )
    counts = rows.group_by("query").aggregate([("item", "count")])["item_count"]
    number = counts.to_numpy()
    proposal.history = bool((number >= 2).any())
    held_out = np.where(number < 3, 0, 1)
    if "time" in roles.columns:
        held_out = np.where(number < 3, 0, np.maximum(1, number // 10))
    proposal.by_query = int(held_out.sum()) >= 2
    items = proposal.tables.get("items")
    proposal.items = roles.profile("item").distinct
    if items is not None:
        proposal.items = max(proposal.items, items.sample.count)
    if proposal.items < 2:
        raise DataError(
            f"{roles.table.name} has one item in the column `{roles.columns['item']}`. "
            "A ranking requires two or more."
        )


def _propose_candidate(proposal: Proposal) -> None:
    roles = proposal.known()
    ids = roles.profile("item")
    name = _feature_name(ids.name, proposal)
    proposal.candidate[name] = _with_column({"kind": "id"}, name, ids.name)
    items = proposal.tables.get("items")
    if items is None:
        return
    lacking = _may_lack(proposal, items, ids)
    profile = items.columns[ids.name]
    reason = "one row for each item"
    proposal.uses.append(ColumnUse(items.name, profile, "item id", reason))
    for profile in items.columns.values():
        if profile.name != ids.name:
            kind = propose_kind(profile, lacking)
            _add(proposal, proposal.candidate, items.name, profile, kind)
    _add_unreadable(proposal, items)


def _may_lack(proposal: Proposal, table: SourceTable, ids: ColumnProfile) -> bool:
    """Whether some of the ids may have no row in the table."""
    whole = table.sample.complete and proposal.known().table.sample.complete
    return not whole or _overlap(table.columns[ids.name], ids) < 1


def _propose_query(proposal: Proposal, answers: Answers) -> None:
    roles = proposal.known()
    if proposal.history:
        proposal.query[_free_name("history", proposal)] = {"kind": "history"}
    queries = proposal.tables.get("queries")
    ids = roles.profile("query")
    taken = set()
    if queries is not None:
        lacking = _may_lack(proposal, queries, ids)
        reason = "one row for each query"
        profile = queries.columns[ids.name]
        proposal.uses.append(ColumnUse(queries.name, profile, "query id", reason))
        for profile in queries.columns.values():
            if profile.name != ids.name:
                kind = propose_kind(profile, lacking)
                _add(proposal, proposal.query, queries.name, profile, kind)
        _add_unreadable(proposal, queries)
        taken = set(queries.columns)
    used = {*roles.columns.values(), *roles.reasons}
    for profile in roles.table.columns.values():
        if profile.name in used:
            continue
        if profile.name in taken:
            kind = Kind.left_out(f"read from {queries.name if queries else ''}")
        else:
            kind = _context_kind(proposal, profile, answers)
        _add(proposal, proposal.query, roles.table.name, profile, kind)
    _add_unreadable(proposal, roles.table)
    if not proposal.query:
        proposal.questions.append(_no_features(roles))


def _no_features(roles: Roles) -> Question:
    left = [c for c in roles.table.columns if c not in roles.columns.values()]
    return Question(
        f"A query needs a feature, and {roles.table.name} gives none: no query has a "
        "history (two interactions), and no column is known to be there when a "
        f"request arrives. Its other columns are: {', '.join(left) or 'none'}.",
        "--column context=NAME",
        tuple(left),
    )


def _context_kind(proposal: Proposal, profile: ColumnProfile, answers: Answers) -> Kind:
    """Kind of query feature for a column of the interactions."""
    roles = proposal.known()
    kind = propose_kind(profile)
    said = profile.name in answers.context
    if kind.keys is None or said:
        return Kind(kind.keys, f"{kind.reason}; as you said" if said else kind.reason)
    if "list" in roles.columns:
        return _of_list(roles, profile, kind)
    if is_one_in_each(roles.table, roles.columns["item"], profile.name):
        return Kind.left_out(_OF_THE_ITEM)
    if proposal.history and is_one_in_each(
        roles.table, roles.columns["query"], profile.name
    ):
        return _query_kind(roles, profile)
    return _named_context(profile, kind)


def _of_list(roles: Roles, profile: ColumnProfile, kind: Kind) -> Kind:
    """Kind for a column of a listwise table."""
    if not is_one_in_each(roles.table, roles.columns["list"], profile.name):
        return Kind.left_out("differs within a list, so it is not the query's")
    if profile.content == "date":
        return Kind.left_out("a date, which is new in every later list")
    return Kind(kind.keys, f"the same in all rows of a list; {kind.reason}")


def _named_context(profile: ColumnProfile, kind: Kind) -> Kind:
    """Kind for a column that is known by its name to be there in a request."""
    plain = names.plain_name(profile.name)
    if profile.content != "date":
        if plain in names.SEARCH_WORDS and profile.content == "text":
            keys: dict[str, Any] = {"kind": "text"}
            if profile.missing:
                keys["optional"] = True
            return Kind(keys, "the words of the search, by its name")
        if plain in names.CONTEXTS:
            return Kind(
                kind.keys, f"context of the request, by its name; {kind.reason}"
            )
    return Kind.left_out(_OUTCOME)


def _query_kind(roles: Roles, profile: ColumnProfile) -> Kind:
    """Kind for a column with one value for each query."""
    rows = pa.table({"query": roles.profile("query").values, "value": profile.values})
    first = rows.group_by("query", use_threads=False).aggregate([("value", "first")])
    kind = propose_kind(profile_column(profile.name, first["value_first"]))
    if kind.keys is None and kind.reason.startswith("identifies"):
        return Kind.left_out("identifies the query, like its id")
    return Kind(kind.keys, f"one value for each query; {kind.reason}")


def _add(
    proposal: Proposal,
    features: dict[str, dict[str, Any]],
    table: str,
    profile: ColumnProfile,
    kind: Kind,
) -> None:
    use = ""
    if kind.keys is not None:
        name = _feature_name(profile.name, proposal)
        features[name] = _with_column(kind.keys, name, profile.name)
        use = str(kind.keys["kind"])
    proposal.uses.append(ColumnUse(table, profile, use, kind.reason))


def _add_unreadable(proposal: Proposal, table: SourceTable) -> None:
    for name, reason in table.sample.unreadable.items():
        profile = ColumnProfile(name, "unreadable", pa.array([], pa.string()))
        proposal.uses.append(ColumnUse(table.name, profile, "", reason))


def _with_column(keys: Mapping[str, Any], name: str, column: str) -> dict[str, Any]:
    kind = {"kind": keys["kind"]}
    return {**kind, **({} if name == column else {"column": column}), **keys}


def _feature_name(column: str, proposal: Proposal) -> str:
    name = re.sub(r"[^A-Za-z0-9_]+", "_", column).strip("_")
    if not name or not name[0].isalpha():
        name = f"column_{name}".rstrip("_")
    return _free_name(name, proposal)


def _free_name(name: str, proposal: Proposal) -> str:
    taken = {
        *RESERVED,
        *proposal.query,
        *proposal.candidate,
        *("history", "history_length", "self", "training", "mask"),
    }
    if name == "history" and not proposal.query:
        taken.discard("history")
    free, number = name, 2
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def _propose_split(proposal: Proposal) -> None:
    roles = proposal.known()
    if "time" in roles.columns or proposal.by_query:
        return
    listed = ", ".join(roles.table.columns)
    proposal.questions.append(
        Question(
            f"{roles.table.name} has no column of times, and too few queries have "
            "three interactions to hold some out for validation and test. Its "
            f"columns are: {listed}.",
            "--column time=NAME",
            tuple(roles.table.columns),
        )
    )


def _describe_uses(proposal: Proposal) -> None:
    """Adds the roles of the interactions, and tables that are not used."""
    roles = proposal.known()
    by_column = {column: role for role, column in roles.columns.items()}
    uses = []
    for profile in roles.table.columns.values():
        role = by_column.get(profile.name)
        if role is None and profile.name not in roles.reasons:
            continue
        use = f"{role} id" if role in ("query", "item", "list") else role
        keep = any(profile.name in condition for condition in roles.keep)
        uses.append(
            ColumnUse(
                roles.table.name,
                profile,
                use or ("keep" if keep else ""),
                roles.reasons[profile.name],
            )
        )
    proposal.uses[:0] = uses
    used = {table.name for table in proposal.tables.values()}
    explained = " ".join(proposal.notes)
    for table in proposal.source.tables:
        if table.name not in used and table.name not in explained:
            proposal.notes.append(
                f"{table.name} is not used: it is no table of items or queries of "
                f"{roles.table.name}."
            )
    for name, problem in proposal.source.problems.items():
        if name.partition(".")[0] in ("interactions", "lists", "items", "queries"):
            raise DataError(problem)
        proposal.notes.append(f"{name} is not used: {problem}")
