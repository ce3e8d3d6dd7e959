"""The score doctor's findings as a page in the terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from recdistill.evaluation.report.terminal_tables import (
    MISSING,
    number_table,
    number_text,
    pair_table,
    soft_targets_line,
)

if TYPE_CHECKING:
    from recdistill.distillation.score_doctor import Examination

_TEMPERATURES = ("0.125", "0.25", "0.5", "1", "2", "4")


def render_examination(
    found: "Examination", soft_targets: Mapping[str, Any] | None = None
) -> RenderableType:
    """Page with the score doctor's findings, for `rich.console.Console.print`.

    Args:
        found: Result of the examination.
        soft_targets: The run's `SoftTargetsPart` as a mapping; None to leave it out.

    Returns:
        A renderable that fits 80 columns.
    """
    parts: list[RenderableType] = [
        Text("Score doctor", style="bold"),
        pair_table(_facts(found)),
    ]
    if found.effective:
        parts += [Text("\nEffective candidates by temperature"), _effective(found)]
    for finding in found.findings:
        parts.append(Text.assemble(("\nFinding  ", "bold yellow"), finding))
    if found.proposal is not None:
        transform = found.proposal.transform
        keys = f"distill.scores={transform} distill.teacher_temperature=auto. "
        parts.append(
            Text.assemble(("\nProposal  ", "bold"), keys, found.proposal.reason)
        )
    if soft_targets is not None:
        line = soft_targets_line(soft_targets)
        parts.append(Text.assemble(("\nThis run  ", "bold"), line))
    return Group(*parts)


def _facts(found: "Examination") -> dict[str, str]:
    facts = {
        "Lists": f"{found.lists:,}, with {found.list_size:,.0f} candidates (median)",
        "Range": MISSING
        if found.low is None or found.high is None
        else f"{number_text(found.low)} to {number_text(found.high)}",
        "Near the ends": f"{found.at_lowest:.1%} near the lowest score, "
        f"{found.at_highest:.1%} near the highest",
        "NaN, infinite": f"{found.not_finite:,}",
        "Constant lists": f"{found.constant:.1%}",
        "Ties": f"{found.ties:.1%} of adjacent candidates, "
        f"{found.top_ties:.1%} in the top 10",
    }
    if found.deviations is not None and found.kurtosis is not None:
        low, middle, high = map(number_text, found.deviations)
        at_rank = [
            f"{number_text(z)} at rank {rank}" for rank, z in found.z_at_rank.items()
        ]
        facts["Std. deviation"] = f"median {middle}, 10th percentile {low}, 90th {high}"
        facts["z-scores"] = ", ".join(at_rank)
        facts["Kurtosis"] = f"{number_text(found.kurtosis)} (normal 0, exponential 6)"
    return facts


def _effective(found: "Examination") -> Table:
    table = number_table(["", *_TEMPERATURES])
    for name, curve in found.effective.items():
        table.add_row(name, *(number_text(curve[each]) for each in _TEMPERATURES))
    return table
