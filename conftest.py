"""What the examples in docstrings may use without importing it."""

import numpy as np
import pytest

from recdistill.allocation import keep_freed_memory

keep_freed_memory()


@pytest.fixture(autouse=True)
def examples_know_numpy(doctest_namespace):
    doctest_namespace["np"] = np
