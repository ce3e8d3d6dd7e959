"""Trains a TFRS retrieval model, in a process of its own, and saves both towers.

    TF_USE_LEGACY_KERAS=1 python save_tfrs_towers.py FOLDER

FOLDER receives the SavedModels `query` and `candidate`, and `expected.npz` with the
embeddings of the first users and of all films and with the weights of both towers.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras as keras

USERS = np.array(["ann", "bob", "čeněk"])
FILMS = np.array([f"film {k}" for k in range(12)])


class Retrieval(tfrs.Model):
    """The model of the retrieval tutorial."""

    def __init__(self):
        super().__init__()
        self.query = self.tower(USERS)
        self.candidate = self.tower(FILMS)
        self.task = tfrs.tasks.Retrieval()

    @staticmethod
    def tower(vocabulary):
        return keras.Sequential(
            [
                keras.layers.StringLookup(vocabulary=vocabulary, mask_token=None),
                keras.layers.Embedding(len(vocabulary) + 1, 4),
            ]
        )

    def compute_loss(self, inputs, training=False):
        query = self.query(inputs["user"])
        return self.task(query, self.candidate(inputs["film"]))


def main(folder):
    """Trains for one epoch and saves."""
    keras.utils.set_random_seed(1)
    model = Retrieval()
    model.compile(optimizer=keras.optimizers.Adagrad(0.5))
    pairs = {"user": np.tile(USERS, 4), "film": FILMS}
    model.fit(tf.data.Dataset.from_tensor_slices(pairs).batch(6), verbose=0)
    tf.saved_model.save(model.query, str(folder / "query"))
    tf.saved_model.save(model.candidate, str(folder / "candidate"))
    np.savez(
        folder / "expected.npz",
        queries=model.query(tf.constant(USERS)),
        items=model.candidate(tf.constant(FILMS)),
        query_weights=model.query.get_weights()[0],
        users=USERS,
        films=FILMS,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
