"""unknown_items: counts over pieces of a catalogue, and differences of types."""

import numpy as np
import pyarrow as pa

from recdistill.export import unknown_items
from recdistill.export.unknown_items import other_types, unknown_in


def test_unknown_values_are_counted_over_all_pieces(monkeypatch):
    monkeypatch.setattr(unknown_items, "ROWS", 2)
    rows = {"brand": np.arange(5)}
    sizes = []

    def look_up(part):
        sizes.append(len(part["brand"]))
        return {"brand": np.array([0, 1, 2, 3, 1])[part["brand"]]}

    found = unknown_in(look_up, rows)
    assert sizes == [2, 2, 1]
    assert found.shares() == {"brand": 0.5}  # two of four; one is missing
    assert found.everywhere() == {}


def test_a_column_of_another_type_than_in_training_is_named():
    entries = {
        "code": {"column": None, "type": "text"},
        "size": {"column": "width", "type": "integer"},
        "old": {"column": None},
    }
    items = pa.table({"code": [1, 2], "width": [3, 4], "old": ["x", "y"]})
    assert other_types(entries, items) == [
        "column `code` is integer; in training it was text"
    ]
