"""Trains and saves a TFRS ranking model, in its own process.

    TF_USE_LEGACY_KERAS=1 python train_tfrs.py PAIRS FOLDER

PAIRS is an .npz with `user_id`, `item_id`, `genre` (text, as bytes) and `label`. FOLDER
gets the SavedModel `model` and `expected.npz`: the scores of the first pairs.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras as keras


class Ranker(tfrs.Model):
    """The ranking tutorial's model: embeddings of user, item and genre, and an MLP."""

    def __init__(self, pairs: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.embeddings = {
            name: keras.Sequential(
                [
                    keras.layers.StringLookup(vocabulary=np.unique(pairs[name])),
                    keras.layers.Embedding(len(np.unique(pairs[name])) + 1, 16),
                ]
            )
            for name in ("user_id", "item_id", "genre")
        }
        self.ratings = keras.Sequential(
            [keras.layers.Dense(32, activation="relu"), keras.layers.Dense(1)]
        )
        self.task = tfrs.tasks.Ranking(
            loss=keras.losses.BinaryCrossentropy(from_logits=True)
        )

    def call(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        vectors = [layer(features[name]) for name, layer in self.embeddings.items()]
        return self.ratings(tf.concat(vectors, axis=1))

    def compute_loss(
        self, inputs: tuple[dict[str, tf.Tensor], tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        features, labels = inputs
        return self.task(labels=labels, predictions=self(features))


def main(source: Path, folder: Path) -> None:
    """Trains on all pairs for two epochs."""
    keras.utils.set_random_seed(1)
    with np.load(source) as arrays:
        pairs = dict(arrays)
    labels = pairs.pop("label").astype("float32")[:, None]
    pairs = {name: value.astype(object) for name, value in pairs.items()}
    model = Ranker(pairs)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    data = tf.data.Dataset.from_tensor_slices((pairs, labels))
    data = data.shuffle(len(labels), seed=1).batch(512)
    model.fit(data, epochs=2, verbose=0)
    model.save(str(folder / "model"), save_format="tf")
    first = {name: tf.constant(value[:50]) for name, value in pairs.items()}
    np.savez(folder / "expected.npz", scores=model(first).numpy()[:, 0])


if __name__ == "__main__":
    for arguments in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        main(*map(Path, arguments))
