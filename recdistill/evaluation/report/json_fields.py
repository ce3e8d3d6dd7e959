"""Pydantic field types of the report: intervals, slices and settings as strict JSON.

An interval is written as `{"value": 0.25, "ci": [0.24, 0.26]}`. NaN and infinity are
not JSON, so such a number is written as null, together with a reason.
"""

import math
import os
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, JsonValue, PlainSerializer

from recdistill.evaluation.intervals import Interval, Slice

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)
"""Of a part of the report: unknown keys and numbers that are not finite are errors."""


def _read_interval(value: Any) -> Any:
    """Interval from its JSON form; numbers that are not finite become None."""
    if isinstance(value, dict):
        low, high = value.get("ci") or (None, None)
        value = Interval(value["value"], low, high, value.get("reason"))
    if isinstance(value, Interval):
        numbers = (value.value, value.low, value.high)
        if not all(number is None or math.isfinite(number) for number in numbers):
            reason = value.reason or "the number is not finite"
            finite = value.value is not None and math.isfinite(value.value)
            estimate = value.value if finite else None
            return replace(value, value=estimate, low=None, high=None, reason=reason)
    return value


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
        "metrics": {name: one.to_json() for name, one in part.metrics.items()},
    }


def _json_safe(value: Any) -> Any:
    """The same settings; `inf` and `nan` become words and paths become text."""
    if isinstance(value, dict):
        return {str(key): _json_safe(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_safe(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, os.PathLike) else value


def rounded(value: Any) -> Any:
    """The same JSON document with its numbers rounded to nine significant digits."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


Estimate = Annotated[
    Interval, BeforeValidator(_read_interval), PlainSerializer(Interval.to_json)
]
SliceEstimate = Annotated[
    Slice, BeforeValidator(_read_slice), PlainSerializer(_write_slice)
]
Settings = Annotated[dict[str, JsonValue], BeforeValidator(_json_safe)]
Estimates = dict[str, Estimate]
