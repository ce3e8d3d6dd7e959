"""The report of a run, `report.json`: what was kept, what it costs, how it was found.

The document is typed and versioned. What depends on the clock or the machine stands
under keys of its own (`latency_ms`, `timings_s`, `environment`); everything else is the
same for the same inputs, and `metrics_fingerprint` says so in one string. A number that
could not be computed is null with its reason: NaN and infinity are not JSON.

`receipt.py` shows a report in the terminal.
"""

import hashlib
import json
import math
import os
import platform
from collections.abc import Iterable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
)

from recdistill.atomic import whole
from recdistill.evaluation.intervals import Interval, Slice
from recdistill.evaluation.latency.stopwatch import Latency

ModelName = Literal["popularity", "baseline", "distilled", "teacher"]
Count = Annotated[int, Field(ge=0)]

_PACKAGES = ("tensorflow", "keras", "keras-rs", "numpy", "pyarrow", "pandas")


def _read_interval(value: Any) -> Any:
    """An interval from its JSON form; numbers that are not finite become None."""
    if isinstance(value, dict):
        low, high = value.get("ci") or (None, None)
        value = Interval(value["value"], low, high, value.get("reason"))
    if isinstance(value, Interval):
        numbers = (value.value, value.low, value.high)
        if not all(number is None or math.isfinite(number) for number in numbers):
            reason = value.reason or "the number is not finite"
            finite = value.value is not None and math.isfinite(value.value)
            kept = value.value if finite else None
            return replace(value, value=kept, low=None, high=None, reason=reason)
    return value


def _write_interval(interval: Interval) -> dict[str, JsonValue]:
    ends: list[JsonValue] = [interval.low, interval.high]
    document: dict[str, JsonValue] = {
        "value": interval.value,
        "ci": None if interval.low is None else ends,
    }
    if interval.reason is not None:
        document["reason"] = interval.reason
    return document


def _read_slice(value: Any) -> Any:
    if not isinstance(value, (dict, Slice)):
        return value
    fields = value if isinstance(value, dict) else vars(value)
    metrics = {name: _read_interval(one) for name, one in fields["metrics"].items()}
    return Slice(fields["lists"], fields["queries"], metrics)


def _write_slice(part: Slice) -> dict[str, JsonValue]:
    return {
        "lists": part.lists,
        "queries": part.queries,
        "metrics": {name: _write_interval(one) for name, one in part.metrics.items()},
    }


def _json_safe(value: Any) -> Any:
    """The same settings with `inf` and `nan` as words, paths as text."""
    if isinstance(value, dict):
        return {str(key): _json_safe(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_safe(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, os.PathLike) else value


def _rounded(value: Any) -> Any:
    """The same document, its numbers to nine significant digits."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


Estimate = Annotated[
    Interval, BeforeValidator(_read_interval), PlainSerializer(_write_interval)
]
SliceEstimate = Annotated[
    Slice, BeforeValidator(_read_slice), PlainSerializer(_write_slice)
]
Settings = Annotated[dict[str, JsonValue], BeforeValidator(_json_safe)]
Estimates = dict[str, Estimate]


class _Part(BaseModel):
    """A part of the report: unknown keys and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class DatasetPart(_Part):
    """What the run was trained and judged on.

    Attributes:
        name: As people call it.
        fingerprint: Hash of the prepared data.
        interactions: How many interactions were read.
        queries: How many different queries.
        items: How many items the catalogue has.
        lists: How many lists each split has.
    """

    name: str
    fingerprint: str
    interactions: Count
    queries: Count
    items: Count
    lists: dict[str, Count]


class ProtocolPart(_Part):
    """How the numbers were obtained; numbers of different protocols do not compare.

    Attributes:
        split: Which lists were judged, say "test".
        lists: How many they are.
        candidates: "full" for the whole catalogue, "sampled:N", or "listed" for those
            that a teacher of some scores has scored, and lists with a positive there.
        masked_seen: Whether items that the query had seen were left out of the ranking.
        unreachable: Lists whose positive is not in the catalogue; they count 0.
        resample: What the intervals resample.
        resamples: How often.
        confidence: Of the intervals.
    """

    split: str
    lists: Count
    candidates: Annotated[
        str, Field(pattern=r"^(full|listed|sampled:[1-9][0-9]*)$")
    ] = "full"
    masked_seen: bool
    unreachable: Count = 0
    resample: Literal["query"] = "query"
    resamples: Count = 1000
    confidence: float = 0.95


class ModelPart(_Part):
    """One model: how well it ranks and what it costs.

    Attributes:
        metrics: The mean of each metric over the lists.
        slices: By kind of slice, then by slice: the same over part of the lists.
        parameters: How many numbers were learnt; None where that cannot be said.
        flops_per_query: Of matrix products (`recdistill.evaluation.latency.flops`), to
        score one
            query's candidates, as many as latency is first given for; None where not
            counted.
        size_bytes: On disk, as it would be served; None where not measured.
        latency_ms: By number of candidates ("100", "1000").
        latency_reason: Why there is none; None where nothing is to be said.
    """

    metrics: Estimates
    slices: dict[str, dict[str, SliceEstimate]] = {}
    parameters: Count | None = None
    flops_per_query: Count | None = None
    size_bytes: Count | None = None
    latency_ms: dict[str, Latency] = {}
    latency_reason: str | None = None


class GatePart(_Part):
    """Whether the teacher was worth distilling, decided on validation.

    Attributes:
        passed: Whether it was.
        overridden: Whether the run went on all the same, at the user's word.
        message: The decision in one sentence, with its numbers.
        differences: What it rests on, by name.
        lists: How many validation lists the teacher scored.
        constant_lists: How many of them have one score for all candidates.
        not_finite: How many scores were NaN or infinite.
        trained_on: How many lists of "valid" and "test" the teacher was trained on;
            None where that is not known.
    """

    passed: bool
    overridden: bool = False
    message: str
    differences: Estimates = {}
    lists: Count = 0
    constant_lists: Count = 0
    not_finite: Count = 0
    trained_on: dict[str, Count] | None = None


class SoftTargetsPart(_Part):
    """What the student was shown of the teacher's scores.

    Attributes:
        transform: Of the scores, list by list
        (`recdistill.distillation.score_transforms`).
        teacher_temperature: Divides the transformed scores.
        temperature: Temperature of the loss, which divides both sides.
        chosen_by: "doctor" where the configuration left something to it.
        effective: How many candidates of a list the soft targets are about; None where
            that is not known.
        list_size: Of how many.
        findings: What the score doctor says of the scores.
        reason: Of the doctor's proposal.
    """

    transform: str
    teacher_temperature: float
    temperature: float
    chosen_by: Literal["configuration", "doctor"]
    effective: float | None = None
    list_size: float
    findings: tuple[str, ...] = ()
    reason: str | None = None


class Report(_Part):
    """The whole of `report.json`, version 1.

    Attributes:
        schema_version: Changes when a reader of the document would have to.
        name: Of the run.
        seed: Of the run.
        dataset: What it was trained and judged on.
        protocol: How it was judged.
        models: The distilled student beside what it must be compared to.
        gap_closed: By metric: (distilled - baseline) / (teacher - baseline).
        kept: By metric: distilled / teacher.
        differences: By pair ("teacher_minus_baseline", …), then by metric.
        agreement: How alike student and teacher order the candidates.
        speedup: By number of candidates: how many times faster the distilled student
            is than the teacher, timed in turns.
        gate: The decision to distil; None where there was none.
        soft_targets: What the student was shown; None where it is not known.
        timings_s: Seconds by step.
        environment: Versions and machine, as from `describe_environment`.
        config: The settings of the run, defaults filled in.
    """

    schema_version: Literal[1] = 1
    name: str
    seed: int
    dataset: DatasetPart
    protocol: ProtocolPart
    models: dict[ModelName, ModelPart]
    gap_closed: Estimates = {}
    kept: Estimates = {}
    differences: dict[str, Estimates] = {}
    agreement: Estimates = {}
    speedup: dict[str, float] = {}
    gate: GatePart | None = None
    soft_targets: SoftTargetsPart | None = None
    timings_s: dict[str, float] = {}
    environment: Settings = {}
    config: Settings = {}

    def to_json(self) -> str:
        """The document: the same text for the same report, and strictly JSON.

        Raises:
            ValueError: A number is not finite, which JSON cannot say.
        """
        document = self.model_dump(mode="json")
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        return text + "\n"

    def metrics_fingerprint(self) -> str:
        """A hash of all that the same inputs must give again.

        Times, the machine and the packages are left out, so two runs of one config can
        be compared in one word. Numbers count to nine digits, since a parallel sum may
        differ in its last bit from run to run.
        """
        document = self.model_dump(
            mode="json", exclude={"speedup", "timings_s", "environment"}
        )
        for model in document["models"].values():
            del model["latency_ms"]
        canonical = json.dumps(_rounded(document), sort_keys=True, allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the document, so that a reader sees the old or the new one, whole.

        Args:
            path: The file; its folder must exist.

        Raises:
            OSError: The file cannot be written.
            ValueError: As `to_json`.
        """
        text = self.to_json()
        with whole(Path(path)) as aside:
            aside.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a document back.

        Args:
            path: The file.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is not a report of this version.
        """
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        version = document.get("schema_version") if isinstance(document, dict) else None
        if version != 1:
            raise ValueError(
                "`schema_version` of a report must be 1. "
                f"Received: schema_version={version} in {path}"
            )
        return cls.model_validate(document)


def describe_environment(packages: Iterable[str] = _PACKAGES) -> dict[str, JsonValue]:
    """Versions and machine that the numbers of a report depend on.

    Args:
        packages: Distributions whose versions are wanted; those not installed are
            left out.

    Returns:
        `python`, `platform`, `cpu`, `cores` (those this process may use) and
        `packages`. Neither the host's nor the user's name.
    """
    versions: dict[str, JsonValue] = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": _usable_cores(),
        "packages": versions,
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
