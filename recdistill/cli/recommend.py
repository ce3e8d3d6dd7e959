"""`recdistill recommend`: shows what a model recommends to one query."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from recdistill.cli.common import (
    AsJson,
    ExportFolder,
    check_options,
    errors_as_paragraphs,
    without_startup_notes,
)
from recdistill.cli.progress_display import Display
from recdistill.errors import ConfigError

if TYPE_CHECKING:
    from recdistill.serving.client.contract import SignatureContract
    from recdistill.serving.exported_model import ExportedModel

SHOWN_HISTORY = 8
"""Items of a history that are shown, the latest ones."""


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    summary = "Show what an exported model recommends to a query, without a server."
    app.command("recommend", short_help=summary)(recommend)


def recommend(
    export: ExportFolder,
    query: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Features of the query by name, such as "
            '\'{"user_id": "ann", "history": ["50", "181"]}\'. Features that are left '
            "out are unknown to the model.",
        ),
    ] = None,
    history: Annotated[
        str | None,
        typer.Option(
            metavar="IDS",
            help="Items of the history, oldest first, such as 50,181. An id with a "
            "comma is written in double quotes.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", help="Number of items.")] = 10,
    exclude: Annotated[
        str | None,
        typer.Option(metavar="IDS", help="Items that must not be recommended."),
    ] = None,
    allow: Annotated[
        str | None,
        typer.Option(metavar="IDS", help="The only items that may be recommended."),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Folder of the run, such as runs/films: show its teacher's ranking "
            "beside that of the model.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Shows what an exported model recommends to one query, with titles.

    The model is loaded into this process, so no server is needed. Values that the model
    has never seen are named. Titles are shown if the table of items has a column of
    titles, such as `title` or `name`.

    Example: **recdistill recommend export/movielens_100k --history 50,181**
    """
    with errors_as_paragraphs(), Display(as_json) as display:
        check_options({"--k": (k, 1, 2**31 - 1)})
        given = _given(query)
        past, excluded, allowed = map(_ids, (history, exclude, allow))
        display.progress("Loading the model", 0, None)
        with without_startup_notes():
            from recdistill.export.layout import MOST_ITEMS
            from recdistill.serving.exported_model import ExportedModel
        model = ExportedModel(export)
        check_options({"--k": (k, 1, max(MOST_ITEMS, model.manifest["top_k"]))})
        asked = _query(model.features, given, past, compare is not None)
        allow_list = None if allow is None else [allowed]
        [answer] = model.recommend([asked.features], k, [excluded], allow_list)
        student = list(zip(answer.item_ids, answer.scores.tolist(), strict=True))
        teacher = None
        if compare is not None:
            display.progress("Asking the teacher", 0, None)
            from recdistill.pipeline.runs.teacher_answers import teacher_ranking

            teacher = teacher_ranking(
                compare,
                {**asked.features, **asked.for_teacher},
                k=k,
                exclude=excluded,
                allow=allowed if allow is not None else None,
                progress=display.progress,
            )
        shown = _Shown.of(model, asked, [*excluded, *allowed], student, teacher)
    if as_json:
        typer.echo(json.dumps(shown.as_json(), indent=1, ensure_ascii=False))
    else:
        Console().print(shown.as_text())


def _ids(text: str | None) -> list[str]:
    """The ids of a comma-separated list; one with a comma is in double quotes."""
    # `csv` wants the comma right after the quote.
    lines = io.StringIO(re.sub(r'"[ \t]+(?=,|$)', '"', text or ""), newline="")
    try:
        rows = [*csv.reader(lines, skipinitialspace=True, strict=True)]
    except csv.Error as error:
        raise ConfigError(
            "Ids must be separated by commas, and one with a comma must be in double "
            f"quotes. Received: {(text or '')[:100]!r}, {error}"
        ) from error
    return [each.strip() for row in rows for each in row if each.strip()]


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(f'"{each}"' if "," in each else each for each in ids)


def _given(query: str | None) -> dict[str, Any]:
    """The features of `--query`.

    Raises:
        ConfigError: If it is not a JSON object.
    """
    if query is None:
        return {}
    try:
        given = json.loads(query)
        json.dumps(given, allow_nan=False)  # Python reads NaN and infinity.
    except ValueError as error:
        reason = f"which is not JSON ({error})"
    else:
        if isinstance(given, dict):
            return given
        reason = "which is no JSON object"
    raise ConfigError(
        "`--query` must be a JSON object with the features of a query, such as "
        f'{{"user_id": "ann"}}. Received: {query}, {reason}'
    )


@dataclass(frozen=True)
class _Asked:
    """A query with all features of the model.

    Attributes:
        features: Values by feature; None for those that were not given.
        missing: Features that were not given.
        history: The items of its history, oldest first.
        for_teacher: Values of features that the model does not have.
    """

    features: dict[str, Any]
    missing: list[str]
    history: list[str]
    for_teacher: dict[str, Any]


def _query(
    contract: SignatureContract,
    given: Mapping[str, Any],
    history: list[str],
    with_teacher: bool,
) -> _Asked:
    """The query that the options describe.

    Raises:
        ConfigError: If there is no query, or it does not fit the model.
    """
    names = ", ".join(contract.features)
    if not given and not history:
        raise ConfigError(
            "`--query` or `--history` must be given. The model's features are "
            f"{names}. Received: neither"
        )
    values = dict(given)
    if history:
        name = next(iter(contract.histories), None)
        if name is None:
            raise ConfigError(
                "`--history` needs a model with a history, and the features of this "
                f"one are {names}. Received: {','.join(history)}. Use `--query`."
            )
        if name in values:
            raise ConfigError(
                f"`--history` and `--query` must not both have the feature `{name}`. "
                f"Received: {','.join(history)} and {values[name]!r}"
            )
        values[name] = history
    others = {name: v for name, v in values.items() if name not in contract.features}
    if others and not with_teacher:
        raise ConfigError(
            f"`--query` must have features of the model only: {names}. "
            f"Received: {next(iter(others))!r}"
        )
    texts = {n for n in contract.features if contract.inputs[n].dtype == "string"}
    features = {
        name: _as_text(values.get(name)) if name in texts else values.get(name)
        for name in contract.features
    }
    past = next((features[name] for name in contract.histories), None)
    return _Asked(
        features,
        [name for name in contract.features if values.get(name) is None],
        past if isinstance(past, list) else [],
        others,
    )


def _as_text(value: Any) -> Any:
    """Numbers and booleans as text, as ids are written in tables."""
    if isinstance(value, list):
        return [_as_text(each) for each in value]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int | float) else value


Ranked = Sequence[tuple[str, float]]
"""Items and scores, the best first."""


@dataclass(frozen=True)
class _Shown:
    """The answer to a query, with everything that is shown about it.

    Attributes:
        name: Name and version of the model.
        asked: The query.
        unknown: Values that were not in the training data, by feature.
        not_items: Ids that the catalogue does not have.
        student: The model's items and scores.
        teacher: The teacher's; None if it was not asked.
        titles: Titles by item id.
    """

    name: str
    asked: _Asked
    unknown: dict[str, list[str]]
    not_items: list[str]
    student: Ranked
    teacher: Ranked | None
    titles: dict[str, str]

    @classmethod
    def of(
        cls,
        model: ExportedModel,
        asked: _Asked,
        ids: Sequence[str],
        student: Ranked,
        teacher: Ranked | None,
    ) -> _Shown:
        """Collects titles and unknown values; `ids` are items of other options."""
        named = list(dict.fromkeys([*asked.history, *ids]))
        known = model.in_catalogue(asked.features, named).tolist() if named else []
        seen = [item for item, _ in (*student, *(teacher or ()))]
        return cls(
            f"{model.manifest['name']}, version {model.manifest['version']}",
            asked,
            model.unknown_values(asked.features),
            [each for each, inside in zip(named, known, strict=True) if not inside],
            student,
            teacher,
            model.titles([*named, *seen]),
        )

    @property
    def common(self) -> set[str]:
        """Items that both the model and the teacher recommend."""
        return {i for i, _ in self.student} & {i for i, _ in self.teacher or ()}

    def as_json(self) -> dict[str, Any]:
        """The answer, JSON-ready."""
        found: dict[str, Any] = {
            "model": self.name,
            "query": self.asked.features,
            "not_given": self.asked.missing,
            "unknown": self.unknown,
            "not_in_catalogue": self.not_items,
            "recommendations": self._rows(self.student),
        }
        if self.teacher is not None:
            found["teacher"] = self._rows(self.teacher)
            found["in_both"] = len(self.common)
        return found

    def _rows(self, ranked: Ranked) -> list[dict[str, Any]]:
        return [
            {"rank": rank, "item_id": i, "title": self.titles.get(i), "score": score}
            for rank, (i, score) in enumerate(ranked, 1)
        ]

    def as_text(self) -> Group:
        """The answer as a table, with notes above it."""
        return Group(Text(self.name, style="bold"), *self._notes(), "", self._table())

    def _notes(self) -> list[Text]:
        notes = []
        past = self.asked.history
        if past:
            latest = "; ".join(map(self._named, past[::-1][:SHOWN_HISTORY]))
            more = len(past) - SHOWN_HISTORY
            notes.append(f"history, latest first: {latest}{' …' * (more > 0)}")
        if self.asked.missing:
            notes.append(
                f"not given, unknown to the model: {', '.join(self.asked.missing)}"
            )
        for name, values in self.unknown.items():
            notes.append(f"{name}: never seen in training: {_listed(values)}")
        if self.not_items:
            notes.append(f"no items of the catalogue: {_listed(self.not_items)}")
        return [Text(note) for note in notes]

    def _named(self, item: str) -> str:
        title = self.titles.get(item)
        return f"{title} ({item})" if title else item

    def _table(self) -> Table:
        if not self.student and not self.teacher:
            return Table("No item is left: see the excluded and the allowed items.")
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("", justify="right")
        sides: list[Ranked] = [self.student]
        if self.teacher is None:
            _add_side(table, "item")
        else:
            sides.append(self.teacher)
            _add_side(table, "student")
            _add_side(table, "teacher")
            table.caption = f"● in both: {len(self.common)} of {max(map(len, sides))}"
            table.caption_justify = "left"
        for place in range(max(map(len, sides))):
            cells: list[Text] = []
            for side in sides:
                cells += self._cells(side, place)
            table.add_row(str(place + 1), *cells)
        return table

    def _cells(self, ranked: Ranked, place: int) -> list[Text]:
        if place >= len(ranked):
            return [Text(), Text()]
        item, score = ranked[place]
        mark = ""
        if self.teacher is not None:
            mark = "● " if item in self.common else "  "
        return [Text(f"{mark}{self._named(item)}"), Text(f"{score:.3f}")]


def _add_side(table: Table, name: str) -> None:
    table.add_column(name, overflow="fold")
    table.add_column("score", justify="right")
