r"""The score doctor: what a teacher's scores are like, and how to distil them.

A listwise loss turns a teacher's scores into soft targets by a softmax. Whether those
say anything depends on the shape of the scores and on the temperature, and a bad choice
shows nowhere but in the result: the run goes through, and the student is worse than it
could be. `examine` measures what matters, says what is wrong, and proposes a transform
(`recdistill.distillation.score_transforms`) and a temperature:

1. *Probabilities*, all scores from 0 to 1, were squashed by a sigmoid: `logit`.
2. *A heavy tail*, a kurtosis above that of the exponential distribution: `log`.
3. *Squashed* in some other way, the first and the tenth almost equal: `rank`.
4. Anything else is well shaped: `z_score`.

The temperature is the one at which the soft targets are about `TARGET` candidates, or
`TARGET_SHARE` of a short list: `scores.effective_candidates`, geometric mean over the
lists. It divides the teacher's scores alone, with the loss at temperature 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from recdistill.data import column_values
from recdistill.data.ragged import Ragged
from recdistill.data.table_files import read_table
from recdistill.distillation.score_transforms import (
    TRANSFORMS,
    Transform,
    effective_candidates,
    transformed,
)
from recdistill.errors import DataError
from recdistill.lists.masked_ops import standardize
from recdistill.lists.numpy_ranks import (
    BoolArray,
    FloatArray,
    check_same_shape,
    checked_mask,
    real_scores,
)

__all__ = ["Examination", "Proposal", "examine", "read_scored_table"]

TARGET, TARGET_SHARE = 100.0, 0.25
"""How many candidates soft targets should be about, and at most what part of a list."""

FEWEST, LARGEST_SHARE = 2.0, 0.5
"""Soft targets about fewer candidates are one-hot; about a larger share, uniform."""

HEAVY = 6.0
"""The excess kurtosis of an exponential distribution; above it a tail is heavy."""

BUNCHED, LONG = 0.1, 50
"""Standard deviations from first to tenth below which lists this long are squashed."""

CONSTANT_LISTS, TOP_TIES = 0.01, 0.05
"""The share of constant lists, and of ties in the top ten, that is worth a word."""

SAMPLE_LISTS, SAMPLE_PAIRS = 1_000, 500_000
"""At most so many lists, and candidates in all, are examined."""

TEMPERATURES = tuple(2.0 ** (half / 2) for half in range(-12, 9))
RANKS = (1, 10, 100)


_Kind = Literal["probabilities", "heavy", "squashed", "well shaped"]

_CURES: dict[_Kind, tuple[Transform, str]] = {
    "probabilities": ("logit", "The log-odds of probabilities undo the sigmoid"),
    "heavy": ("log", "The logarithm tames a heavy tail"),
    "squashed": ("rank", "The order is all that squashed scores still tell"),
    "well shaped": (
        "z_score",
        "The scores are well shaped: z-scores give all lists one scale",
    ),
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Proposal(_Part):
    """What to set for a teacher, and why.

    Attributes:
        transform: For `distill.scores`.
        temperature: What the transformed scores are to be divided by.
        effective: How many candidates the soft targets are then about.
        reason: In one sentence.
    """

    transform: Transform
    temperature: float
    effective: float
    reason: str


class Examination(_Part):
    """What a teacher's scores are like.

    Attributes:
        lists: How many lists were examined.
        list_size: Their median number of candidates.
        low: The lowest score of all; None where no score is a finite number.
        high: The highest.
        not_finite: How many scores are NaN or infinite; all else leaves them out.
        constant: Share of the lists whose scores are all equal.
        ties: Share of neighbours, in the order of their list, with equal scores; in
            the lists that vary.
        top_ties: The same among the first ten.
        at_lowest: Share of the scores within a thousandth of the range from `low`.
        at_highest: The same from `high`.
        deviations: The 10th, 50th and 90th percentile of the lists' standard
            deviations.
        z_at_rank: Mean z-score of the candidates of rank 1, 10 and 100.
        kurtosis: Median excess kurtosis of the lists; 0 is a normal distribution, 6 an
            exponential one.
        effective: By transform, then by temperature: how many candidates the soft
            targets are about, geometric mean over the lists.
        findings: What is wrong, in words.
        proposal: What to set; None where no list has scores that differ.
    """

    lists: int
    list_size: float
    low: float | None
    high: float | None
    not_finite: int
    constant: float
    ties: float
    top_ties: float
    at_lowest: float
    at_highest: float
    deviations: tuple[float, float, float] | None
    z_at_rank: dict[str, float]
    kurtosis: float | None
    effective: dict[Transform, dict[str, float]]
    findings: tuple[str, ...]
    proposal: Proposal | None

    def effective_at(self, transform: Transform, temperature: float) -> float | None:
        """How many candidates soft targets are about; interpolated between those known.

        Args:
            transform: A transform.
            temperature: Above zero.

        Returns:
            The number; None where no list has scores that differ.
        """
        if transform not in self.effective:
            return None
        known = self.proposal
        if known and (known.transform, known.temperature) == (transform, temperature):
            return known.effective
        temperatures, numbers = self._curve(transform)
        number = np.interp(np.log(temperature), np.log(temperatures), np.log(numbers))
        return float(np.exp(number))

    def temperature_for(self, transform: Transform) -> float:
        """The temperature to use with a transform, to two digits.

        Args:
            transform: A transform.

        Returns:
            That of the proposal where it is of this transform, else one at which about
            as many candidates count; 1 where no list has scores that differ.
        """
        if self.proposal is None:
            return 1.0
        if self.proposal.transform == transform:
            return self.proposal.temperature
        temperatures, numbers = self._curve(transform)
        wanted = np.log(_wanted(self.list_size))
        found = np.interp(wanted, np.log(numbers), np.log(temperatures))
        return float(f"{np.exp(found):.2g}")

    def warning(self, transform: Transform, temperature: float) -> str | None:
        """What is wrong with distilling these scores so, if anything.

        Args:
            transform: As configured.
            temperature: As configured.
        """
        number = self.effective_at(transform, temperature)
        if number is None or FEWEST <= number <= LARGEST_SHARE * self.list_size:
            return None
        fault = (
            "nearly one-hot: the student learns little but the first candidate"
            if number < FEWEST
            else "nearly uniform: the student learns little of who comes first"
        )
        return (
            f"With scores {transform} and temperature {temperature:g} the soft targets "
            f"are about {number:.3g} of {self.list_size:,.0f} candidates, {fault}. Let "
            "the score doctor choose: --set distill.scores=auto --set "
            "distill.teacher_temperature=auto."
        )

    def _curve(self, transform: Transform) -> tuple[list[float], list[float]]:
        curve = self.effective[transform]
        return [float(temperature) for temperature in curve], list(curve.values())


def examine(scores: npt.ArrayLike, mask: npt.ArrayLike) -> Examination:
    """Looks at a teacher's scores.

    Args:
        scores: `(lists, list_size)`. As the teacher gave them; NaN and infinity are
            counted and left out.
        mask: `(lists, list_size)`, bool. True marks a real candidate.

    Raises:
        ValueError: If the arrays are no batch of lists, or there is no candidate.

    Example:
        Scores of a sigmoid that is too sure of itself.

        >>> logits = np.random.default_rng(1).normal(0.0, 4.0, (50, 200))
        >>> found = examine(1 / (1 + np.exp(-logits)), np.ones((50, 200), bool))
        >>> found.proposal.transform
        'logit'
    """
    array, given = np.asarray(scores, np.float64), checked_mask(mask)
    check_same_shape(array, given, name="scores")
    finite = given & np.isfinite(array)
    filled = given.any(axis=1)
    if not filled.any():
        raise ValueError("`mask` must have a real candidate. Received: none")
    real = real_scores(array[filled], finite[filled], name="scores")
    ordered = -np.sort(-real, axis=1)  # best first, NaN at the end
    last = np.maximum(np.count_nonzero(finite[filled], axis=1) - 1, 0)
    varies = ordered[:, 0] > ordered[np.arange(len(ordered)), last]
    facts = {
        "lists": len(real),
        "list_size": float(np.median(np.count_nonzero(given[filled], axis=1))),
        "not_finite": int(np.count_nonzero(given & ~finite)),
        "constant": float(np.mean(~varies)),
        **_ties(ordered[varies]),
        **_range(real),
        **_shape(ordered[varies]),
        "effective": _curves(ordered[varies]),
    }
    if not varies.any():
        return Examination(**facts, findings=_findings(facts, None), proposal=None)
    kind = _kind(ordered[varies], facts)
    proposal = _propose(ordered[varies], facts, kind)
    return Examination(**facts, findings=_findings(facts, kind), proposal=proposal)


def read_scored_table(
    path: Path, list_column: str, score_column: str
) -> tuple[FloatArray, BoolArray]:
    """Scores from a table with one row a (list, candidate); a sample of many lists.

    Args:
        path: A Parquet file, or CSV with a header.
        list_column: Says which list a row belongs to.
        score_column: The teacher's scores.

    Returns:
        `scores` and `mask`, `(lists, list_size)`, as `examine` takes them. A score that
        is missing is NaN.

    Raises:
        DataError: If there is no such table or column, it has no rows, or the scores
            are no numbers.
    """
    table = read_table(path, (list_column, score_column))
    lists, scores = table[list_column], table[score_column]
    if not len(scores):
        raise DataError(f"The table {path} must have rows. Received: none")
    place = column_values.Place(str(path), score_column)
    values = column_values.doubles(scores.combine_chunks(), place)
    code = lists.combine_chunks().dictionary_encode(null_encoding="encode").indices
    number = code.to_numpy()
    offsets = np.concatenate([[0], np.cumsum(np.bincount(number))])
    rows = Ragged(values[np.argsort(number, kind="stable")], offsets)
    rows = rows.take(sample(len(rows), int(np.diff(offsets).max())))
    ones = Ragged(np.ones(len(rows.values), bool), rows.offsets)
    return rows.padded(0.0), ones.padded(False)


def sample(lists: int, list_size: int) -> npt.NDArray[np.int64]:
    """Which lists are examined where there are many: a random sample, the same always.

    Args:
        lists: How many there are.
        list_size: Candidates of the longest.

    Returns:
        `(n,)`, in order.
    """
    wanted = max(1, min(SAMPLE_LISTS, SAMPLE_PAIRS // list_size, lists))
    chosen = np.random.default_rng(0).choice(lists, wanted, replace=False)
    return np.sort(chosen)


def _ties(ordered: FloatArray) -> dict[str, float]:
    equal = ordered[:, 1:] == ordered[:, :-1]  # NaN equals nothing
    pairs = ~np.isnan(ordered[:, 1:])
    return {
        "ties": float(equal.sum() / max(1, pairs.sum())),
        "top_ties": float(equal[:, :9].sum() / max(1, pairs[:, :9].sum())),
    }


def _range(real: FloatArray) -> dict[str, float | None]:
    if np.isnan(real).all():
        return {"low": None, "high": None, "at_lowest": 0.0, "at_highest": 0.0}
    low, high = float(np.nanmin(real)), float(np.nanmax(real))
    near = high / 1000 - low / 1000
    count = np.count_nonzero(~np.isnan(real))
    return {
        "low": low,
        "high": high,
        "at_lowest": float(np.count_nonzero(real <= low + near) / count),
        "at_highest": float(np.count_nonzero(real >= high - near) / count),
    }


def _shape(ordered: FloatArray) -> dict[str, Any]:
    """How the lists that vary are shaped: spread, z-scores from the top, kurtosis."""
    if not len(ordered):
        return {"deviations": None, "z_at_rank": {}, "kurtosis": None}
    real = ~np.isnan(ordered)
    z = standardize(np.where(real, ordered, 0.0), real).numpy()
    kurtosis = (z**4).sum(axis=1) / real.sum(axis=1) - 3.0
    at_rank = {
        str(rank): float(z[real[:, rank - 1], rank - 1].mean())
        for rank in RANKS
        if rank <= z.shape[1] and real[:, rank - 1].any()
    }
    unit = np.nanmax(np.abs(ordered), axis=1, keepdims=True)  # so no square overflows
    deviations = np.nanstd(ordered / unit, axis=1) * unit[:, 0]
    return {
        "deviations": tuple(np.percentile(deviations, [10, 50, 90]).tolist()),
        "z_at_rank": at_rank,
        "kurtosis": float(np.median(kurtosis)),
    }


def _curves(ordered: FloatArray) -> dict[Transform, dict[str, float]]:
    if not len(ordered):
        return {}
    curves: dict[Transform, dict[str, float]] = {}
    for transform in TRANSFORMS:
        targets = _Targets(ordered, transform)
        curves[transform] = {
            f"{t:.4g}": _rounded(targets.effective(t)) for t in TEMPERATURES
        }
    return curves


class _Targets:
    """Soft targets of lists whose scores were transformed, at any temperature."""

    def __init__(self, ordered: FloatArray, transform: Transform) -> None:
        self._mask = ~np.isnan(ordered)
        scores = np.where(self._mask, ordered, 0.0)
        self._scores = transformed(scores, self._mask, transform)

    def effective(self, temperature: float) -> float:
        """How many candidates they are about, geometric mean over the lists."""
        number = effective_candidates(self._scores, self._mask, temperature).numpy()
        return float(np.exp(np.log(number).mean()))

    def temperature(self, wanted: float) -> float:
        """The temperature at which they are about so many, to two digits."""
        low, high = np.log(1e-3), np.log(1e3)
        while high - low > 1e-3:  # the number rises with the temperature
            middle = (low + high) / 2
            if self.effective(float(np.exp(middle))) < wanted:
                low = middle
            else:
                high = middle
        return float(f"{np.exp((low + high) / 2):.2g}")


def _findings(facts: dict[str, Any], kind: _Kind | None) -> tuple[str, ...]:
    """What is wrong, in words, the worst first."""
    found = []
    if facts["not_finite"]:
        found.append(
            f"{facts['not_finite']:,} scores are NaN or infinite: no loss can use them."
        )
    if facts["constant"] >= CONSTANT_LISTS:
        found.append(
            f"{facts['constant']:.0%} of the lists have one score for all candidates: "
            "they teach nothing."
        )
    if kind is None:
        return tuple(found)
    if kind == "probabilities":
        found.append(
            f"All scores lie from {facts['low']:.3g} to {facts['high']:.3g}: "
            "probabilities, squashed by a sigmoid, and no log-odds as a softmax wants."
        )
    elif kind == "heavy":
        shown = ", ".join(f"{z:.3g} at rank {r}" for r, z in facts["z_at_rank"].items())
        found.append(
            f"The tail is heavy: z-scores are {shown}; the excess kurtosis is "
            f"{facts['kurtosis']:.3g}, above 6. A softmax of them is nearly one-hot."
        )
    elif kind == "squashed":
        found.append(
            f"The best candidates are squashed together: the first stands at a z-score "
            f"of {facts['z_at_rank']['1']:.3g}, the tenth at "
            f"{facts['z_at_rank']['10']:.3g}."
        )
    if facts["top_ties"] >= TOP_TIES:
        found.append(
            f"{facts['top_ties']:.0%} of neighbours in the top ten have equal scores: "
            "their order is lost. Store more digits, or do not clip."
        )
    low, _, high = facts["deviations"]
    if high > 10 * low:
        found.append(
            f"Lists differ in scale: a tenth of them spread below {low:.3g}, a tenth "
            f"above {high:.3g}. One temperature fits only after a transform."
        )
    return tuple(found)


def _propose(ordered: FloatArray, facts: dict[str, Any], kind: _Kind) -> Proposal:
    transform, because = _CURES[kind]
    targets = _Targets(ordered, transform)
    temperature = targets.temperature(_wanted(facts["list_size"]))
    effective = _rounded(targets.effective(temperature))
    return Proposal(
        transform=transform,
        temperature=temperature,
        effective=effective,
        reason=(
            f"{because}; at temperature {temperature:g} the soft targets are about "
            f"{effective:.3g} of {facts['list_size']:,.0f} candidates."
        ),
    )


def _rounded(number: float) -> float:
    """To six digits: a parallel sum may differ in its last."""
    return float(f"{number:.6g}")


def _wanted(list_size: float) -> float:
    """How many candidates the soft targets of such lists should be about."""
    return min(TARGET, max(FEWEST, TARGET_SHARE * list_size))


def _kind(ordered: FloatArray, facts: dict[str, Any]) -> _Kind:
    """What the scores of lists that vary are like."""
    if facts["low"] >= 0.0 and facts["high"] <= 1.0:
        lowest = np.nanmin(ordered, axis=1)
        # Lists that mostly reach from 0 to 1 were scaled to do so.
        if np.mean((ordered[:, 0] == 1.0) & (lowest == 0.0)) < 0.5:
            return "probabilities"
    if facts["kurtosis"] > HEAVY:
        return "heavy"
    z = facts["z_at_rank"]
    if facts["list_size"] >= LONG and "10" in z and z["1"] - z["10"] < BUNCHED:
        return "squashed"
    return "well shaped"
