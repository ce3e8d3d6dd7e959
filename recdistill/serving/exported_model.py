"""A version of an export that answers queries in this process, without a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from recdistill.export.layout import find_version, read_manifest, verified_manifest
from recdistill.export.title_file import titles_of
from recdistill.features.encoders import UNKNOWN
from recdistill.serving.client.contract import (
    Query,
    SignatureContract,
    TensorContract,
    batch_of,
    ids_of,
)
from recdistill.serving.client.protocols import Answer
from recdistill.serving.client.recommendations import (
    Recommendation,
    Results,
    recommend_inputs,
    recommendations,
)


class ExportedModel:
    """A version of an export that answers queries in this process.

    Args:
        export: The model's folder, for its latest version, or the folder of a version.

    Attributes:
        path: The SavedModel's folder.
        manifest: Content of `assets.extra/recdistill.json`.
        contracts: Inputs and outputs of each signature.

    Raises:
        NotAnExportError: If there is no SavedModel with a manifest.
        ArtefactError: If a file is damaged.
    """

    def __init__(self, export: Path) -> None:
        self.path = find_version(export)
        self.manifest = read_manifest(self.path)
        self.contracts = {
            name: _contract(entry)
            for name, entry in self.manifest["signatures"].items()
        }
        try:
            self._model = tf.saved_model.load(str(self.path))
        except Exception:
            # Names the damaged file, which TensorFlow does not.
            verified_manifest(self.path)
            raise

    @property
    def features(self) -> SignatureContract:
        """The contract of a query."""
        return self.contracts["serving_default"]

    def recommend(
        self,
        queries: Sequence[Query],
        k: int,
        exclude: Sequence[Sequence[str]] = (),
        allow: Sequence[Sequence[str] | None] | None = None,
    ) -> Results[Recommendation]:
        """The top items for each query, as `recdistill.serving.Client.recommend`.

        Raises:
            QueryError: If an argument does not fit the model.
        """
        contract = self.contracts["recommend"]
        inputs = recommend_inputs(contract, queries, k, exclude, allow)
        outputs = self.run("recommend", inputs)
        decode = np.vectorize(bytes.decode, otypes=[object])
        outputs["item_ids"] = decode(outputs["item_ids"])
        answer = Answer(outputs, int(self.manifest["version"]))
        return recommendations(answer, inputs["k"])

    def run(
        self, signature: str, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Outputs of a signature as arrays, by name.

        Args:
            signature: Its name.
            inputs: Arrays by input name, of the types of the signature.
        """
        outputs = self._model.signatures[signature](**self._tensors(signature, inputs))
        return {name: value.numpy() for name, value in outputs.items()}

    def in_catalogue(self, query: Query, ids: Sequence[str]) -> np.ndarray:
        """`(ids,)` bool: whether the catalogue has the items.

        Args:
            query: Any query that fits the model.
            ids: Item ids, at least one.
        """
        inputs = batch_of(self.features, [query])
        inputs["candidate_ids"] = ids_of("candidates", [ids], 1, led=False)
        return np.asarray(self.run("rank", inputs)["known"][0, : len(ids)])

    def vocabulary_indices(
        self, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray] | None:
        """Vocabulary indices of query features, by feature with a vocabulary.

        Args:
            inputs: Query inputs, as for `serving_default`.

        Returns:
            As `recdistill.features.encoders` defines them; None if the model has no
            lookups that recdistill knows, because it has towers of others.
        """
        look_up = getattr(self._model, "query_indices", None)
        if look_up is None:
            return None
        found = look_up(self._tensors("serving_default", inputs))
        return {name: value.numpy() for name, value in found.items()}

    def unknown_values(self, query: Query) -> dict[str, list[str]]:
        """Values of a query that were not in the training data, by feature."""
        found = {}
        inputs = batch_of(self.features, [query])
        for name, index in (self.vocabulary_indices(inputs) or {}).items():
            values = inputs[name].reshape(-1)
            if name in self.features.histories:
                # The history is read from its end, and only its last items.
                values = values[: inputs[self.features.histories[name]][0]][::-1]
            unknown = np.flatnonzero(index.reshape(-1)[: len(values)] == UNKNOWN)
            if len(unknown):
                found[name] = list(dict.fromkeys(str(values[k]) for k in unknown))
        return found

    def titles(self, ids: Sequence[str]) -> dict[str, str]:
        """Titles of some items by id, without those that have none."""
        return titles_of(self.path, ids)

    def _tensors(
        self, signature: str, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        contract = self.contracts[signature].inputs
        return {
            name: tf.constant(
                value.tolist() if value.dtype == object else value,
                tf.as_dtype(contract[name].dtype),
            )
            for name, value in inputs.items()
        }


def _contract(entry: Mapping[str, Any]) -> SignatureContract:
    def tensors(side: str) -> dict[str, TensorContract]:
        return {
            name: TensorContract(each["dtype"], tuple(each["shape"]))
            for name, each in entry[side].items()
        }

    return SignatureContract(tensors("inputs"), tensors("outputs"))
