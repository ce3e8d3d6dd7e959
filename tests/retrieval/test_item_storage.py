"""item_storage: rounded values by hand."""

import numpy as np
import pytest

from recdistill.retrieval.exact import ExactIndex
from recdistill.retrieval.item_storage import as_stored, column_scales


def test_int8_rounds_each_column_to_steps_of_its_own_largest_value():
    items = np.array([[127.0, 0.0, 1e-3], [-63.4, 0.0, -5e-4]], "float32")
    np.testing.assert_allclose(column_scales(items, "int8"), [1.0, 1.0, 1e-3 / 127])
    # 5e-4 is 63.5 steps of the third column, which is rounded to an even number.
    want = [[127.0, 0.0, 1e-3], [-63.0, 0.0, -64 * 1e-3 / 127]]
    np.testing.assert_allclose(as_stored(items, "int8"), want, rtol=1e-6)


def test_what_was_rounded_is_not_changed_by_rounding_again():
    items = np.random.default_rng(1).normal(size=(50, 6)).astype("float32")
    once = as_stored(items, "int8")
    np.testing.assert_allclose(as_stored(once, "int8"), once, rtol=1e-6)


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_the_largest_allowed_embeddings_are_stored_and_scored(storage):
    extreme = np.array([[1e15, -1e15]], "float32")
    stored = ExactIndex(extreme, storage)
    _, scores = stored.top_k(extreme, 1)
    assert scores.numpy()[0, 0] == pytest.approx(2e30, rel=0.01)
