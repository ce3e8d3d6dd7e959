"""Questions about the data, and the answers of the user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

ROLES = ("query", "item", "time", "relevance", "weight", "list", "score")
"""Roles of columns that a user can give."""

TABLES = ("interactions", "items", "queries")
"""Tables that a user can give."""


@dataclass(frozen=True)
class Answers:
    """What the user has said about the data.

    Attributes:
        columns: Column by role; "" if no column has the role.
        context: Columns of the interactions that are known when a request arrives.
        tables: Name of the file or folder by table; "" if there is no such table.
        headers: Column names by file, for text files without a header.
        keep: Value of `dataset.keep`; "" to keep all interactions.
        time_format: Value of `dataset.time_format`.
        defaults: Whether to take the proposed answer to each question.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    context: tuple[str, ...] = ()
    tables: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    keep: str | None = None
    time_format: str | None = None
    defaults: bool = False

    def with_answer(self, question: Question, answer: str) -> Answers:
        """The answers with one more."""
        option, _, key = question.option.partition(" ")
        if option == "--keep":
            return replace(self, keep=answer)
        if option == "--time-format":
            return replace(self, time_format=answer)
        name = key.partition("=")[0]
        if option == "--header":
            header = tuple(part.strip() for part in answer.split(","))
            return replace(self, headers={**self.headers, name: header})
        if option == "--table":
            return replace(self, tables={**self.tables, name: answer})
        if name == "context":
            return replace(self, context=(*self.context, answer))
        return replace(self, columns={**self.columns, name: answer})


@dataclass(frozen=True)
class Question:
    """Something that the data does not tell.

    Attributes:
        text: What is missing, as a paragraph.
        option: Option of the command line that answers it, with its first argument.
        choices: Possible answers; none if any text may be one.
        default: The proposed answer; None if there is none.
    """

    text: str
    option: str
    choices: tuple[str, ...] = ()
    default: str | None = None

    def paragraph(self) -> str:
        """The question with the option that answers it."""
        accepted = ""
        if self.default is not None:
            answer = f"`{self.default}`" if self.default else "all of them"
            accepted = f" `--yes` accepts the proposal: {answer}."
        return f"{self.text} Answer with `{self.option}`.{accepted}"
