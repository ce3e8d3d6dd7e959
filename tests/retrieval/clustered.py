"""Clustered embeddings, for the tests of IVF."""

import numpy as np


def clustered(items, dim=8, seed=0):
    """Items in clusters, as many as the root of their number, and queries near them."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(round(items**0.5), dim)) * 2
    place = rng.integers(0, len(centres), items)
    values = centres[place] + rng.normal(size=(items, dim)) * 0.4
    queries = centres[:40] + rng.normal(size=(len(centres[:40]), dim)) * 0.4
    return values.astype("float32"), queries.astype("float32")
