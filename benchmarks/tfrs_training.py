"""TFRS's retrieval task in a process of its own: it needs Keras 2.

Run as a script by `benchmarks.retrieval_training`:

    python tfrs_training.py FOLDER RATE

FOLDER has the initial tables `queries.npy` and `items.npy`, and the batches of row
numbers `query_rows.npy` and `item_rows.npy`, `(batches, batch)`. For each line on its
input it makes one training step and answers with the loss. At the end of its input it
prints nothing; after the first step it writes `tfrs_items.npy`.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf

from recdistill.allocation import keep_freed_memory


def main(folder: Path, rate: float) -> None:
    """Trains until its input ends."""
    import tensorflow_recommenders as tfrs
    import tf_keras as keras

    class Model(tfrs.Model):  # type: ignore[misc]
        """Two tables and the task, as in the retrieval tutorial of TFRS."""

        def __init__(self) -> None:
            super().__init__()
            self.queries, self.items = (
                keras.layers.Embedding(*table.shape, weights=[table])
                for table in (
                    np.load(folder / f"{n}.npy") for n in ("queries", "items")
                )
            )
            self.task = tfrs.tasks.Retrieval(
                loss=keras.losses.CategoricalCrossentropy(from_logits=True),
                remove_accidental_hits=True,
            )

        def compute_loss(
            self, inputs: dict[str, tf.Tensor], training: bool = False
        ) -> tf.Tensor:
            items = inputs["item"]
            return self.task(
                self.queries(inputs["query"]), self.items(items), candidate_ids=items
            )

    model = Model()
    model.compile(optimizer=keras.optimizers.Adam(rate))
    rows = {n: np.load(folder / f"{n}_rows.npy") for n in ("query", "item")}
    iterator = iter(tf.data.Dataset.from_tensor_slices(rows).cache().repeat())
    step = model.make_train_function()
    for number, _ in enumerate(sys.stdin):
        print(float(step(iterator)["loss"]), flush=True)
        if not number:
            np.save(folder / "tfrs_items.npy", model.items.get_weights()[0])


if __name__ == "__main__":
    keep_freed_memory()  # As the process of the other side does.
    main(Path(sys.argv[1]), float(sys.argv[2]))
