"""interaction_sort: the order of what the columnar engine returns."""

import pyarrow as pa
import pytest

from recdistill.pipeline.preparation.interaction_sort import in_order


def batches(*queries):
    return [pa.record_batch({"query": pa.array(q, pa.int32())}) for q in queries]


def test_sorted_rows_pass_in_any_number_of_batches():
    given = batches([0, 0, 1], [], [1, 4])
    assert list(in_order(given)) == given


@pytest.mark.parametrize("queries", [([0, 2, 1],), ([0, 2], [1, 3]), ([0, 2], [], [1])])
def test_rows_out_of_order_are_refused(queries):
    with pytest.raises(RuntimeError, match="in sorted order"):
        list(in_order(batches(*queries)))
