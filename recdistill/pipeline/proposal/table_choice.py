"""Which tables of a folder have the interactions, the items and the queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from recdistill.data.column_profile import ColumnProfile
from recdistill.data.table_files import named_places
from recdistill.errors import ConfigError, DataError
from recdistill.pipeline.proposal import column_names as names
from recdistill.pipeline.proposal.column_roles import (
    NoColumnError,
    find_roles,
    name_columns,
)
from recdistill.pipeline.proposal.id_matching import (
    has_ids,
    has_integer_ids,
    misfit,
    overlap,
    remedy,
    similar_ids,
)
from recdistill.pipeline.proposal.proposal import Proposal
from recdistill.pipeline.proposal.questions import Answers, Question
from recdistill.pipeline.proposal.roles import Roles
from recdistill.pipeline.proposal.source_tables import Source, SourceTable

_FEW_IDS = 0.5
"""Share of ids with a row in a table below which something may be wrong."""

_ONE_FOLDER = (
    "Files with the same columns are one table only if they are in one folder: put "
    "them into one, such as `interactions`, which `dataset.interactions.file` names, "
    "and run `recdistill init` again."
)


def choose_interactions(proposal: Proposal, answers: Answers) -> None:
    """Finds the table of interactions and the roles of its columns.

    Args:
        proposal: Receives the table, its roles and open questions.
        answers: What the user has said.

    Raises:
        ConfigError: If the user named a table that does not exist, or columns that no
            table has.
    """
    tables = proposal.source.tables
    fixed = proposal.source.reader in ("movielens", "recbole")
    wanted = answers.tables.get("interactions")
    if wanted:
        tables = tuple(t for t in tables if wanted in (t.name, t.stem))
        if not tables:
            raise ConfigError(_no_table(proposal.source, "interactions", wanted))
    elif fixed:
        tables = tables[:1]
    found = _roles_of(tables, answers, fixed)
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
        if not fixed:
            _note_further_files(proposal, answers)
    else:
        # The table that comes nearest says what is missing.
        found.sort(key=lambda r: (_rank(r.table) is None, -len(r.columns)))
        proposal.roles = found[0]
        _propose_join(proposal.roles, found)
        _mention_problems(proposal.roles, proposal.source)
    proposal.tables["interactions"] = proposal.roles.table
    proposal.questions += proposal.roles.questions


def _note_further_files(proposal: Proposal, answers: Answers) -> None:
    """Notes that other files have the columns of the interactions, and are not used."""
    table = proposal.known().table
    for other in proposal.source.tables:
        named = name_columns(other, answers)[0] if other.sample.names else other
        if other.name != table.name and {*named.columns} == {*table.columns}:
            proposal.further_files.append(other.name)
    if proposal.further_files:
        listed = ", ".join(proposal.further_files)
        proposal.notes.append(
            f"{listed}: not used, but with the same columns as {table.name}. "
            f"{_ONE_FOLDER}"
        )


def _propose_join(roles: Roles, found: Sequence[Roles]) -> None:
    """Says that two tables have one of the ids each, and which column joins them."""
    for one in (each for each in found if "item" in each.columns):
        for other in (each for each in found if "query" in each.columns):
            shared = [
                name
                for name, column in one.table.columns.items()
                if name in other.table.columns
                and other.table.columns[name].all_distinct
                and overlap(other.table.columns[name], column) > _FEW_IDS
            ]
            if shared and one is not other and roles.questions:
                first = roles.questions[0]
                text = (
                    f"{first.text} {one.table.name} has the id of the item, "
                    f"{other.table.name} that of the query, and both have "
                    f"`{shared[0]}`: join them to one table with both ids first."
                )
                roles.questions[0] = replace(first, text=text)
                return


def _mention_problems(roles: Roles, source: Source) -> None:
    """Says which files could not be read, because one may be the missing table."""
    if roles.questions and source.problems:
        first, problems = roles.questions[0], " ".join(source.problems.values())
        text = f"{first.text} Other files cannot be used. {problems}"
        roles.questions[0] = replace(first, text=text)


def _roles_of(
    tables: Sequence[SourceTable], answers: Answers, fixed: bool
) -> list[Roles]:
    """Roles of the columns of each table that has the columns that the user named."""
    found, lacking = list[Roles](), list[NoColumnError]()
    for table in tables:
        try:
            found.append(find_roles(table, answers, fixed))
        except NoColumnError as error:
            lacking.append(error)
    if not found:
        # Each says which columns its table has.
        raise ConfigError(" ".join(map(str, lacking)))
    return found


def _rank(table: SourceTable) -> int | None:
    """Place of the table's name among the usual names of interactions."""
    name = names.plain_name(table.name.partition(".")[0])
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
    headers = [{*r.table.columns} for r in both]
    same = any(each in headers[:k] for k, each in enumerate(headers))
    proposal.questions.append(
        Question(
            f"Several tables have ids of queries and items: {listed}. "
            f"{f'{_ONE_FOLDER} Otherwise, which' if same else 'Which'} of them has the "
            "interactions to learn from?",
            "--table interactions=FILE",
            tuple(r.table.name for r in both),
            both[0].table.name,
        )
    )


def choose_feature_table(
    proposal: Proposal, name: str, role: str, answers: Answers
) -> None:
    """Finds the table of items or queries.

    Args:
        proposal: Receives the table.
        name: "items" or "queries".
        role: Role of its ids in the interactions.
        answers: What the user has said.

    Raises:
        ConfigError: If the user named a table that does not exist, or said that there
            is none although the reader finds one.
        DataError: If a table with this name cannot be one of items or queries.
    """
    roles, source = proposal.known(), proposal.source
    if source.reader != "tables":
        for table in source.tables:
            if table.name == name:
                proposal.tables[name] = table
        return
    wanted = answers.tables.get(name)
    if wanted == "":
        _require_no_table(source, name)
        return
    ids = roles.profile(role)
    others = [
        _with_header(table, ids, answers)
        for table in _free_tables(proposal, name, wanted)
    ]
    fit = [t for t in others if has_ids(t, ids)]
    fit.sort(key=lambda t: (t.stem != name, -len(t.columns)))
    as_integers = [t for t in others if has_integer_ids(t, ids)]
    if fit:
        proposal.tables[name] = fit[0]
        _note_ids(proposal, fit[0], ids)
        for table in fit[1:]:
            proposal.notes.append(
                f"{table.name} is not used, because {fit[0].name} is the table of "
                f"{name} already; join the two by `{ids.name}` to use its features."
            )
    elif as_integers:
        proposal.tables[name] = as_integers[0]
        for each in (name, "interactions"):
            proposal.types.setdefault(each, {})[ids.name] = "integer"
    else:
        for table in others:
            _explain_misfit(proposal, table, name, ids, wanted)


def _require_no_table(source: Source, name: str) -> None:
    """Checks that the reader finds no table with a name.

    Raises:
        ConfigError: If it finds one.
    """
    if found := named_places(source.path, name):
        raise ConfigError(
            f"`--table {name}=` requires that {source.path} has no table with the name "
            f"{name}, because such a table is always read. Move {found[0].name} to "
            "another folder, or rename it."
        )


def _free_tables(
    proposal: Proposal, name: str, wanted: str | None
) -> list[SourceTable]:
    """The tables without a use, or the one that the user named."""
    used = {table.name for table in proposal.tables.values()}
    others = [t for t in proposal.source.tables if t.name not in used]
    if wanted is None:
        further = proposal.further_files
        return [t for t in others if t.stem == name or t.name not in further]
    others = [t for t in others if wanted in (t.name, t.stem)]
    if not others:
        raise ConfigError(_no_table(proposal.source, name, wanted))
    return others


def _with_header(
    table: SourceTable, ids: ColumnProfile, answers: Answers
) -> SourceTable:
    """A table without a header, whose column of the ids gets the name of the ids."""
    if not table.sample.names:
        return table
    if table.name in answers.headers:
        return name_columns(table, answers)[0]
    for name, column in table.columns.items():
        if column.all_distinct and not column.missing and overlap(column, ids) > 0.5:
            return table.renamed({name: ids.name})
    return table


def note_similar_ids(proposal: Proposal, name: str, role: str) -> None:
    """Notes that some ids differ only by spaces or by their Unicode form.

    Args:
        proposal: Receives the note.
        name: "items" or "queries".
        role: Role of the ids in the interactions.
    """
    ids, table = proposal.known().profile(role), proposal.tables.get(name)
    if ids.name in proposal.types.get("interactions", {}):
        return  # A number has one spelling.
    note = similar_ids(ids, table.columns.get(ids.name) if table is not None else None)
    if note is not None:
        proposal.notes.append(note)


def _note_ids(proposal: Proposal, table: SourceTable, ids: ColumnProfile) -> None:
    """Notes that most ids have no row in a table, or none in the sample of a table."""
    column, rows = table.columns[ids.name], proposal.known().table.name
    share = overlap(column, ids)
    if not table.sample.complete:
        if not share:
            proposal.notes.append(
                f"None of the ids `{ids.name}` of {rows} is in the sample of "
                f"{table.name}. Check that both write them in the same way, such as "
                f"{ids.examples(1)[0]} and {column.examples(1)[0]}."
            )
        return
    if share >= _FEW_IDS:
        return
    note = (
        f"Only {share:.0%} of the ids `{ids.name}` of {rows} have a row in {table.name}"
    )
    if condition := remedy(column, ids, _FEW_IDS):
        note += f", but many would {condition}"
    proposal.notes.append(f"{note}. The others have no features.")


def _explain_misfit(
    proposal: Proposal,
    table: SourceTable,
    name: str,
    ids: ColumnProfile,
    wanted: str | None,
) -> None:
    """Says why a table that looks like one of items or queries is not used."""
    expected = table.stem == name or wanted is not None
    problem = misfit(table, ids, proposal.known().table.name, expected)
    note = f"{table.name} is not used, because it {problem}."
    if problem is None or any(each.startswith(table.name) for each in proposal.notes):
        return
    if expected:
        raise DataError(f"{proposal.source.path / table.name} {problem}.")
    proposal.notes.append(note)
