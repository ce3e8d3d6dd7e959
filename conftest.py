"""What the examples in docstrings may use without importing it."""

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def examples_know_numpy(doctest_namespace):
    doctest_namespace["np"] = np
