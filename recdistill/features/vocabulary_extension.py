"""Extension of vocabularies: the values of newer data follow the earlier ones.

A table of embeddings has one row for each value of a vocabulary. If the earlier values
keep their indices, the rows that were trained before can be used again, and only the
new values need rows of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc


def extended_vocabulary(
    earlier: Sequence[str] | pa.Array, newer: Sequence[str] | pa.Array
) -> pa.Array:
    """The earlier vocabulary, followed by the newer values that it does not have.

    Each earlier value keeps its index, also if it does not occur in the newer data. The
    new values keep their order, which is that of their frequency in a vocabulary that
    `prepare` builds. The values stay in Arrow's memory, so that millions of ids need no
    Python objects.

    Args:
        earlier: Vocabulary of the earlier data, each value once.
        newer: Vocabulary of the newer data, each value once.

    Returns:
        Text array with each value once.

    Examples:
        >>> extended_vocabulary(["b", "gone", "a"], ["a", "new", "b"]).to_pylist()
        ['b', 'gone', 'a', 'new']
    """
    old, new = (pa.array(values, pa.string()) for values in (earlier, newer))
    added = new.filter(pc.invert(pc.is_in(new, value_set=old)))
    return pa.concat_arrays([old, added])
