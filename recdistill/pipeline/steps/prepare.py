"""The step `prepare`: vocabularies, item table and lists from interactions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recdistill.pipeline.steps.step import Step, sections

if TYPE_CHECKING:
    from recdistill.pipeline.artefacts.artefact import Artefact
    from recdistill.pipeline.artefacts.workspace import Draft
    from recdistill.pipeline.config import Config
    from recdistill.pipeline.run_context import RunContext


MOST_EMPTY = 0.9
"""Share of unlabelled requests without a history from which there is a warning."""

_PARTS = {"valid": "validation lists", "test": "test lists", "items": "items"}


class Prepare(Step):
    """Splits the interactions, builds vocabularies and writes list shards."""

    name = "prepare"
    summary = "Split the interactions, build vocabularies and write list shards."
    shared = True

    def needs(self, config: Config) -> tuple[str, ...]:
        """No other step."""
        return ()

    def inputs(self, run: RunContext) -> dict[str, Any]:
        """The data, its features and its split."""
        from recdistill.pipeline.config.dataset_section import TABLES

        config, dataset = run.config, run.dataset
        earlier = run.earlier_run
        drawn = config.split.by == "leave_random_out"
        return {
            "fingerprint": dataset.fingerprint,
            "columns": vars(dataset.columns),
            "delimiter": config.dataset.delimiter,
            "time_format": config.dataset.time_format,
            "keep": config.dataset.keep,
            "tables": config.dataset.model_dump(mode="json", include=set(TABLES)),
            "per_query": config.lists.per_query,
            "seen": config.lists.seen,
            "with_raw": run.needs_raw,
            "seed": config.seed if drawn else None,
            **({} if earlier is None else {"earlier": earlier.prepare.key}),
            # Earlier versions did not know the items that were only shown.
            **({} if dataset.columns.list is None else {"shown": "known"}),
            **sections(config, "query", "candidate", "split"),
        }

    def work(self, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Writes the item table, the vocabularies and the list shards."""
        from recdistill.features.schema import Schema
        from recdistill.pipeline.preparation.preparation import prepare

        earlier = run.earlier_run
        schema = None if earlier is None else Schema.load(earlier.prepare.path)
        return prepare(run.dataset, run.config, draft.path, run.progress, schema)

    def after(self, run: RunContext, artefact: Artefact) -> None:
        """Checks that the data allows the evaluation that is configured."""
        from recdistill.evaluation.rows import cut_off
        from recdistill.pipeline.ranking.retrieved_candidates import check_evaluation

        settings = run.config.evaluate
        if (
            settings.sampled_candidates is not None
            or settings.retrieved < settings.fewest_retrieved
            or cut_off(settings.metrics[0]) is None
            or any(name.startswith("err@") for name in settings.metrics)
        ):
            # Only then, because all files of the prepared data are verified.
            check_evaluation(run.config, run.prepared)

    def gist(self, record: Mapping[str, Any]) -> str:
        """Size of the data."""
        return (
            f"{record['interactions']:,} interactions, {record['queries']:,} queries, "
            f"{record['items']:,} items; {record['repeat_share']:.1%} repeats, seen "
            f"items {record['seen']}d"
        )

    def details(self, record: Mapping[str, Any]) -> Iterator[str]:
        """Dates of each part, unknown values, copies and repeats."""
        from recdistill.features.unknown_values import in_words

        if record["parts"]:
            yield "; ".join(
                f"{name} {first} to {last}"
                for name, (first, last) in record["parts"].items()
            )
        yield from _unlabelled(record)
        if record["copies"]:
            yield (
                f"{record['copies']:,} rows are copies of a row with the same query, "
                "item and time; copies are in the same part"
            )
        if record["added_items"]:
            yield (
                f"{record['added_items']:,} items of the training part have no row in "
                "the table of items; their features are missing"
            )
        unlisted = record.get("unlisted_interactions", {})
        if any(unlisted.values()):
            yield (
                f"{record['unlisted_items']:,} items of the training part have no row "
                "in the table of items, so they count in histories and are not "
                f"candidates; {unlisted['train']:,} training, {unlisted['valid']:,} "
                f"validation and {unlisted['test']:,} test interactions with such "
                "items are left out of the lists"
            )
        for part in ("valid", "test", "items"):
            shares = in_words(record["unknown"][part])
            if shares:
                yield f"values unknown in training, {_PARTS[part]}: {shares}"
        left_out, again = record["left_out_repeats"], record["repeats"]
        if any(left_out.values()):
            yield (
                f"{left_out['train']:,} training, {left_out['valid']:,} validation and "
                f"{left_out['test']:,} test interactions are left out, because the "
                "query had interacted with the item before"
            )
        elif any(again.values()):
            yield (
                f"{again['valid']:,} of {record['lists']['valid']:,} validation lists "
                f"and {again['test']:,} of {record['lists']['test']:,} test lists have "
                "an item that the query also has in the training part"
            )

    def warnings(self, run: RunContext) -> Iterator[str]:
        """Implausible times, times in several units, and types that have changed."""
        artefact = run.artefacts["prepare"]
        yield from artefact.record["time_warnings"]
        yield from artefact.record.get("notes", ())
        yield from _doubts(run.config, artefact.record)
        if artefact.reused:
            return
        before = _prepared_before(artefact.path)
        types = before.get("types", {})
        for column, kind in artefact.record["types"].items():
            if types.get(column, kind) != kind:
                yield (
                    f"The column `{column}` is {kind}; in the data that was prepared "
                    f"before, it was {types[column]}. If its values are written in "
                    "another way now, models that were trained before do not know them."
                )


def _unlabelled(record: Mapping[str, Any]) -> Iterator[str]:
    """Number of unlabelled lists, and of the requests that they are made of."""
    if record.get("requests"):
        line = (
            f"{record['unlabelled']:,} of {record['requests']:,} unlabelled requests "
            "are used; the others are not in the training part or have a list already"
        )
    elif record.get("unlabelled"):
        line = (
            f"{record['unlabelled']:,} lists of the training part without a chosen "
            "item are unlabelled"
        )
    else:
        return
    if record["unlabelled_without_history"]:
        line += f"; {record['unlabelled_without_history']:,} of them have no history"
    if record["unlabelled_without_row"]:
        line += (
            f"; {record['unlabelled_without_row']:,} are left out, because their "
            "queries have no row in the table `queries`, which a feature needs"
        )
    yield line


def _doubts(config: Config, record: Mapping[str, Any]) -> Iterator[str]:
    """What looks like a mistake in the table of requests."""
    requests, used = record.get("requests"), record.get("unlabelled")
    if requests and not used:
        yield (
            f"None of the {requests:,} requests of the table `unlabelled` is used: "
            "they are not in the training part, or they have lists already, because "
            "they are at the times of interactions. Are their times right?"
        )
    has_history = any(spec.kind == "history" for spec in config.query.values())
    if requests and used and has_history:
        empty = record["unlabelled_without_history"]
        if empty > MOST_EMPTY * used:
            yield (
                f"{empty:,} of {used:,} unlabelled requests have no history. Are their "
                "ids and times written as in the interactions?"
            )


def _prepared_before(folder: Path) -> dict[str, Any]:
    """The record of the latest other artefact of this step; empty if there is none."""
    from recdistill.atomic import read_sealed

    records = [
        path
        for path in folder.parent.glob("prepare-*/record.json")
        if path.parent.name != folder.name
    ]
    records.sort(key=lambda path: path.stat().st_mtime)
    try:
        return read_sealed(records[-1]) if records else {}
    except (OSError, ValueError):
        return {}
