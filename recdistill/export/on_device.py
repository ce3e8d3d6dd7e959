"""Query tower for LiteRT (TensorFlow Lite), stored next to the SavedModel of a version.

The device encodes its own user, so the history does not have to leave the device; only
the embedding is sent or compared. LiteRT does not have the string operations of the
SavedModel (lower-casing, splitting and hashing of text, a default for unknown values),
so this model takes looked-up features. `query_tower.json` contains the vocabularies and
the rules for looking up raw values. To look up a history, a program needs only a
dictionary and has to reverse the order, which takes a few lines in any language.

The check needs the `litert` extra; the conversion uses TensorFlow only.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from recdistill.errors import ExportError
from recdistill.export.layout import QUERY_TOWER, QUERY_TOWER_DESCRIPTION
from recdistill.export.parity import TOLERANCE
from recdistill.features.encoders import (
    FIRST,
    MISSING,
    UNKNOWN,
    Encoder,
    NumberEncoder,
    TextEncoder,
    VocabularyEncoder,
)
from recdistill.features.schema import Schema
from recdistill.models.two_tower import TwoTowerStudent
from recdistill.retrieval.exact import bounded

__all__ = ["export_query_tower", "query_tower_embeddings"]

SIGNATURE = "encode_query"

WIDTH = 16
"""Number of categories that the model takes, unless real queries have more."""

_RULES = {
    "id": "index in `vocabulary` + 2; 1 if missing from it; 0 if empty",
    "category": "index in `vocabulary` + 2; 1 if missing from it; 0 if empty",
    "categories": (
        "for each of up to `width` values: index in `vocabulary` + 2, 1 if missing; "
        "padded with 0"
    ),
    "history": (
        "for the last `width` item ids, the newest first: index in `items` + 2, 1 if "
        "not there; padded with 0"
    ),
    "number": "two values: (x - mean) / deviation and 0; or 0 and 1 if x is missing",
    "text": (
        "lower-case; all but letters, marks and digits become spaces; for each of the "
        "first `width` words FarmHash Fingerprint64 of its UTF-8 bytes, modulo "
        "`buckets`, + 1; padded with 0"
    ),
    "vector": "the values; 0 for one that is not finite",
}


def export_query_tower(
    student: TwoTowerStudent,
    schema: Schema,
    folder: Path,
    looked_up: Mapping[str, tf.Tensor],
) -> float:
    """Writes the query tower with its vocabularies, and compares it with the student.

    Args:
        student: The trained student.
        schema: Its features, without those for the teacher only.
        folder: Folder of the version; the files are written to its `assets.extra`.
        looked_up: Looked-up features of real queries by name, each `(queries, …)`.

    Returns:
        The largest difference of an entry, relative to the largest entry of its
        embedding if that exceeds 1.

    Raises:
        ExportError: If the difference is above 1e-5.
        ImportError: If the `litert` extra is not installed.
    """
    looked_up = {n: _of_fixed_width(schema, n, v) for n, v in looked_up.items()}
    specs = {
        name: tf.TensorSpec([None, *value.shape[1:]], value.dtype, name)
        for name, value in looked_up.items()
    }

    def encode(**features: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding": bounded(student.encode_query(features, training=False))}

    module = tf.Module(name="query_tower")
    function = tf.function(encode, autograph=False).get_concrete_function(**specs)
    module.weights = list(function.graph.variables)
    with tempfile.TemporaryDirectory() as scratch:
        tf.saved_model.save(module, scratch, signatures={SIGNATURE: function})
        converter = tf.lite.TFLiteConverter.from_saved_model(
            scratch, signature_keys=[SIGNATURE]
        )
        content = converter.convert()
    (folder / QUERY_TOWER).parent.mkdir(exist_ok=True)
    (folder / QUERY_TOWER).write_bytes(content)
    widths = {n: int(v.shape[1]) for n, v in looked_up.items() if v.shape.rank == 2}
    text = json.dumps(_description(schema, widths), indent=1, ensure_ascii=False)
    (folder / QUERY_TOWER_DESCRIPTION).write_text(text, encoding="utf-8")
    want = encode(**looked_up)["embedding"].numpy()
    got = query_tower_embeddings(folder, {k: v.numpy() for k, v in looked_up.items()})
    scale = np.maximum(np.abs(want).max(axis=1, keepdims=True), 1)
    difference = float((np.abs(got - want) / scale).max())
    if not difference <= TOLERANCE:
        raise ExportError(
            "The query tower for LiteRT must encode as the live student does. "
            f"Received: max |Δ| {difference:.2g} where {TOLERANCE:g} is allowed"
        )
    return difference


def query_tower_embeddings(
    folder: Path, looked_up: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Embeddings from the query tower of a version, computed with LiteRT.

    Args:
        folder: The version.
        looked_up: Looked-up features by name, each `(queries, …)`.

    Returns:
        `(queries, dim)` float32.

    Raises:
        ImportError: If the `litert` extra is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(
            "LiteRT must be installed to run a query tower on this machine: "
            "pip install 'recdistill[litert]'"
        ) from error
    runner = Interpreter(str(folder / QUERY_TOWER)).get_signature_runner(SIGNATURE)
    embedding: np.ndarray = runner(**looked_up)["embedding"]
    return embedding


def _of_fixed_width(schema: Schema, name: str, value: tf.Tensor) -> tf.Tensor:
    """Looked-up values, with several categories padded to a fixed width with 0.

    LiteRT cannot broadcast an axis of unknown size.
    """
    [encoder] = [e for e in schema.query if e.feature == name]
    if encoder.spec.kind != "categories":
        return value
    missing = max(WIDTH - int(value.shape[1]), 0)
    return tf.pad(value, [[0, 0], [0, missing]], constant_values=MISSING)


def _description(schema: Schema, widths: Mapping[str, int]) -> dict[str, Any]:
    """Description of the model's inputs and of their lookup rules, JSON-ready."""
    features = {e.feature: _feature(e) for e in schema.query}
    for name, width in widths.items():
        features[name]["width"] = width
    document: dict[str, Any] = {
        "format": 1,
        "signature": SIGNATURE,
        "indices": {"missing": MISSING, "unknown": UNKNOWN, "first": FIRST},
        "features": features,
    }
    if schema.history is not None:
        document["items"] = list(schema.history.items.vocabulary)
    return document


def _feature(encoder: Encoder) -> dict[str, Any]:
    feature: dict[str, Any] = {
        "kind": encoder.spec.kind,
        "rule": _RULES[encoder.spec.kind],
    }
    if isinstance(encoder, VocabularyEncoder):
        feature["vocabulary"] = list(encoder.vocabulary)
    elif isinstance(encoder, NumberEncoder):
        feature |= encoder.state()
    elif isinstance(encoder, TextEncoder):
        feature["buckets"] = encoder.buckets
    return feature
