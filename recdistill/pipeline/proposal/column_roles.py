"""Roles of the columns of the interactions: ids, time, relevance, weight, list."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data.column_profile import ColumnProfile, without_missing_words
from recdistill.errors import ConfigError
from recdistill.features.raw_text import is_text, plain
from recdistill.pipeline.proposal import column_names as names
from recdistill.pipeline.proposal.questions import Answers, Question
from recdistill.pipeline.proposal.relevance_columns import (
    MOST_GRADES,
    find_choices,
    shown_and_not_chosen,
)
from recdistill.pipeline.proposal.roles import Roles, is_one_in_each, quoted
from recdistill.pipeline.proposal.source_tables import SourceTable
from recdistill.pipeline.proposal.time_columns import (
    dates,
    format_question,
    has_unknown_format,
    is_time,
    named_times,
    use_format,
)

_A = {"query": "a query", "item": "an item"}

_FEWEST_USERS = 10
"""Different values below which a column such as `customer` is perhaps a flag."""


def find_roles(table: SourceTable, answers: Answers, fixed: bool = False) -> Roles:
    """The roles of the columns of a table.

    Args:
        table: The table of interactions or lists.
        answers: What the user has said.
        fixed: Whether the reader knows the names of the ids and times.

    Raises:
        ConfigError: If an answer names a column that does not exist.
    """
    question = None
    if table.sample.names:
        table, question = name_columns(table, answers)
    roles = Roles(table)
    if question is not None:
        roles.questions.append(question)
    _use_answers(roles, answers)
    for role in ("query", "item"):
        if role not in roles.columns and (question is None or question.default):
            _find_id(roles, role)
    if {"query", "item"} <= set(roles.columns):
        missing = {"time", "list", "relevance", "weight", "score"}.difference
        wanted = missing([*roles.columns, *answers.columns])
        _find_time(roles, "time" in wanted, answers.time_format)
        find_choices(roles, wanted - {"list"} if fixed else wanted, answers)
        if answers.keep is not None:
            for column in roles.kept_by:  # The reasons of another condition.
                roles.reasons.pop(column, None)
            roles.keep = [answers.keep] if answers.keep else []
        _keep_rows_with_ids(roles)
    return roles


def _use_answers(roles: Roles, answers: Answers) -> None:
    """Gives columns the roles that the user has named."""
    for role, column in answers.columns.items():
        if column:
            _require(roles.table, column, f"--column {role}={column}")
            if role in ("query", "item"):
                _find_missing_ids(roles, column)
            roles.give(role, column, "as you said")
            _require_numbers(roles, role)
    for column in answers.context:
        _require(roles.table, column, f"--column context={column}")
    listed = roles.columns.get("list")
    if listed and "query" not in answers.columns and not roles.free(names.QUERY_IDS):
        _find_missing_ids(roles, listed)
        roles.give("query", listed, "as you said")  # Without users, a search is both.


class NoColumnError(ConfigError):
    """A table lacks a column that the user named."""


def _require(table: SourceTable, column: str, option: str) -> None:
    if column not in table.columns:
        raise NoColumnError(
            f"`{option}` must name a column of {table.name}. Its columns are: "
            f"{', '.join(table.columns)}."
        )


def _require_numbers(roles: Roles, role: str) -> None:
    profile = roles.profile(role)
    numbers = ("integer", "number", "boolean")
    if role in ("relevance", "weight", "score") and profile.content not in numbers:
        raise ConfigError(
            f"`--column {role}={profile.name}` must name a column of numbers. "
            f"Received: a column of {roles.table.name} with {profile.content} values"
        )


def name_columns(
    table: SourceTable, answers: Answers
) -> tuple[SourceTable, Question | None]:
    """Names for the columns of a file without a header, and a question about them.

    Raises:
        ConfigError: If the user gave another number of names than there are columns.
    """
    given = answers.headers.get(table.name)
    old = list(table.columns)
    if given is not None:
        if len(given) != len(old) or len(set(given)) != len(given):
            raise ConfigError(
                f"`--header {table.name}={','.join(given)}` must give {len(old)} "
                f"different names, one for each column of {table.name}. Received: "
                f"{len(given)}"
            )
        return table.renamed(dict(zip(old, given, strict=True))), None
    guessed = _guessed_names(table)
    listed = "; ".join(
        f"{guessed.get(name, name)} ({_examples(each)})"
        for name, each in table.columns.items()
    )
    missing = [n for n in ("user_id", "item_id") if n not in guessed.values()]
    # A table of items may also have two columns of codes, but no time.
    sure = not missing and "timestamp" in guessed.values()
    header = ",".join(guessed.get(name, name) for name in old)
    text = (
        f"{table.name} has no header. Its columns, with examples, seem to be: {listed}."
    )
    if missing:
        text += (
            f" None of them was recognised as {' or '.join(missing)}: an id in each "
            "row, which other rows have too. Name all columns in order. If a column "
            "holds several items, write one row for each of them first."
        )
    question = Question(
        text, f"--header {table.name}=NAME,NAME,…", (), header if sure else None
    )
    asked = not (sure and answers.defaults)
    return table.renamed(guessed), question if asked else None


def _guessed_names(table: SourceTable) -> dict[str, str]:
    """Names for the columns of a file without a header, from their values."""
    columns, found = table.columns, dict[str, str]()
    times = [name for name, each in columns.items() if is_time(each, False)]
    found.update(dict.fromkeys(times[:1], "timestamp"))
    ids = [n for n, each in columns.items() if n not in found and _are_ids(each)]
    found.update(zip(ids[:2], ("user_id", "item_id"), strict=False))
    grades = [n for n, each in columns.items() if n not in found and _are_grades(each)]
    found.update(dict.fromkeys(grades[:1], "rating"))
    return found


def _are_ids(profile: ColumnProfile) -> bool:
    """Whether the values are ids that occur in several rows."""
    one = profile.content == "integer" or profile.words <= 1
    return _may_be_id(profile) and one and 2 <= profile.distinct <= profile.rows / 2


def _are_grades(profile: ColumnProfile) -> bool:
    if profile.content not in ("integer", "number"):
        return False
    low, high = profile.range
    return 2 < profile.distinct <= MOST_GRADES and low >= 0 and high <= 10


def _examples(profile: ColumnProfile) -> str:
    return ", ".join(profile.examples()) or "no values"


def _find_id(roles: Roles, role: str) -> None:
    columns = roles.table.columns
    found = _named_ids(roles, role)
    if found:
        profile = _find_missing_ids(roles, found[0])
        reason = f"named like {_A[role]} id; {_each(profile)}"
        others = [c for c in found[1:] if profile.values.equals(columns[c].values)]
        if others:
            reason += f"; the same values as {', '.join(others)}"
        roles.give(role, found[0], reason)
        return
    listed = "; ".join(f"{name} ({_examples(each)})" for name, each in columns.items())
    what = (
        "query, which is the user, session or search that a ranking is for"
        if role == "query"
        else "item"
    )
    roles.questions.append(
        Question(
            f"{roles.table.name} has no column whose name is known for the id of the "
            f"{what}. Its columns, with examples, are: {listed}.",
            f"--column {role}=NAME",
            tuple(columns),
        )
    )


def _named_ids(roles: Roles, role: str) -> list[str]:
    """The columns that have the name of an id and may be one, the best first."""
    wanted = names.QUERY_IDS if role == "query" else names.ITEM_IDS
    columns = roles.table.columns
    found = [c for c in roles.free(wanted) if _may_be_id(columns[c])]
    if role == "query":
        # A user comes before a session, a search or a device.
        named = names.named(found, names.USER_IDS)
        users = [c for c in names.named(found, names.USERS) if _are_users(roles, c)]
        found = [*dict.fromkeys([*named, *users, *found])]
    return found


def _are_users(roles: Roles, column: str) -> bool:
    """Whether a column such as `customer` has ids of users.

    It may also have groups of them, such as "new", their full names, or authors of the
    items.
    """
    profile = roles.table.columns[column]
    many = profile.distinct >= _FEWEST_USERS and profile.missing * 2 < profile.rows
    if not (_are_ids(profile) and many):
        return False
    item = roles.columns.get("item") or next(iter(_named_ids(roles, "item")), None)
    return item is None or not is_one_in_each(roles.table, item, column)


def _find_missing_ids(roles: Roles, column: str) -> ColumnProfile:
    """Profile of a column of ids, in which words such as NULL are missing values."""
    profile = roles.table.columns[column]
    if profile.content == "text":
        profile = replace(profile, values=without_missing_words(profile.values))
        roles.table.columns[column] = profile
    return profile


def _may_be_id(profile: ColumnProfile) -> bool:
    return profile.content in ("text", "integer")


def _each(profile: ColumnProfile) -> str:
    per = (profile.rows - profile.missing) / max(profile.distinct, 1)
    return f"{per:.3g} row{'s' * (per != 1)} for each value"


def _find_time(roles: Roles, wanted: bool, time_format: str | None) -> None:
    columns = roles.table.columns
    if time_format is not None:
        named = [roles.columns["time"]] if "time" in roles.columns else None
        use_format(columns, named or roles.free(names.TIMES), time_format)
    if wanted:
        named = [c for c in roles.free(names.TIMES) if is_time(columns[c], True)]
        others = [
            c
            for c, profile in columns.items()
            if c not in {*named, *roles.columns.values()} and is_time(profile, False)
        ]
        found = [c for c in [*named, *others] if columns[c].distinct > 1]
        found.sort(key=lambda c: columns[c].missing > 0)
        if found:
            reason = (
                "named like a time" if found[0] in named else "its values are times"
            )
            roles.give("time", found[0], reason)
        elif (order := _order_in_query(roles)) is not None:
            reason = "counts the rows of each query, so it gives their order"
            roles.give("time", order, reason)
    lacking = wanted and "time" not in roles.columns
    asked = named_times(columns) if lacking else []
    if not wanted and "time" in roles.columns:
        asked = [roles.columns["time"]]  # As the user said.
    for column in asked:
        if has_unknown_format(columns[column]):
            roles.questions.append(format_question(roles.table, columns[column]))
            return
    if "time" in roles.columns:
        profile = roles.profile("time")
        roles.time_format = profile.time_format
        span = dates(roles.table, profile)
        if span:
            roles.reasons[profile.name] += f"; {span[0]} to {span[1]}"


def _order_in_query(roles: Roles) -> str | None:
    """A column that counts the rows of each query from 0 or 1."""
    rows = roles.table.sample.rows
    query = roles.columns["query"]
    if shown_and_not_chosen(roles):
        return None  # It could be the place on the screen.
    for column in roles.free(names.ORDERS):
        profile = roles.table.columns[column]
        if profile.content != "integer" or profile.missing:
            continue
        table = pa.table({"query": rows[query], "order": profile.numbers})
        groups = table.group_by("query").aggregate(
            [("order", "count_distinct"), ("order", "count")]
        )
        once = pc.equal(groups["order_count_distinct"], groups["order_count"])
        if pc.all(once).as_py() and pc.max(groups["order_count"]).as_py() > 1:
            return column
    return None


def _keep_rows_with_ids(roles: Roles) -> None:
    """Leaves out the rows without an id or a time, however they are written."""
    known = {part.strip() for each in roles.keep for part in each.split(" and ")}
    for role in ("query", "item", "time"):
        if role not in roles.columns or not (profile := roles.profile(role)).missing:
            continue
        spellings = _missing_spellings(roles, profile)
        for each in spellings:
            condition = f"{quoted(profile.name)} != '{each}'"
            if condition not in known:
                roles.keep.append(condition)
        share = profile.missing / profile.rows
        words = ", ".join(each for each in spellings if each.strip())
        roles.reasons[profile.name] += (
            f"; {share:.1%} of the rows have none{f' ({words})' if words else ''} and "
            "are left out"
        )


def _missing_spellings(roles: Roles, profile: ColumnProfile) -> list[str]:
    """The different texts of the missing values of a column; "" for null."""
    raw = plain(roles.table.sample.rows[profile.name].combine_chunks())
    if not is_text(raw.type):
        return [""]
    found = pc.unique(raw.filter(pc.is_null(profile.values))).to_pylist()
    return sorted({each or "" for each in found})
