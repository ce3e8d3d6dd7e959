"""Tables with one metric of each list."""

import numpy as np
import pyarrow as pa


def table(values, queries=None, name="mrr"):
    """Rows of these values; each list has a query of its own unless they are given."""
    values = np.asarray(values, float)
    ids = range(len(values)) if queries is None else queries
    return pa.table(
        {
            "list_id": pa.array(range(len(values)), pa.int64()),
            "query_id": pa.array([str(one) for one in ids]),
            name: values,
        }
    )
