"""Findings about a folder of data, as a document for machines."""

from __future__ import annotations

from typing import Any

from recdistill.pipeline.proposal.proposal import ColumnUse, Proposal
from recdistill.pipeline.proposal.time_columns import dates


def findings(proposal: Proposal) -> dict[str, Any]:
    """What was found in a folder, and what is proposed.

    Args:
        proposal: A proposal without open questions.
    """
    roles = proposal.known()
    listwise = "list" in roles.columns
    span = None
    if "time" in roles.columns:
        span = dates(roles.table, roles.profile("time"))
    return {
        "path": str(proposal.source.path),
        "reader": "listwise" if listwise else proposal.source.reader,
        "roles": dict(roles.columns),
        "keep": " and ".join(roles.keep) or None,
        "time_format": roles.time_format,
        "dates": None if span is None else list(span),
        "tables": {
            name: {
                "file": table.name,
                "files": table.sample.files,
                "rows": table.sample.count,
                "rows_estimated": table.sample.estimated,
                "sampled_rows": len(table.sample.rows),
                "columns": [
                    column_findings(use)
                    for use in proposal.uses
                    if use.table == table.name
                ],
            }
            for name, table in proposal.tables.items()
        },
        "query": proposal.query,
        "candidate": proposal.candidate,
        "notes": list(proposal.notes),
    }


def column_findings(use: ColumnUse) -> dict[str, Any]:
    """What was found about a column of the sample."""
    profile = use.profile
    return {
        "name": profile.name,
        "values": profile.content,
        "distinct": profile.distinct,
        "missing": profile.missing,
        "examples": profile.examples(),
        "use": use.use or None,
        "reason": use.reason,
    }
