"""TFRS's `BruteForce` in a process of its own: it needs Keras 2.

Run as a script by `benchmarks.retrieval_process`:

    python tfrs_brute_force.py EMBEDDINGS QUERIES K

EMBEDDINGS and QUERIES are `.npy` files. For each line on its input, the number of a
query, it answers with a line of the rows that it found.
"""

import os
import sys

if __name__ == "__main__":
    os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf


def main(embeddings: str, queries: str, k: str) -> None:
    """Answers until its input ends."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    import tensorflow_recommenders as tfrs

    items, asked = np.load(embeddings), np.load(queries)
    index = tfrs.layers.factorized_top_k.BruteForce(k=int(k))
    index.index(tf.constant(items))
    del items
    search = tf.function(lambda query: index(query)[1])
    for line in sys.stdin:
        rows = search(tf.constant(asked[[int(line)]])).numpy()[0]
        print(*rows.tolist(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
