r"""Score doctor: diagnoses a teacher's scores and proposes transform and temperature.

A listwise loss turns a teacher's scores into soft targets by a softmax. How much these
teach depends on the distribution of the scores and on the temperature. A bad choice
causes no error: the run completes, and the student is worse than it could be. `examine`
measures the relevant properties, reports problems, and proposes a transform
(`recdistill.distillation.score_transforms`) and a temperature:

1. *Probabilities*: all scores lie between 0 and 1, as after a sigmoid: `logit`.
2. *Heavy tail*: the kurtosis is above that of an exponential distribution: `log`.
3. *Squashed* in another way: the first and the tenth score are almost equal: `rank`.
4. Any other distribution is well shaped: `z_score`.

The proposed temperature gives soft targets with an effective number of candidates
(`score_transforms.effective_candidates`, geometric mean over the lists) of `TARGET`, or
of `TARGET_SHARE` of the candidates in short lists. It is a `teacher_temperature`: it
divides the teacher's scores only, and the loss keeps its temperature of 1.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from pydantic import BaseModel

from recdistill.distillation.score_transforms import (
    TRANSFORMS,
    Transform,
    effective_candidates,
    transformed,
)
from recdistill.lists.masked_ops import standardise
from recdistill.lists.numpy_ranks import (
    BoolArray,
    FloatArray,
    check_same_shape,
    checked_mask,
    real_scores,
)

__all__ = ["Examination", "Proposal", "ScoreHistogram", "examine"]

TARGET, TARGET_SHARE = 100.0, 0.25
"""Desired effective number of candidates, and its upper limit as a share of a list."""

FEWEST, LARGEST_SHARE, TOLERANCE = 2.0, 0.5, 0.1
"""Soft targets are nearly one-hot below FEWEST effective candidates, and nearly uniform
above LARGEST_SHARE of the list; in short lists, if they also differ from the desired
number by more than the share TOLERANCE."""

HEAVY = 6.0
"""Excess kurtosis of an exponential distribution; a tail above it is heavy."""

BUNCHED, LONG = 0.1, 50
"""Squashed: z-scores of ranks 1 and 10 closer than BUNCHED; for lists from LONG on."""

CONSTANT_LISTS, TOP_TIES = 0.01, 0.05
"""Shares of constant lists and of ties in the top ten that are reported."""

BINS, EXTREME = 48, 0.001
"""Bins of a histogram of scores, and the share of scores beyond each of its ends."""

TEMPERATURES = tuple(2.0 ** (half / 2) for half in range(-12, 9))
RANKS = (1, 10, 100)

_effective = tf.function(effective_candidates, autograph=False, reduce_retracing=True)


_Kind = Literal["probabilities", "heavy", "squashed", "well shaped"]

_REMEDIES: dict[_Kind, tuple[Transform, str]] = {
    "probabilities": ("logit", "The log-odds of probabilities invert the sigmoid"),
    "heavy": ("log", "The logarithm compresses a heavy tail"),
    "squashed": ("rank", "Squashed scores retain only their order"),
    "well shaped": (
        "z_score",
        "The scores are well shaped: z-scores give all lists one scale",
    ),
}


class Proposal(BaseModel, frozen=True, allow_inf_nan=False):
    """Proposed transform and temperature for a teacher's scores.

    Attributes:
        transform: Proposed transform.
        temperature: Divisor of the transformed scores.
        effective: Effective number of candidates of the resulting soft targets.
        reason: Why, in one sentence.
    """

    transform: Transform
    temperature: float
    effective: float
    reason: str


class ScoreHistogram(BaseModel, frozen=True, allow_inf_nan=False):
    """Histogram of scores, in bins of equal width.

    Attributes:
        low: Lower edge of the first bin; lower scores are counted in it.
        high: Upper edge of the last bin; higher scores are counted in it.
        counts: Number of scores in each bin.
    """

    low: float
    high: float
    counts: tuple[int, ...]


class Examination(BaseModel, frozen=True, allow_inf_nan=False):
    """Statistics of a teacher's scores, problems found and a proposal.

    Attributes:
        lists: Number of lists examined.
        list_size: Their median number of candidates.
        low: Lowest score; None if no score is finite.
        high: Highest score; None if no score is finite.
        not_finite: Number of scores that are NaN or infinite. All other statistics
            ignore them.
        single: Share of the lists with one finite score or none.
        constant: Share of the lists with several scores that are all equal.
        ties: Share of adjacent candidates with equal scores, in lists sorted by score;
            constant lists are excluded.
        top_ties: The same among the first ten candidates.
        at_lowest: Share of the scores within a thousandth of the range from `low`.
        at_highest: The same from `high`.
        deviations: The 10th, 50th and 90th percentile of the lists' standard
            deviations.
        z_at_rank: Mean z-score of the candidates of rank 1, 10 and 100.
        kurtosis: Median excess kurtosis of the lists; 0 for a normal distribution, 6
            for an exponential one.
        effective: By transform, then by temperature: the effective number of candidates
            of the soft targets, geometric mean over the lists.
        histograms: By transform: how the transformed scores are distributed.
        findings: Problems found, as sentences.
        proposal: Proposed settings; None if the scores of every list are equal.
    """

    lists: int
    list_size: float
    low: float | None
    high: float | None
    not_finite: int
    single: float = 0.0
    constant: float
    ties: float
    top_ties: float
    at_lowest: float
    at_highest: float
    deviations: tuple[float, float, float] | None = None
    z_at_rank: dict[str, float] = {}
    kurtosis: float | None = None
    effective: dict[Transform, dict[str, float]] = {}
    histograms: dict[Transform, ScoreHistogram] = {}
    findings: tuple[str, ...]
    proposal: Proposal | None = None

    def effective_at(self, transform: Transform, temperature: float) -> float | None:
        """Effective number of candidates of soft targets, interpolated.

        Args:
            transform: Name of a transform.
            temperature: Above zero.

        Returns:
            The number; None if the scores of every list are equal.
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
        """Temperature to use with a transform, rounded to two digits.

        Args:
            transform: Name of a transform.

        Returns:
            The proposed temperature if the transform is the proposed one; otherwise the
            temperature with the desired effective number of candidates; 1 if the
            scores of every list are equal.
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
        """Warning about a configured transform and temperature; None if they are fine.

        Args:
            transform: Configured transform.
            temperature: Configured temperature.
        """
        number, own = self.effective_at(transform, temperature), self.proposal
        if number is None or own is None:
            return None
        wanted = _wanted(self.list_size)
        low = min(FEWEST, (1 - TOLERANCE) * wanted)
        high = max(LARGEST_SHARE * self.list_size, (1 + TOLERANCE) * wanted)
        proposed = (transform, temperature) == (own.transform, own.temperature)
        if proposed or low <= number <= high:
            return None
        fault = (
            "nearly one-hot: the student learns little beyond the first candidate"
            if number < low
            else "nearly uniform: the student learns little about the first candidates"
        )
        return (
            f"With transform {transform} and temperature {temperature:g} the soft "
            f"targets have {number:.3g} effective candidates of "
            f"{self.list_size:,.0f}, {fault}. To let the score doctor choose, use "
            "--set distill.scores=auto --set distill.teacher_temperature=auto."
        )

    def _curve(self, transform: Transform) -> tuple[list[float], list[float]]:
        curve = self.effective[transform]
        return [float(temperature) for temperature in curve], list(curve.values())


def examine(
    scores: npt.ArrayLike,
    mask: npt.ArrayLike,
    item_weight: npt.ArrayLike | None = None,
) -> Examination:
    """Examine a teacher's scores and propose a transform and a temperature.

    Args:
        scores: `(lists, list_size)`, unchanged from the teacher. NaN and infinity are
            counted and otherwise ignored.
        mask: `(lists, list_size)`, bool. True marks a real candidate.
        item_weight: `(lists, list_size)`, the number of items of the catalogue that
            each candidate stands for, above 0 for real candidates; None for one each.
            The shape of the distribution, the soft targets and the list size are then
            estimates for the whole catalogue.

    Raises:
        ValueError: If the shapes do not fit, or no candidate is real.

    Examples:
        Scores of an overconfident sigmoid.

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
    order = np.argsort(-real, axis=1, kind="stable")  # best first, NaN at the end
    ordered = np.take_along_axis(real, order, axis=1)
    times = None
    if item_weight is not None:
        weight = np.asarray(item_weight, np.float64)[filled]
        times = np.take_along_axis(weight, order, axis=1)
    last = np.maximum(np.count_nonzero(finite[filled], axis=1) - 1, 0)
    varies = ordered[:, 0] > ordered[np.arange(len(ordered)), last]
    several = last > 0
    ordered, times = ordered[varies], None if times is None else times[varies]
    facts: dict[str, Any] = {
        "lists": len(real),
        "list_size": float(np.median(_counts(given, item_weight)[filled])),
        "not_finite": int(np.count_nonzero(given & ~finite)),
        "single": float(np.mean(~several)),
        "constant": float(np.mean(several & ~varies)),
        **_ties(ordered),
        **_range(real),
    }
    if not len(ordered):
        return Examination(**facts, findings=_findings(facts, None))
    facts |= _shape(ordered, times)
    facts |= {"effective": {}, "histograms": {}}
    for transform in TRANSFORMS:
        targets = _Targets(ordered, times, transform)
        facts["effective"][transform] = targets.curve()
        facts["histograms"][transform] = targets.histogram()
    kind = _kind(ordered, facts)
    proposal = _propose(_Targets(ordered, times, _REMEDIES[kind][0]), facts, kind)
    return Examination(**facts, findings=_findings(facts, kind), proposal=proposal)


def _counts(mask: BoolArray, item_weight: npt.ArrayLike | None) -> FloatArray:
    """Number of items that the candidates of each list stand for."""
    weight = 1.0 if item_weight is None else np.asarray(item_weight, np.float64)
    return np.asarray(np.where(mask, weight, 0.0).sum(axis=1))


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


def _shape(ordered: FloatArray, times: FloatArray | None) -> dict[str, Any]:
    """Deviations, z-scores of the first ranks and kurtosis of lists that vary."""
    real = ~np.isnan(ordered)
    z = standardise(np.where(real, ordered, 0.0), real, times).numpy()
    shares = np.where(real, 1.0 if times is None else times, 0.0)
    shares /= shares.sum(axis=1, keepdims=True)
    kurtosis = (z**4 * shares).sum(axis=1) - 3.0
    at_rank = {
        str(rank): float(z[real[:, rank - 1], rank - 1].mean())
        for rank in RANKS
        if rank <= z.shape[1] and real[:, rank - 1].any()
    }
    scale = np.nanmax(np.abs(ordered), axis=1, keepdims=True)  # keeps squares finite
    parts = np.where(real, ordered / scale, 0.0)
    gaps = parts - (parts * shares).sum(axis=1, keepdims=True)
    deviations = np.sqrt((gaps**2 * shares).sum(axis=1)) * scale[:, 0]
    return {
        "deviations": tuple(np.percentile(deviations, [10, 50, 90]).tolist()),
        "z_at_rank": at_rank,
        "kurtosis": float(np.median(kurtosis)),
    }


class _Targets:
    """Soft targets of lists with transformed scores, at any temperature."""

    def __init__(
        self, ordered: FloatArray, times: FloatArray | None, transform: Transform
    ) -> None:
        self._mask = ~np.isnan(ordered)
        scores = np.where(self._mask, ordered, 0.0)
        self._scores = tf.convert_to_tensor(
            transformed(scores, self._mask, transform, times)
        )
        dtype = self._scores.dtype
        self._times = None if times is None else tf.constant(times, dtype)

    def effective(self, temperature: float) -> float:
        """Effective number of candidates, geometric mean over the lists."""
        divisor = tf.constant(temperature, self._scores.dtype)
        number = _effective(self._scores, self._mask, divisor, self._times).numpy()
        return float(np.exp(np.log(number).mean()))

    def curve(self) -> dict[str, float]:
        """Effective number of candidates by temperature."""
        return {f"{t:.4g}": _rounded(self.effective(t)) for t in TEMPERATURES}

    def histogram(self) -> ScoreHistogram:
        """Histogram of the transformed scores, without the most extreme ones."""
        scores = np.asarray(self._scores, np.float64)[self._mask]
        scores = scores[np.isfinite(scores)]  # the largest overflow a float32
        if not len(scores):
            return ScoreHistogram(low=0.0, high=0.0, counts=())
        low, high = np.quantile(scores, [EXTREME, 1 - EXTREME]).tolist()
        if not low < high:
            low, high = float(scores.min()), float(scores.max())
        low, high = _rounded(low), _rounded(high)
        if not low < high:
            return ScoreHistogram(low=low, high=high, counts=(len(scores),))
        counts, _ = np.histogram(scores.clip(low, high), BINS, (low, high))
        return ScoreHistogram(low=low, high=high, counts=tuple(counts.tolist()))

    def temperature(self, wanted: float) -> float:
        """Temperature with that effective number of candidates, to two digits."""
        low, high = np.log(1e-3), np.log(1e3)
        while high - low > 1e-3:  # the number rises with the temperature
            middle = (low + high) / 2
            if self.effective(float(np.exp(middle))) < wanted:
                low = middle
            else:
                high = middle
        return float(f"{np.exp((low + high) / 2):.2g}")


def _findings(facts: dict[str, Any], kind: _Kind | None) -> tuple[str, ...]:
    """Problems found, as sentences, the worst first."""
    found = []
    if facts["not_finite"]:
        found.append(
            f"{facts['not_finite']:,} scores are NaN or infinite; no loss can use them."
        )
    if facts["single"] >= CONSTANT_LISTS:
        found.append(
            f"{facts['single']:.0%} of the lists have fewer than two finite scores: "
            "they teach nothing. If they have one candidate each, check which column "
            "names the lists."
        )
    if facts["constant"] >= CONSTANT_LISTS:
        found.append(
            f"{facts['constant']:.0%} of the lists have the same score for all "
            "candidates: they teach nothing."
        )
    if kind == "probabilities":
        found.append(
            f"All scores lie between {facts['low']:.3g} and {facts['high']:.3g}: they "
            "look like probabilities, but a softmax expects log-odds."
        )
    elif kind == "heavy":
        shown = ", ".join(f"{z:.3g} at rank {r}" for r, z in facts["z_at_rank"].items())
        found.append(
            f"The tail is heavy: z-scores are {shown}; the excess kurtosis is "
            f"{facts['kurtosis']:.3g}, above 6. A softmax of them is nearly one-hot."
        )
    elif kind == "squashed":
        found.append(
            "The scores of the best candidates are squashed together: the first has a "
            f"z-score of {facts['z_at_rank']['1']:.3g}, the tenth of "
            f"{facts['z_at_rank']['10']:.3g}."
        )
    if facts["top_ties"] >= TOP_TIES:
        found.append(
            f"{facts['top_ties']:.0%} of adjacent candidates in the top ten have equal "
            "scores, so their order is lost. Store more digits, or do not clip scores."
        )
    low, _, high = facts.get("deviations", (0.0, 0.0, 0.0))
    if high > 10 * low:
        found.append(
            "Lists differ in scale: a tenth of them have a standard deviation below "
            f"{low:.3g}, a tenth above {high:.3g}. A single temperature fits them only "
            "after a transform."
        )
    return tuple(found)


def _propose(targets: _Targets, facts: dict[str, Any], kind: _Kind) -> Proposal:
    transform, because = _REMEDIES[kind]
    temperature = targets.temperature(_wanted(facts["list_size"]))
    effective = _rounded(targets.effective(temperature))
    return Proposal(
        transform=transform,
        temperature=temperature,
        effective=effective,
        reason=(
            f"{because}; at temperature {temperature:g} the soft targets have "
            f"{effective:.3g} effective candidates of {facts['list_size']:,.0f}."
        ),
    )


def _rounded(number: float) -> float:
    """Round to six digits: the last digits of a parallel sum may differ."""
    return float(f"{number:.6g}")


def _wanted(list_size: float) -> float:
    """Desired effective number of candidates for lists of this size.

    For short lists it is FEWEST, or halfway between 1 and the size if that is less.
    """
    least = min(FEWEST, (1.0 + max(2.0, list_size)) / 2)
    return min(TARGET, max(least, TARGET_SHARE * list_size))


def _kind(ordered: FloatArray, facts: dict[str, Any]) -> _Kind:
    """Kind of distribution of the scores, from lists that vary."""
    if facts["low"] >= 0.0 and facts["high"] <= 1.0:
        lowest = np.nanmin(ordered, axis=1)
        # If most lists span exactly 0 to 1, their scores were min-max scaled.
        if np.mean((ordered[:, 0] == 1.0) & (lowest == 0.0)) < 0.5:
            return "probabilities"
    if facts["kurtosis"] > HEAVY:
        return "heavy"
    z = facts["z_at_rank"]
    if facts["list_size"] >= LONG and "10" in z and z["1"] - z["10"] < BUNCHED:
        return "squashed"
    return "well shaped"
