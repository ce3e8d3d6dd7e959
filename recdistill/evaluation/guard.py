"""The guard: slices on which the distilled student falls below the baseline.

A mean over all lists hides a student that gains on popular items and loses on rare
ones. The guard compares both models on each slice, and reports a slice that has fallen

- by more than a configured share of the baseline's metric, and
- beyond noise: the p-value of the paired permutation test over queries, corrected for
  the number of slices, is at most `paired_tests.LEVEL`. With fewer than six queries no
  p-value is that small, so a small slice alone never stops a run.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recdistill.errors import GuardError
from recdistill.evaluation.paired_tests import SliceTest, p_value_text, slice_tests
from recdistill.evaluation.report.run_report import GuardedSlice, GuardPart
from recdistill.evaluation.report.terminal_tables import metric_label


def guard_slices(
    baseline: pa.Table,
    distilled: pa.Table,
    slices: Mapping[str, Mapping[str, npt.NDArray[np.bool_]]],
    metric: str,
    *,
    largest_fall: float,
    samples: int = 1000,
    seed: int = 0,
) -> GuardPart:
    """Compares the distilled student with the baseline on each slice.

    Args:
        baseline: Rows of the baseline, one row per list.
        distilled: Rows of the distilled student, in the same order.
        slices: For each kind of slice and each slice, `(lists,)` bool: whether a list
            belongs to it.
        metric: Name of the metric.
        largest_fall: Share of the baseline's metric that a slice may lose.
        samples: Resamples of the queries for the intervals of the differences.
        seed: Seed of the tests.
    """
    tests = slice_tests(
        baseline, distilled, slices, metric, interval_samples=samples, seed=seed
    )
    return GuardPart(
        metric=metric,
        largest_fall=largest_fall,
        slices=tuple(_guarded(each, largest_fall) for each in tests),
    )


def _guarded(each: SliceTest, largest_fall: float) -> GuardedSlice:
    test = each.test
    change = test.relative
    return GuardedSlice(
        kind=each.kind,
        name=each.name,
        lists=test.lists,
        queries=test.queries,
        baseline=test.reference.value,
        distilled=test.other.value,
        difference=test.difference,
        change=change,
        adjusted_p=test.adjusted_p,
        fallen=change is not None and change < -largest_fall and test.is_significant,
    )


def guard_message(guard: GuardPart) -> str | None:
    """Names the slices that have fallen; None if there is none."""
    fallen = guard.fallen
    if not fallen:
        return None
    shown = "; ".join(
        f"{each.kind}: {each.name} {each.baseline:.4f} to {each.distilled:.4f} "
        f"({each.change:+.0%}, adjusted p {p_value_text(each.adjusted_p)}, "
        f"{each.lists:,} lists)"
        for each in fallen
    )
    return (
        f"The distilled student is more than {guard.largest_fall:.0%} below the "
        f"baseline, beyond noise, on {len(fallen)} of {len(guard.slices)} slices of "
        f"the test lists: {metric_label(guard.metric)} of {shown}."
    )


def enforce(guard: GuardPart, action: str) -> str | None:
    """Raises an error if a slice has fallen and the action is "stop".

    Args:
        guard: The comparison on the slices.
        action: `guard.action` of the configuration.

    Returns:
        A warning if a slice has fallen and the run continues; else None.

    Raises:
        GuardError: If the run must stop.
    """
    message = guard_message(guard)
    if message is None:
        return None
    if action == "stop":
        raise GuardError(
            f"{message} The run stops before the export. Improve the student on these "
            "slices, or override the check with --set guard.action=warn."
        )
    return f"{message} The run continues because guard.action is warn."
