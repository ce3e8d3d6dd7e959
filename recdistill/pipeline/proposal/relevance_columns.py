"""Which rows are choices: lists, relevance, weights and kinds of events."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from recdistill.data.column_profile import ColumnProfile
from recdistill.pipeline.proposal import column_names as names
from recdistill.pipeline.proposal.feature_kinds import shown_mean, shown_number
from recdistill.pipeline.proposal.questions import Answers, Question
from recdistill.pipeline.proposal.roles import Roles, is_one_in_each, quoted

MOST_GRADES = 21
"""Different values from which a column is no scale of grades."""


def find_choices(roles: Roles, wanted: Collection[str], answers: Answers) -> None:
    """Finds lists, relevance, scores, weights and events.

    Args:
        roles: Receives columns, conditions on the rows, and questions.
        wanted: Roles for which no column is known yet.
        answers: What the user has said.
    """
    _find_list(roles, "list" in wanted)
    _find_relevance(roles, "relevance" in wanted, answers)
    if "relevance" in wanted:
        _require_relevance(roles)
    _find_weight(roles, "weight" in wanted)
    _find_events(roles, answers)


def _find_list(roles: Roles, wanted: bool) -> None:
    """A list: several items that one query was shown at one moment, some not chosen."""
    if not wanted:
        return
    scored = any(
        roles.table.columns[column].content == "number"
        for column in roles.free(names.SCORES)
    )
    if not (scored or shown_and_not_chosen(roles)):
        return
    query = roles.columns["query"]
    # Without users, a search is query and list in one.
    for column in (*roles.free(names.LISTS), *names.named([query], names.LISTS)):
        profile = roles.table.columns[column]
        several = profile.distinct * 1.5 <= profile.rows
        same = [roles.columns[r] for r in ("query", "time") if r in roles.columns]
        same = [each for each in same if each != column]
        if several and all(is_one_in_each(roles.table, column, c) for c in same):
            per = profile.rows / profile.distinct
            reason = (
                f"named like a list; {shown_mean(per)} rows of one query and moment in "
                "each"
            )
            roles.give("list", column, reason)
            return


def _named_relevances(roles: Roles) -> list[str]:
    """The columns without a role whose name is that of a relevance.

    A rating with one value for each item, or for each query, is known before the
    choice. Names such as `Book-Rating` do not tell that, as `rating` does.
    """
    usual = roles.free(names.RELEVANCES)
    taken = (*usual, *roles.columns.values())
    found = [
        c for c in roles.table.columns if c not in taken and names.are_judgements(c)
    ]
    for role in ("query", "item"):
        if not roles.profile(role).all_distinct:
            ids = roles.columns[role]
            found = [c for c in found if not is_one_in_each(roles.table, ids, c)]
    return [*usual, *found]


def shown_and_not_chosen(roles: Roles) -> bool:
    """Whether a column has the relevance 0."""
    for column in _named_relevances(roles):
        profile = roles.table.columns[column]
        if profile.content in ("integer", "number", "boolean"):
            low, high = profile.range
            if low == 0 and high > 0:
                return True
    return False


def _find_relevance(roles: Roles, wanted: bool, answers: Answers) -> None:
    columns = roles.table.columns
    listwise = "list" in roles.columns
    if listwise and "score" not in answers.columns:
        for column in roles.free(names.SCORES):
            graded = columns[column].distinct <= MOST_GRADES
            if columns[column].content == "number" and not graded:
                roles.give("score", column, "named like scores: the teacher's")
                break
    if not wanted:
        return
    for column in _named_relevances(roles):
        profile = columns[column]
        if profile.distinct < 2 or profile.content not in (
            "integer",
            "number",
            "boolean",
        ):
            continue
        if _set_relevance(roles, profile, listwise):
            return


def _require_relevance(roles: Roles) -> None:
    """Asks for the relevance of a listwise table, if it is not known."""
    if "list" not in roles.columns or "relevance" in roles.columns:
        return
    taken = roles.columns.values()
    free = [each for name, each in roles.table.columns.items() if name not in taken]
    free = [p for p in free if p.content in ("integer", "number", "boolean")]
    free = [p for p in free if p.range[0] == 0 and p.distinct <= MOST_GRADES]
    roles.questions.append(
        Question(
            f"The rows of {roles.table.name} with the same "
            f"`{roles.columns['list']}` are a list of items that were shown together. "
            "Which column says how relevant an item is, with 0 for an item that was "
            "not chosen?",
            "--column relevance=NAME",
            tuple(p.name for p in free) or tuple(roles.table.columns),
        )
    )


def _set_relevance(roles: Roles, profile: ColumnProfile, listwise: bool) -> bool:
    """Uses a column as relevance or as a condition on the rows."""
    column = quoted(profile.name)
    if profile.content == "boolean" and not listwise:
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
    elif not named_relevance and _has_sentinel(profile):
        _keep_high_grades(roles, profile)
    elif low < 0 or (low, high, profile.distinct) == (0, 1, 2):
        roles.keep.append(f"{column} > 0")
        share = float(np.mean(profile.numbers > 0))
        roles.reasons[profile.name] = (
            f"from {low:g} to {high:g}: above 0 is a choice ({share:.0%} of the rows)"
        )
    elif profile.distinct <= MOST_GRADES:
        _keep_high_grades(roles, profile)
    else:
        return False
    return True


def _has_sentinel(profile: ColumnProfile) -> bool:
    """Whether one negative number means "not rated", beside grades from 0 or more.

    Likes and dislikes, such as -1, 0 and 1, are no grades.
    """
    different = np.unique(profile.numbers[~np.isnan(profile.numbers)])
    grades = different[different >= 0]
    return len(different) == len(grades) + 1 and 4 <= len(grades) <= MOST_GRADES


def _keep_high_grades(roles: Roles, profile: ColumnProfile) -> None:
    """Keeps the rows with a grade in the upper part of the scale."""
    lowest, high = profile.range
    grades = np.unique(profile.numbers[profile.numbers >= 0])
    low = float(grades[0])
    unrated = f"; {lowest:g} is not rated" if lowest < 0 else ""
    wanted = grades[grades >= 0.8 * high]
    least = float(wanted[0])
    share = float(np.mean(profile.numbers >= least))
    short = f"{least:g}"
    bound = short if float(short) == least else repr(least)
    roles.keep.append(f"{quoted(profile.name)} >= {bound}")
    roles.reasons[profile.name] = (
        f"a rating from {low:g} to {high:g}: {least:g} or more counts as a choice "
        f"({share:.0%} of the rows){unrated}"
    )


def _find_weight(roles: Roles, wanted: bool) -> None:
    for column in roles.free(names.WEIGHTS) if wanted else ():
        profile = roles.table.columns[column]
        number = profile.content in ("integer", "number") and not profile.missing
        if number and profile.distinct > 1 and profile.range[0] >= 0:
            low, high = map(shown_number, profile.range)
            roles.give("weight", column, f"named like a weight; from {low} to {high}")
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
