"""Unknown values in the held-out lists, in the item table and for the teacher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from recdistill.errors import DataError
from recdistill.features.encoders import lookup_column
from recdistill.features.schema import Schema
from recdistill.features.specs import raw_column
from recdistill.features.unknown_values import UnknownValues, with_vocabulary
from recdistill.pipeline.preparation.feature_columns import FeatureColumns
from recdistill.teachers import ExternalTeacher


def check_known(unknown: Mapping[str, UnknownValues], features: FeatureColumns) -> None:
    """Checks that each query feature has a known value in a held-out list.

    Args:
        unknown: Unknown values of the query features, by split.
        features: The columns of the features.

    Raises:
        DataError: If no value of a feature is known.
    """
    held_out = UnknownValues()
    held_out.update(unknown["valid"])
    held_out.update(unknown["test"])
    places = {each.name: each for each in features.query}
    for name, values in held_out.everywhere().items():
        place = places.get(name)
        column = "" if place is None else f" (table `{place.table}`, `{place.column}`)"
        raise DataError(
            f"The query feature `{name}`{column} must have values of the training "
            f"part in the validation and test lists, or no model can use it. Received: "
            f"{values:,} values, none of which occurs in the training part. Remove the "
            "feature from `[query]`, or check its values and the split."
        )


def unknown_in_items(schema: Schema, items: pa.Table) -> UnknownValues:
    """Unknown values of the candidate features in the item table."""
    found = UnknownValues()
    for encoder in with_vocabulary(schema.candidate):
        name = encoder.spec.column or encoder.feature
        values = raw_column(items[name], encoder.spec, table="items", name=name)
        found.add(encoder.feature, lookup_column(encoder, values))
    return found


Unknown = Sequence[tuple[UnknownValues, set[str]]]
"""For each external member of a teacher, the values that it does not know, and the
inputs for which this cannot be known."""


def count_anew(members: Iterable[Any]) -> None:
    """Forgets what the members of a teacher have counted; they count items again."""
    for member in members:
        if isinstance(member, ExternalTeacher):
            member.count_anew()


def take_unknown(members: Iterable[Any]) -> Unknown:
    """What the members of a teacher have counted since this was called before."""
    external = [each for each in members if isinstance(each, ExternalTeacher)]
    found = [(each.unknown, each.uncounted) for each in external]
    for each in external:
        each.unknown, each.uncounted = UnknownValues(), set()
    return found


def unknown_to_teacher(
    members: Iterable[Any], taken: Iterable[Unknown] = (), whole: bool = True
) -> dict[str, Any]:
    """Values that the teacher does not know, for the record of a step.

    Args:
        members: The members of the teacher.
        taken: Results of `take_unknown`, in this process or others, which are added to
            what the members have counted.
        whole: Whether all lists were counted. Some lists may have unknown values only.

    Returns:
        `unknown` with the share of unknown values by input, and `uncounted` with the
        inputs of text whose vocabulary the teacher does not declare.

    Raises:
        TeacherError: If all lists were counted and an input has had no known value.
    """
    external = [each for each in members if isinstance(each, ExternalTeacher)]
    for counts in taken:
        for member, (unknown, uncounted) in zip(external, counts, strict=True):
            member.unknown.update(unknown)
            member.uncounted |= uncounted
    shares: dict[str, float] = {}
    for member in external:
        shares |= member.check_known() if whole else member.unknown.shares()
    names = sorted({name for member in external for name in member.uncounted})
    return {"unknown": shares, "uncounted": names}
