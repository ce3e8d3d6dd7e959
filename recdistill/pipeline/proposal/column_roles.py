"""Roles of the columns of the interactions: ids, time, relevance, weight, list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data.column_profile import ColumnProfile, without_missing_words
from recdistill.errors import ConfigError
from recdistill.features.raw_text import is_text, plain
from recdistill.pipeline.proposal import column_names as names
from recdistill.pipeline.proposal.feature_kinds import shortened, shown_mean
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

_SEVERAL_IDS = r"^\s*[^\s,;|]*[0-9][^\s,;|]*(?:[\s,;|]+[^\s,;|]*[0-9][^\s,;|]*)+\s*$"
"""Texts such as "N12-0 N7-1": words with digits."""

_MOST = 0.5
"""Share of values from which a column holds several ids in each row."""

_ONE_ROW_EACH = "If a column holds several items, write one row for each of them first."


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
                profile = _find_missing_ids(roles, column)
                if role == "item":
                    _require_one_item(profile)
            roles.give(role, column, "as you said")
            _require_numbers(roles, role)
    for column in answers.context:
        _require(roles.table, column, f"--column context={column}")
    listed = roles.columns.get("list")
    if listed and "query" not in answers.columns and not _named_ids(roles, "query"):
        _find_missing_ids(roles, listed)
        roles.give("query", listed, "as you said")  # Without users, a search is both.


class NoColumnError(ConfigError):
    """A table lacks a column that the user named."""


def _require(table: SourceTable, column: str, option: str) -> None:
    if column in table.unreadable:
        raise NoColumnError(
            f"`{option}` must name a column of {table.name} that can be read. "
            f"{_why_unreadable(table, column)}"
        )
    if column not in table.columns:
        raise NoColumnError(
            f"`{option}` must name a column of {table.name}. Its columns are: "
            f"{', '.join(table.columns)}."
        )


def _why_unreadable(table: SourceTable, column: str) -> str:
    reason = shortened(table.unreadable[column], 200).rstrip(".")
    return (
        f"{reason}. Objects must be flattened first: write each of their values to a "
        "column of its own."
    )


def _require_one_item(profile: ColumnProfile) -> None:
    if _holds_several(profile):
        example = shortened(profile.examples(1)[0], 40)
        raise ConfigError(
            f"`--column item={profile.name}` must name a column with one item in each "
            f"row. Received: values such as {example!r}. {_ONE_ROW_EACH}"
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
            "row, which other rows have too. Name all columns in order. "
            f"{_ONE_ROW_EACH}"
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
    return ", ".join(shortened(each, 40) for each in profile.examples()) or "no values"


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
    columns = {n: p for n, p in columns.items() if n not in roles.table.unreadable}
    listed = "; ".join(f"{name} ({_examples(each)})" for name, each in columns.items())
    what = (
        "query, which is the user, session or search that a ranking is for"
        if role == "query"
        else "item"
    )
    roles.questions.append(
        Question(
            f"{roles.table.name} has no column whose name is known for the id of the "
            f"{what}. Its columns, with examples, are: {listed}."
            + "".join(f" {hint}" for hint in _hints(roles, role)),
            f"--column {role}=NAME",
            tuple(columns),
        )
    )


def _hints(roles: Roles, role: str) -> Iterator[str]:
    """Why some columns are no ids of queries or items."""
    table = roles.table
    if role == "query":
        for column in _named(roles, names.QUERY_IDS):
            many = table.columns[column].distinct
            yield (
                f"`{column}` has the name of an id, but only {many} different "
                f"value{'s' * (many != 1)}, as a group has."
            )
    several = [n for n, profile in table.columns.items() if _holds_several(profile)]
    if role == "item" and several:
        yield f"{_listed(several)}: several values in each row. {_ONE_ROW_EACH}"
    if table.unreadable:
        first = next(iter(table.unreadable))
        yield (
            f"Not listed, because they cannot be read: {_listed(table.unreadable)}. "
            f"{_why_unreadable(table, first)}"
        )


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(f"`{column}`" for column in columns)


def _named_ids(roles: Roles, role: str) -> list[str]:
    """The columns that have the name of an id and may be one, the best first."""
    columns = roles.table.columns
    if role == "item":
        found = _named(roles, names.ITEM_IDS)
        return [c for c in found if not _holds_several(columns[c])]
    found = _named(roles, names.QUERY_IDS)
    # A user comes before a session, a search or a device.
    named = names.named(found, names.USER_IDS)
    users = [c for c in names.named(found, names.USERS) if _are_users(roles, c)]
    # A device may also be "phone" or "web", and a customer "new" or "returning".
    others = [c for c in found if columns[c].distinct >= _FEWEST_USERS]
    return [*dict.fromkeys([*named, *users, *others])]


def _named(roles: Roles, wanted: Sequence[str]) -> list[str]:
    """The columns without a role that have one of the names and values of ids."""
    return [c for c in roles.free(wanted) if _may_be_id(roles.table.columns[c])]


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
    # Ids such as "shop/0012" look like lists.
    return profile.content in ("text", "integer") or profile.separator == "/"


def _holds_several(profile: ColumnProfile) -> bool:
    """Whether the values are several ids each, such as the items that were shown."""
    present = pc.drop_null(profile.values)
    if profile.content == "list":
        if profile.separator is None:
            return True
        if profile.separator == "/":  # Paths
            return False
        counts = pc.count_substring(present, profile.separator)
        return bool(pc.count_distinct(counts).as_py() > 1)
    # One id may have several words, but occurs in several rows.
    if profile.content != "text" or profile.distinct * 2 <= len(present):
        return False
    several = pc.match_substring_regex(present, _SEVERAL_IDS)
    return bool(pc.mean(several.cast(pa.float64())).as_py() > _MOST)


def _each(profile: ColumnProfile) -> str:
    per = (profile.rows - profile.missing) / max(profile.distinct, 1)
    return f"{shown_mean(per)} row{'s' * (per != 1)} for each value"


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
