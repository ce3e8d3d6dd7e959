"""`recdistill init`: proposes a configuration for a folder of data."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recdistill.cli.common import AsJson, errors_as_paragraphs
from recdistill.cli.progress_display import Display
from recdistill.errors import ConfigError

if TYPE_CHECKING:
    from recdistill.pipeline.proposal.proposal import Proposal
    from recdistill.pipeline.proposal.questions import Answers, Question
    from recdistill.pipeline.proposal.source_tables import SourceTable

_WIDE = 100
"""Columns of a terminal from which the tables have more examples."""

_MOST_LEFT_OUT = 20
"""Columns of a table that are listed although they are left out."""

_EPILOG = (
    "Example: `recdistill init data/shop` looks at data/shop and writes shop.toml; "
    "`recdistill run shop.toml` then runs it."
)


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    summary = "Look at a folder of data and write a pipeline file for it."
    app.command("init", short_help=summary, epilog=_EPILOG)(init)


def init(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Folder with the data, or a single file."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write (default: NAME.toml)."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the run (default: the folder's)."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=NAME",
            help="Column with a role: query, item, time, relevance, weight, list or "
            "score; or `context` for a column that is known when a request arrives. "
            "Without a NAME, no column has the role. Repeatable.",
        ),
    ] = None,
    table: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TABLE=FILE",
            help="File or folder of the table interactions, items or queries. "
            "Without a FILE, there is no such table. Repeatable.",
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE=NAME,NAME,…",
            help="Column names of a text file without a header. Repeatable.",
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="CONDITION",
            help="Interactions that are used, such as \"event == 'buy'\"; an empty "
            "text for all.",
        ),
    ] = None,
    time_format: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help="Unit of the times (s, ms, us, ns) or format of the dates, as for "
            "Python's strptime, such as '%d %b %Y' (default: recognised).",
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Accept the proposed answer to each question.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace FILE if it exists.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Looks at a folder of data and writes a pipeline file for it.

    It finds the interactions, items and queries, and proposes the role or the kind of
    feature of each column, with the reason. Large files are not read as a whole. Where
    the data does not tell, it asks.
    """
    with errors_as_paragraphs():
        from recdistill.pipeline.proposal.questions import ROLES, TABLES, Answers

        columns = _pairs("--column", column, (*ROLES, "context"))
        answers = Answers(
            columns={role: value for role, value in columns if role != "context"},
            context=tuple(value for role, value in columns if role == "context"),
            tables=dict(_pairs("--table", table, TABLES)),
            headers={
                file: tuple(part.strip() for part in names.split(","))
                for file, names in _pairs("--header", header)
            },
            keep=keep,
            time_format=time_format,
            defaults=yes,
        )
        _init(folder, out, name, answers, force, as_json)


def _init(
    folder: Path,
    out: Path | None,
    name: str | None,
    answers: Answers,
    force: bool,
    as_json: bool,
) -> None:
    from recdistill.atomic import atomic_write
    from recdistill.pipeline.proposal.data_proposal import propose
    from recdistill.pipeline.proposal.findings import findings
    from recdistill.pipeline.proposal.proposed_config import (
        check_config,
        config_name,
        config_text,
    )
    from recdistill.pipeline.proposal.source_tables import open_source

    if out is not None:
        _refuse_existing(out, force)
    with Display(as_json) as display:
        display.progress(f"Looking at {folder}", 0, None)
        source = open_source(folder, answers.headers)
        display.clear()
    name = name or config_name(source.name)
    out = out or Path(f"{name}.toml")
    _refuse_existing(out, force)
    proposal = propose(source, answers)
    while proposal.questions:
        question = proposal.questions[0]
        answers = answers.with_answer(question, _answer(proposal, question))
        proposal = propose(source, answers)
    text = config_text(proposal, name, out)
    check_config(proposal, text)
    with atomic_write(out) as draft:
        draft.write_text(text, encoding="utf-8")
    if as_json:
        result = {"file": str(out), "name": name, **findings(proposal)}
        typer.echo(json.dumps(result, indent=1, ensure_ascii=False))
        return
    console = Console()
    _show(console, proposal)
    console.print(Text.assemble(("✓ ", "green"), f"Wrote {out}."), soft_wrap=True)
    command = shlex.join(["recdistill", "run", str(out)])
    console.print(f"  Run it:  {command}", soft_wrap=True, markup=False)


def _pairs(
    option: str, given: list[str] | None, keys: tuple[str, ...] = ()
) -> list[tuple[str, str]]:
    pairs = []
    for each in given or ():
        key, equals, value = each.partition("=")
        if not equals or (keys and key not in keys):
            wanted = f"KEY=VALUE with one of the keys {', '.join(keys)}"
            raise ConfigError(
                f"`{option}` must be {wanted if keys else 'FILE=NAME,NAME,…'}. "
                f"Received: {each!r}"
            )
        pairs.append((key, value))
    return pairs


def _refuse_existing(out: Path, force: bool) -> None:
    if out.is_dir() or (out.exists() and not force):
        raise ConfigError(
            f"{out} exists already. Choose another file with `--out`"
            + ("." if out.is_dir() else ", or replace it with `--force`.")
        )


def has_terminal() -> bool:
    """Whether questions can be asked."""
    return sys.stdin.isatty()


def _answer(proposal: Proposal, question: Question) -> str:
    """The user's answer to a question.

    Raises:
        ConfigError: If there is no terminal to ask in.
    """
    if not has_terminal():
        others = [f"`{each.option}`" for each in proposal.questions[1:]]
        also = f" Also needed: {', '.join(others)}." if others else ""
        raise ConfigError(question.paragraph() + also)
    console = Console(stderr=True)
    console.print(Text.assemble(("? ", "bold yellow"), question.text))
    for number, choice in enumerate(question.choices, start=1):
        console.print(Text.assemble((f"  {number:>2}  ", "bold"), choice or "all"))
    default = question.default
    if question.choices and default is not None:
        default = str(question.choices.index(default) + 1)
    given = str(typer.prompt("Answer", default=default, err=True)).strip()
    if given.isdecimal() and 1 <= int(given) <= len(question.choices):
        return question.choices[int(given) - 1]
    return given


def _show(console: Console, proposal: Proposal) -> None:
    """Prints what was found, one table of columns for each table of the data."""
    from recdistill.pipeline.proposal.feature_kinds import shortened

    wide = console.width >= _WIDE
    for name, table in proposal.tables.items():
        gap = (0, 1 if wide else 0, 0, 0)
        grid = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=gap)
        grid.add_column("column", no_wrap=True)
        grid.add_column("values", no_wrap=True)
        grid.add_column("distinct", justify="right", no_wrap=True)
        grid.add_column("examples", max_width=26 if wide else 16, overflow="fold")
        grid.add_column("used as", no_wrap=True)
        grid.add_column("because", overflow="fold", ratio=1)
        uses = [use for use in proposal.uses if use.table == table.name]
        left_out = [use for use in uses if not use.use][_MOST_LEFT_OUT:]
        for use in uses:
            if use in left_out:
                continue
            shown = ", ".join(
                shortened(each, 20) for each in use.profile.examples(3 if wide else 2)
            )
            grid.add_row(
                Text(use.profile.name),
                use.profile.content,
                f"{use.profile.distinct:,}",
                Text(shown),
                Text(use.use or "-", style="bold green" if use.use else "dim"),
                Text(use.reason),
                style="" if use.use else "dim",
            )
        console.print(Text(_heading(proposal, name, table), style="bold"))
        console.print(grid)
        if left_out:
            console.print(f"… and {len(left_out):,} more columns that are left out")
        console.print()
    for note in proposal.notes:
        console.print(Text.assemble(("Note: ", "bold yellow"), note))
    if proposal.notes:
        console.print()


def _heading(proposal: Proposal, name: str, table: SourceTable) -> str:
    sample = table.sample
    about = " (an estimate)" if sample.estimated else ""
    parts = [f"{name}: {table.name}" if table.name != name else name]
    if sample.files > 1:
        parts.append(f"{sample.files:,} files")
    parts.append(f"{sample.count:,} rows{about}")
    if name == "interactions":
        roles = proposal.known()
        least = "" if sample.complete else "at least "
        for role, many in (("query", "queries"), ("item", "items")):
            parts.append(f"{least}{roles.profile(role).distinct:,} {many}")
    if not sample.complete:
        parts.append(f"{len(sample.rows):,} rows looked at")
    return " · ".join(parts)
