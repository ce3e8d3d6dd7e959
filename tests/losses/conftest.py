"""Fixtures that several tests of losses share."""

import numpy as np
import pytest


@pytest.fixture
def rows():
    """Five lists of 5, 3, 2, 1 and 0 rows, with arbitrary values under padding."""
    rng = np.random.default_rng(11)
    mask = np.arange(5) < np.array([5, 3, 2, 1, 0])[:, None]
    embeddings = rng.normal(size=(2, 5, 5, 4)).astype("float32")
    embeddings[:, ~mask] = 77.0
    weight = rng.uniform(0.5, 2.0, mask.shape).astype("float32")
    return *embeddings, mask, weight
