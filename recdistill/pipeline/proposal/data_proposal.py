"""Proposal for a folder: which table, roles and features, with the reasons."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data.column_profile import ColumnProfile
from recdistill.data.item_titles import title_column
from recdistill.data.row_filter import RowFilter
from recdistill.data.table_files import named_places, table_name, unreadable
from recdistill.errors import ConfigError, DataError
from recdistill.export.layout import RESERVED
from recdistill.pipeline.proposal import column_names as names
from recdistill.pipeline.proposal.feature_kinds import Kind, propose_kind
from recdistill.pipeline.proposal.id_matching import as_integers, overlap
from recdistill.pipeline.proposal.proposal import ColumnUse, Proposal
from recdistill.pipeline.proposal.questions import Answers, Question
from recdistill.pipeline.proposal.roles import (
    Roles,
    first_of_each,
    is_one_in_each,
)
from recdistill.pipeline.proposal.source_tables import Source, SourceTable
from recdistill.pipeline.proposal.table_choice import (
    choose_feature_table,
    choose_interactions,
    note_similar_ids,
)

_OUTCOME = (
    "perhaps known only after the choice: add it to [query] if every request has it"
)
_DEFAULTS = ("interactions", "lists", "items", "queries")
"""Tables that the reader finds by their names."""

_FEWEST_ROWS = 20
_MOSTLY = 0.9
"""Different items in a row from which nearly every item occurs once."""

_MANY = 100
"""Different whole numbers, one for each query or list, from which they are ids."""

_MOST_SEARCH_WORDS = 10
"""Mean number of words from which a text is no search, but perhaps a review."""

_OF_THE_ITEM = (
    "describes the item, which has one value; features of items are columns of a table "
    "of items"
)


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
    choose_interactions(proposal, answers)
    roles = proposal.roles
    if roles is None or not {"query", "item"} <= set(roles.columns):
        return proposal
    for name, role in (("items", "item"), ("queries", "query")):
        choose_feature_table(proposal, name, role, answers)
        note_similar_ids(proposal, name, role)
    rows = _positive_rows(roles)
    _count_interactions(proposal, rows)
    _note_single_items(proposal)
    _propose_candidate(proposal)
    _propose_query(proposal, answers)
    _propose_split(proposal)
    _describe_uses(proposal)
    _set_types(proposal)
    return proposal


def _positive_rows(roles: Roles) -> pa.Table:
    """Query, item and time of the rows of the sample that are interactions."""
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
    known = [role for role in ("query", "item", "time") if role in roles.columns]
    return pa.table({each: roles.profile(each).values for each in known}).filter(held)


def _count_interactions(proposal: Proposal, rows: pa.Table) -> None:
    roles = proposal.known()
    if not len(rows):
        raise DataError(
            f"{roles.table.name} has no interactions: no row of the sample fulfils "
            f"{' and '.join(roles.keep) or 'relevance > 0'}. Choose other rows with "
            "`--keep CONDITION`, or all with `--keep ''`."
        )
    counts = rows.group_by("query").aggregate([("item", "count")])["item_count"]
    if len(rows) < _FEWEST_ROWS and roles.table.sample.complete:
        raise DataError(
            f"{roles.table.name} has {len(rows)} interactions"
            f"{' that are kept' if roles.keep else ''}; at least {_FEWEST_ROWS} are "
            "required for a training, a validation and a test part."
        )
    number = counts.to_numpy()
    # Rows of the same time are one choice, as `prepare` counts them.
    moments = rows.group_by(rows.column_names).aggregate([]).group_by(["query", "item"])
    times = moments.aggregate([("item", "count")])["item_count"].to_numpy()
    later = times.sum() - len(counts)
    proposal.repeats = float((times - 1).sum() / max(later, 1))
    searches = roles.columns.get("list") == roles.columns["query"]
    proposal.history = bool((number >= 2).any()) and not searches
    held_out = np.where(number < 3, 0, 1)
    if "time" in roles.columns:
        held_out = np.where(number < 3, 0, np.maximum(1, number // 10))
    proposal.by_query = int(held_out.sum()) >= 2 and not searches
    items = proposal.tables.get("items")
    proposal.items = roles.profile("item").distinct
    if items is not None:
        proposal.items = max(proposal.items, items.sample.count)
    if proposal.items < 2:
        raise DataError(
            f"{roles.table.name} has one item in the column `{roles.columns['item']}`. "
            "A ranking requires two or more."
        )


def _note_single_items(proposal: Proposal) -> None:
    """Notes that nearly every item has one row, as lists of items have."""
    roles = proposal.known()
    ids = roles.profile("item")
    rows = ids.rows - ids.missing
    if ids.distinct >= _MOSTLY * rows:
        proposal.notes.append(
            f"`{ids.name}` has {ids.distinct:,} different values in {rows:,} rows of "
            f"{roles.table.name}. Nothing can be learned about an item that occurs in "
            "one row only. Check that the column has the ids of single items."
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
    title = title_column(items.columns)
    reason = "one row for each item"
    proposal.uses.append(ColumnUse(items.name, profile, "item id", reason))
    for profile in items.columns.values():
        if profile.name != ids.name:
            kind = propose_kind(profile, lacking)
            if kind.keys is not None and profile.name == title:
                kind = Kind(kind.keys, f"shown as the item's title; {kind.reason}")
            _add(proposal, proposal.candidate, items.name, profile, kind)
    _add_unreadable(proposal, items)


def _may_lack(proposal: Proposal, table: SourceTable, ids: ColumnProfile) -> bool:
    """Whether some of the ids may have no row in the table."""
    column = table.columns[ids.name]
    if ids.name in proposal.types.get("interactions", {}):
        column, ids = as_integers(column), as_integers(ids)
    whole = table.sample.complete and proposal.known().table.sample.complete
    return not whole or overlap(column, ids) < 1


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
        if kind.keys is None and profile.name in roles.kept_by:
            use = ColumnUse(roles.table.name, profile, "keep", "as you said")
            proposal.uses.append(use)
            continue
        _add(proposal, proposal.query, roles.table.name, profile, kind)
    _add_unreadable(proposal, roles.table)
    if not proposal.query:
        proposal.questions.append(_no_features(roles))


def _no_features(roles: Roles) -> Question:
    left = [c for c in roles.table.columns if c not in roles.columns.values()]
    if not left:
        raise DataError(
            f"{roles.table.name} has nothing that a ranking could be based on: each "
            "query has one interaction, so that none has a history, and there are no "
            "other columns. Add interactions of the same queries, columns that are "
            "known when a request arrives, or a table of queries with features."
        )
    return Question(
        f"A query needs a feature, and {roles.table.name} gives none: no query has a "
        "history (two interactions), and no column is known to be there when a "
        f"request arrives. Its other columns are: {', '.join(left)}.",
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
        return _of_list(roles, profile)
    if is_one_in_each(roles.table, roles.columns["item"], profile.name):
        return Kind.left_out(_OF_THE_ITEM)
    if proposal.history and is_one_in_each(
        roles.table, roles.columns["query"], profile.name
    ):
        return _kind_of_each(roles, "query", profile)
    return _named_context(profile, kind)


def _of_list(roles: Roles, profile: ColumnProfile) -> Kind:
    """Kind for a column of a listwise table."""
    if not is_one_in_each(roles.table, roles.columns["list"], profile.name):
        if is_one_in_each(roles.table, roles.columns["item"], profile.name):
            return Kind.left_out(_OF_THE_ITEM)
        return Kind.left_out("differs within a list, so it is not the query's")
    if profile.content == "date":
        return Kind.left_out("a date, which is new in every later list")
    return _kind_of_each(roles, "list", profile)


def _named_context(profile: ColumnProfile, kind: Kind) -> Kind:
    """Kind for a column that is known by its name to be there in a request."""
    plain = names.plain_name(profile.name)
    if profile.content != "date":
        short = profile.content == "text" and profile.words <= _MOST_SEARCH_WORDS
        if plain in names.SEARCH_WORDS and short:
            keys: dict[str, Any] = {"kind": "text"}
            if profile.missing:
                keys["optional"] = True
            return Kind(keys, "the words of the search, by its name")
        if plain in names.CONTEXTS:
            return Kind(
                kind.keys, f"context of the request, by its name; {kind.reason}"
            )
    return Kind.left_out(_OUTCOME)


def _kind_of_each(roles: Roles, role: str, profile: ColumnProfile) -> Kind:
    """Kind for a column with one value for each query or list.

    In the rows, each value is repeated, so that even an id looks like a category.
    """
    each = first_of_each(roles.table, roles.columns[role], profile.name)
    kind = propose_kind(each)
    integers = each.content == "integer" and each.all_distinct
    if integers and each.rows >= _MANY and not names.is_quantity(each.name):
        kind = Kind.left_out("identifies")
    if kind.keys is None:
        if kind.reason.startswith(("identifies", "numbers the rows")):
            return Kind.left_out(f"identifies the {role}, like its id")
        if kind.reason.startswith("nearly every row"):
            return Kind.left_out(re.sub(r"\brow", role, kind.reason))
    same = "the same in all rows of a list"
    same = same if role == "list" else "one value for each query"
    return Kind(kind.keys, f"{same}; {kind.reason}")


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


def _set_types(proposal: Proposal) -> None:
    """Sets the types of the columns with decimal commas that are used."""
    for key, table in proposal.tables.items():
        for use in proposal.uses:
            column = use.profile.name
            if use.use and use.table == table.name and column in table.decimal_commas:
                proposal.types.setdefault(key, {})[column] = "decimal_comma"


def _describe_uses(proposal: Proposal) -> None:
    """Adds the roles of the interactions, and tables that are not used."""
    roles = proposal.known()
    by_column: dict[str, list[str]] = {}
    for role, column in roles.columns.items():
        of_id = role in ("query", "item", "list")
        by_column.setdefault(column, []).append(f"{role} id" if of_id else role)
    uses = []
    for profile in roles.table.columns.values():
        use = ", ".join(by_column.get(profile.name, ()))
        if not use and profile.name not in roles.reasons:
            continue
        use = use or ("keep" if profile.name in roles.kept_by else "")
        reason = roles.reasons[profile.name]
        uses.append(ColumnUse(roles.table.name, profile, use, reason))
    proposal.uses[:0] = uses
    used = {table.name for table in proposal.tables.values()}
    explained = " ".join(proposal.notes)
    for table in proposal.source.tables:
        if table.name not in used and table.name not in explained:
            proposal.notes.append(
                f"{table.name} is not used: it is no table of items or queries of "
                f"{roles.table.name}."
            )
    if proposal.source.reader == "tables" and "list" not in roles.columns:
        for place in named_places(proposal.source.path, "unlabelled"):
            proposal.notes.append(
                f"{place.name} has requests without a choice; from these the student "
                "learns the teacher's scores."
            )
    for name, problem in proposal.source.problems.items():
        place = proposal.source.path / name
        if table_name(place) in _DEFAULTS and unreadable(place) is None:
            raise DataError(problem)
        proposal.notes.append(f"{name} is not used: {problem}")
