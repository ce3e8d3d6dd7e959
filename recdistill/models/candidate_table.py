"""Candidate table: the looked-up features of a catalogue, stored inside a model."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self
from weakref import WeakValueDictionary

import keras
import numpy as np
import tensorflow as tf

FILE = "candidate_table.npz"

_LIVE: WeakValueDictionary[str, CandidateTable] = WeakValueDictionary()
"""Tables of this process by checksum; models made from a config share their arrays."""


@keras.saving.register_keras_serializable("recdistill")
class CandidateTable(keras.layers.Layer):  # type: ignore[misc]
    """Looked-up features of all candidates, gathered by candidate index.

    The features are constants, not weights: they do not count as parameters, and
    `get_weights` and `.weights.h5` files do not contain them. A `.keras` file stores
    them as an asset, and its config has their checksum only.

    Args:
        features: Looked-up features of all candidates, each `(items, …)`; None if they
            are loaded from a file later (`load_assets`).

    Examples:
        >>> table = CandidateTable({"item_id": np.array([2, 3, 4])})
        >>> table(tf.constant([2, 0]))["item_id"].numpy()
        array([4, 2])
        >>> table.count_params()
        0
    """

    def __init__(
        self, features: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**{"name": "candidate_table", "trainable": False, **kwargs})
        self.built = True
        self._checksum = ""
        self._features: dict[str, np.ndarray] | None = None
        if features is not None:
            self._assign({name: np.asarray(v) for name, v in features.items()})

    def _assign(self, features: dict[str, np.ndarray]) -> None:
        self._features, self._checksum = features, _checksum(features)

    def call(self, index: tf.Tensor) -> dict[str, tf.Tensor]:
        """Features of the candidates, each `index.shape + (…)`.

        Raises:
            ValueError: If the table is empty, because its model was made from a config
                alone.
        """
        return {name: tf.gather(v, index) for name, v in self.all().items()}

    @property
    def size(self) -> int:
        """Number of candidates."""
        return len(next(iter(self.all().values())))

    def all(self) -> Mapping[str, np.ndarray]:
        """Features of all candidates, each `(items, …)`.

        Raises:
            ValueError: As `call`.
        """
        if self._features is None:
            raise ValueError(
                "The candidate table is empty: the model was made from a config. Load "
                "the model from its `.keras` file, or construct it with a `catalogue`."
            )
        return self._features

    def get_config(self) -> dict[str, Any]:
        """The checksum of the features."""
        if self._features is not None:
            _LIVE[self._checksum] = self
        return {**super().get_config(), "checksum": self._checksum}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> CandidateTable:
        """Creates a table; it has features only if a table of this process has them."""
        rest = {k: v for k, v in config.items() if k != "checksum"}
        live = _LIVE.get(config["checksum"])
        return cls(live._features if live else None, **rest)

    @classmethod
    def of(
        cls, catalogue: Mapping[str, Any] | CandidateTable, names: Collection[str]
    ) -> CandidateTable:
        """The table of a catalogue's features with these names; a table unchanged."""
        if isinstance(catalogue, CandidateTable):
            return catalogue
        return cls({k: v for k, v in catalogue.items() if k in names})

    def save_assets(self, dir_path: str) -> None:
        """Writes the features into a folder of a `.keras` file."""
        features = self._features or {}
        names = np.array(list(features), dtype=np.str_)
        np.savez(Path(dir_path) / FILE, names, *features.values())

    def load_assets(self, dir_path: str) -> None:
        """Reads the features from a folder of a `.keras` file."""
        with np.load(Path(dir_path) / FILE, allow_pickle=False) as arrays:
            names, *features = (arrays[key] for key in arrays.files)
        self._assign(dict(zip(names.tolist(), features, strict=True)))


class CatalogueModel(keras.Model):  # type: ignore[misc]
    """Base class of models that contain a candidate table and other layers.

    `get_config` of a subclass serialises these layers with
    `keras.saving.serialize_keras_object`.
    """

    def _resolve_auto_jit_compile(self) -> bool:
        """Whether Keras chooses XLA by itself.

        It would with an accelerator. XLA cannot compile the search for the distinct
        candidates of lists with candidates of their own.
        """
        return False

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> Self:
        """Creates the model from `get_config`."""
        return cls(**keras.saving.deserialize_keras_object(config, custom_objects))


def _checksum(features: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, values in features.items():
        digest.update(f"{name}:{values.dtype.str}:{values.shape};".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
