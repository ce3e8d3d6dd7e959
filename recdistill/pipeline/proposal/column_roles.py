"""Roles of the columns of the interactions: ids, time, relevance, weight, list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data.column_profile import ColumnProfile
from recdistill.errors import ConfigError
from recdistill.pipeline.proposal import column_names as names
from recdistill.pipeline.proposal.questions import Answers, Question
from recdistill.pipeline.proposal.source_tables import SourceTable
from recdistill.pipeline.proposal.time_columns import dates, is_time

_A = {"query": "a query", "item": "an item"}
_MOST_GRADES = 21
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

    def give(self, role: str, column: str, reason: str) -> None:
        """Gives a column a role."""
        self.columns[role] = column
        self.reasons[column] = reason

    def free(self, wanted: Sequence[str]) -> list[str]:
        """The columns with one of these names that have no role yet."""
        taken = self.columns.values()
        return [c for c in names.named(self.table.columns, wanted) if c not in taken]


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
    for role, column in answers.columns.items():
        if column:
            _require(table, column, f"--column {role}={column}")
            roles.give(role, column, "as you said")
            _require_numbers(roles, role)
    for column in answers.context:
        _require(table, column, f"--column context={column}")
    for role in ("query", "item"):
        if role not in roles.columns and (question is None or question.default):
            _find_id(roles, role)
    if {"query", "item"} <= set(roles.columns):
        missing = {"time", "list", "relevance", "weight", "score"}.difference
        wanted = missing([*roles.columns, *answers.columns])
        _find_time(roles, "time" in wanted)
        _find_list(roles, "list" in wanted and not fixed)
        _find_relevance(roles, "relevance" in wanted, answers)
        _find_weight(roles, "weight" in wanted)
        _find_events(roles, answers)
        _keep_rows_with_ids(roles)
        if answers.keep is not None:
            roles.keep = [answers.keep] if answers.keep else []
    return roles


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
    return 2 < profile.distinct <= _MOST_GRADES and low >= 0 and high <= 10


def _examples(profile: ColumnProfile) -> str:
    return ", ".join(profile.examples()) or "no values"


def _find_id(roles: Roles, role: str) -> None:
    wanted = names.QUERY_IDS if role == "query" else names.ITEM_IDS
    columns = roles.table.columns
    found = [c for c in roles.free(wanted) if _may_be_id(columns[c])]
    if found:
        profile = columns[found[0]]
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


def _may_be_id(profile: ColumnProfile) -> bool:
    return profile.content in ("text", "integer")


def _each(profile: ColumnProfile) -> str:
    per = (profile.rows - profile.missing) / max(profile.distinct, 1)
    return f"{per:.3g} row{'s' * (per != 1)} for each value"


def _find_time(roles: Roles, wanted: bool) -> None:
    columns = roles.table.columns
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
    if _shown_and_not_chosen(roles):
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


def _find_list(roles: Roles, wanted: bool) -> None:
    """A list: several items that one query was shown at one moment, some not chosen."""
    if not wanted:
        return
    scored = any(
        roles.table.columns[column].content == "number"
        for column in roles.free(names.SCORES)
    )
    if not (scored or _shown_and_not_chosen(roles)):
        return
    for column in roles.free(names.LISTS):
        profile = roles.table.columns[column]
        several = profile.distinct * 1.5 <= profile.rows
        same = [roles.columns[r] for r in ("query", "time") if r in roles.columns]
        if several and all(is_one_in_each(roles.table, column, c) for c in same):
            per = profile.rows / profile.distinct
            reason = (
                f"named like a list; {per:.3g} rows of one query and moment in each"
            )
            roles.give("list", column, reason)
            return


def _shown_and_not_chosen(roles: Roles) -> bool:
    """Whether a column has the relevance 0."""
    for column in roles.free(names.RELEVANCES):
        profile = roles.table.columns[column]
        if profile.content in ("integer", "number"):
            low, high = profile.range
            if low == 0 and high > 0:
                return True
    return False


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


def _find_relevance(roles: Roles, wanted: bool, answers: Answers) -> None:
    columns = roles.table.columns
    listwise = "list" in roles.columns
    if listwise and "score" not in answers.columns:
        for column in roles.free(names.SCORES):
            graded = columns[column].distinct <= _MOST_GRADES
            if columns[column].content == "number" and not graded:
                roles.give("score", column, "named like scores: the teacher's")
                break
    if not wanted:
        return
    for column in roles.free(names.RELEVANCES):
        profile = columns[column]
        if profile.distinct < 2 or profile.content not in (
            "integer",
            "number",
            "boolean",
        ):
            continue
        if _set_relevance(roles, profile, listwise):
            return


def _set_relevance(roles: Roles, profile: ColumnProfile, listwise: bool) -> bool:
    """Uses a column as relevance or as a condition on the rows."""
    column = quoted(profile.name)
    if profile.content == "boolean":
        value = next(v for v, _ in profile.most_frequent if v.lower() == "true")
        roles.keep.append(f"{column} == '{value}'")
        roles.reasons[profile.name] = "true and false: rows with true are choices"
        return True
    low, high = profile.range
    whole = not profile.missing
    named_relevance = names.plain_name(profile.name) in names.GRADES
    if listwise and low >= 0 and whole:
        reason = "0 is shown and not chosen" if low == 0 else "the relevance"
        roles.give("relevance", profile.name, reason)
    elif (low, high, profile.distinct) == (0, 1, 2) and whole:
        share = float(np.nanmean(profile.numbers))
        reason = f"0 is not chosen, 1 is chosen ({share:.0%} of the rows)"
        roles.give("relevance", profile.name, reason)
    elif named_relevance and low >= 0 and whole:
        reason = f"relevance from {low:g} to {high:g}; 0 is not relevant"
        roles.give("relevance", profile.name, reason)
    elif low < 0 or (low, high, profile.distinct) == (0, 1, 2):
        roles.keep.append(f"{column} > 0")
        share = float(np.mean(profile.numbers > 0))
        roles.reasons[profile.name] = (
            f"from {low:g} to {high:g}: above 0 is a choice ({share:.0%} of the rows)"
        )
    elif profile.distinct <= _MOST_GRADES:
        _keep_high_grades(roles, profile)
    else:
        return False
    return True


def _keep_high_grades(roles: Roles, profile: ColumnProfile) -> None:
    """Keeps the rows with a grade in the upper part of the scale."""
    low, high = profile.range
    grades = np.unique(profile.numbers[~np.isnan(profile.numbers)])
    wanted = grades[grades >= 0.8 * high]
    least = float(wanted[0])
    share = float(np.mean(profile.numbers >= least))
    short = f"{least:g}"
    bound = short if float(short) == least else repr(least)
    roles.keep.append(f"{quoted(profile.name)} >= {bound}")
    roles.reasons[profile.name] = (
        f"a rating from {low:g} to {high:g}: {least:g} or more counts as a choice "
        f"({share:.0%} of the rows)"
    )


def _find_weight(roles: Roles, wanted: bool) -> None:
    for column in roles.free(names.WEIGHTS) if wanted else ():
        profile = roles.table.columns[column]
        number = profile.content in ("integer", "number") and not profile.missing
        if number and profile.distinct > 1 and profile.range[0] >= 0:
            low, high = profile.range
            roles.give(
                "weight", column, f"named like a weight; from {low:g} to {high:g}"
            )
            return


def _find_events(roles: Roles, answers: Answers) -> None:
    """Asks which events are choices, if a column has the kinds of events."""
    for column in roles.free(names.EVENTS):
        profile = roles.table.columns[column]
        if profile.content != "text" or not 2 <= profile.distinct <= 12:
            continue
        shares = [
            (value, count / profile.rows) for value, count in profile.most_frequent
        ]
        listed = ", ".join(f"{value} {share:.0%}" for value, share in shares)
        roles.reasons[column] = f"kinds of events ({listed}); all of them are used"
        values = {names.plain_name(value): value for value, _ in shares}
        for choice in names.CHOICES:
            if roles.alternative is None and choice in values:
                roles.alternative = f"{quoted(column)} == '{values[choice]}'"
        if answers.keep is None and not answers.defaults:
            conditions = [f"{quoted(column)} == '{value}'" for value, _ in shares]
            roles.questions.append(
                Question(
                    f"{roles.table.name} has several kinds of events in the column "
                    f"`{column}`: {listed}. Which of them are choices, so that a "
                    "ranking should put their items first?",
                    "--keep CONDITION",
                    ("", *conditions),
                    "",
                )
            )
        elif answers.keep:
            roles.reasons[column] = f"kinds of events ({listed})"
            roles.alternative = None
        return


def _keep_rows_with_ids(roles: Roles) -> None:
    for role in ("query", "item", "time"):
        if role in roles.columns and (profile := roles.profile(role)).missing:
            roles.keep.append(f"{quoted(profile.name)} != ''")
            share = profile.missing / profile.rows
            roles.reasons[profile.name] += (
                f"; {share:.1%} of the rows have none and are left out"
            )


def quoted(column: str) -> str:
    """Name of a column in a condition."""
    plain = column.replace(".", "_").replace("-", "_")
    return column if plain.isidentifier() else f"`{column}`"
