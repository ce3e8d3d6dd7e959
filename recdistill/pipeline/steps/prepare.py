"""The step `prepare`: from interactions to lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recdistill.pipeline.steps.step import Step, sections

if TYPE_CHECKING:
    from recdistill.pipeline.config import Config
    from recdistill.pipeline.run_context import RunContext
    from recdistill.pipeline.workspace import Draft


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
        config, dataset = run.config, run.dataset
        return {
            "fingerprint": dataset.fingerprint,
            "columns": vars(dataset.columns),
            "delimiter": config.dataset.delimiter,
            "time_format": config.dataset.time_format,
            "keep": config.dataset.keep,
            "per_query": config.lists.per_query,
            "seen": config.lists.seen,
            "with_raw": run.needs_raw,
            **sections(config, "query", "candidate", "split"),
        }

    def work(self, run: RunContext, draft: Draft) -> dict[str, Any]:
        """Writes the item table, the vocabularies and the list shards."""
        from recdistill.pipeline.preparation import prepare

        return prepare(run.dataset, run.config, draft.path, run.progress)

    def gist(self, record: Mapping[str, Any]) -> str:
        """Size of the data."""
        return (
            f"{record['interactions']:,} interactions, {record['queries']:,} queries, "
            f"{record['items']:,} items; {record['repeat_share']:.1%} repeats, seen "
            f"items {record['seen']}d"
        )
