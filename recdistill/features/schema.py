"""Schema: the fitted features of a query and of a candidate.

A schema turns raw features into looked-up ones (see `recdistill.features.encoders`),
and is saved as JSON with one Parquet file for each vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from recdistill.errors import DataError
from recdistill.features.encoders import (
    Encoder,
    HistoryEncoder,
    VocabularyEncoder,
    build_encoder,
)
from recdistill.features.specs import SPECS, AffinitySpec


class Schema(tf.Module):  # type: ignore[misc]
    """The fitted features of a query and of a candidate.

    Args:
        query: Encoders of the query's features.
        candidate: Encoders of the candidate's features.
        affinity: Specifications of pair features, by name. They have no raw input.
        item_id: Name of the candidate feature that identifies the item.
    """

    def __init__(
        self,
        query: Iterable[Encoder],
        candidate: Iterable[Encoder],
        affinity: Mapping[str, AffinitySpec],
        item_id: str,
    ) -> None:
        super().__init__(name="schema")
        self.query = tuple(query)
        self.candidate = tuple(candidate)
        self.affinity = dict(affinity)
        self.item_id = item_id

    @property
    def items(self) -> VocabularyEncoder:
        """The encoder of the item id.

        Raises:
            ValueError: If `candidate` does not have the item id as a feature of kind
                `id`.
        """
        for encoder in self.candidate:
            if encoder.feature == self.item_id and isinstance(
                encoder, VocabularyEncoder
            ):
                return encoder
        raise ValueError(
            f"`candidate` must have the item id {self.item_id!r} as a feature of kind "
            f"'id'. Received: {[e.feature for e in self.candidate]}"
        )

    @property
    def history(self) -> HistoryEncoder | None:
        """The encoder of the query's history; None if the query has no history."""
        found = [e for e in self.query if isinstance(e, HistoryEncoder)]
        return found[0] if found else None

    def for_student(self) -> Schema:
        """A schema without the features that only the teacher may read."""
        return Schema(
            [e for e in self.query if not e.spec.teacher_only],
            [e for e in self.candidate if not e.spec.teacher_only],
            {},
            self.item_id,
        )

    def lookup_query(self, raw: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Maps raw query inputs `(batch, …)`, by name, to looked-up features.

        Raises:
            ValueError: If an input is missing or has a wrong type or shape.
        """
        return {e.feature: e.lookup(_tensors(e, raw)) for e in self.query}

    def lookup_candidates(self, raw: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Maps raw candidate inputs `(n, …)`, by name, to looked-up features.

        Raises:
            ValueError: If an input is missing or has a wrong type or shape.
        """
        return {e.feature: e.lookup(_tensors(e, raw)) for e in self.candidate}

    def save(self, folder: Path) -> None:
        """Writes `schema.json` and one Parquet file for each vocabulary."""
        document: dict[str, Any] = {"item_id": self.item_id, "affinity": {}}
        for side in ("query", "candidate"):
            document[side] = {}
            for encoder in getattr(self, side):
                document[side][encoder.feature] = {
                    "spec": encoder.spec.model_dump(),
                    "state": encoder.state(),
                }
                if isinstance(encoder, VocabularyEncoder):
                    pq.write_table(
                        pa.table({"value": encoder.values}),
                        _vocabulary_path(folder, side, encoder.feature),
                    )
        for name, spec in self.affinity.items():
            document["affinity"][name] = spec.model_dump()
        (folder / "schema.json").write_text(json.dumps(document, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Schema:
        """Reads a schema that `save` wrote.

        Raises:
            DataError: If the item id has no vocabulary.
        """
        document = json.loads((folder / "schema.json").read_text())

        def build(side: str, items: VocabularyEncoder | None) -> list[Encoder]:
            encoders = []
            for name, entry in document[side].items():
                spec = SPECS[entry["spec"]["kind"]].model_validate(entry["spec"])
                path = _vocabulary_path(folder, side, name)
                state = dict(entry["state"])
                if path.exists():
                    values = pq.read_table(path)["value"]
                    state["vocabulary"] = values.combine_chunks()
                encoders.append(build_encoder(name, spec, state, items))
            return encoders

        candidate = build("candidate", None)
        own = [e for e in candidate if e.feature == document["item_id"]]
        items = own[0] if own else None
        if not isinstance(items, VocabularyEncoder):
            raise DataError(
                f"{folder / 'schema.json'} has no vocabulary for the item id."
            )
        affinity = {
            name: AffinitySpec.model_validate(spec)
            for name, spec in document["affinity"].items()
        }
        return cls(build("query", items), candidate, affinity, document["item_id"])


def _vocabulary_path(folder: Path, side: str, feature: str) -> Path:
    # The feature's name comes from a configuration file: quoting keeps it inside the
    # folder and gives each name its own file.
    return folder / f"vocabulary-{side}-{quote(feature, safe='')}.parquet"


def _tensors(encoder: Encoder, raw: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    tensors = {}
    for name, spec in encoder.raw_inputs().items():
        if name not in raw:
            raise ValueError(
                f"`raw` must have the input {name!r} of feature {encoder.feature!r}. "
                f"Received: {sorted(raw)}"
            )
        try:
            tensors[name] = tf.convert_to_tensor(raw[name], spec.dtype)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`raw` must have {spec.dtype.name} values for {name!r}. "
                f"Received: {raw[name]!r}"
            ) from error
        if not spec.shape.is_compatible_with(tensors[name].shape):
            raise ValueError(
                f"`raw` must have values of shape {spec.shape} for {name!r}. "
                f"Received: shape {tensors[name].shape}"
            )
    return tensors
