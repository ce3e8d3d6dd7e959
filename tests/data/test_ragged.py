"""Ragged: rows of unequal length against Python lists."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from recdistill.data.ragged import Ragged
from tests.data.list_builders import as_lists, ragged

ROWS = st.lists(st.lists(st.integers(0, 99), max_size=5), max_size=6)


class TestRagged:
    def test_takes_rows_in_the_given_order(self):
        got = ragged([[1, 2], [], [3]]).take(np.array([2, 0, 0, 1]))
        assert as_lists(got) == [[3], [1, 2], [1, 2], []]
        assert len(got) == 4

    def test_is_padded_on_the_right(self):
        got = ragged([[1, 2], [], [3]]).padded(-1)
        assert got.tolist() == [[1, 2], [-1, -1], [3, -1]] and got.dtype == np.int32

    def test_padded_has_at_least_one_column(self):
        assert ragged([[], []]).padded(0).tolist() == [[0], [0]]
        assert ragged([]).padded(0).shape == (0, 1)

    def test_knows_the_row_of_each_value(self):
        assert ragged([[1, 2], [], [3]]).row_numbers().tolist() == [0, 0, 2]

    @settings(deadline=None)
    @given(ROWS, st.data())
    def test_behaves_like_python_lists(self, rows, data):
        one = ragged(rows)
        assert len(one) == len(rows)
        width = max([1, *map(len, rows)])
        assert one.padded(-1).tolist() == [r + [-1] * (width - len(r)) for r in rows]
        numbers = [k for k, row in enumerate(rows) for _ in row]
        assert one.row_numbers().tolist() == numbers
        place = st.integers(0, max(len(rows) - 1, 0))
        chosen = data.draw(st.lists(place, max_size=8 if rows else 0))
        got = one.take(np.array(chosen, int))
        assert as_lists(got) == [rows[k] for k in chosen]
        assert len(got.padded(0)) == len(chosen)

    @settings(deadline=None)
    @given(ROWS, st.integers(0, 6), st.integers(0, 6))
    def test_reads_any_slice_of_an_arrow_column(self, rows, start, length):
        column = pa.array(rows, pa.list_(pa.int32())).slice(start, length)
        got = Ragged.from_arrow(column)
        assert as_lists(got) == rows[start : start + length]
        assert got.offsets[0] == 0 and got.offsets[-1] == len(got.values)
        assert len(got.padded(0)) == len(got)

    @settings(deadline=None)
    @given(st.lists(st.tuples(*[st.lists(st.integers(-1, 9), max_size=5)] * 2)))
    def test_the_intersection_is_taken_row_by_row(self, pairs):
        left, right = ([pair[k] for pair in pairs] for k in (0, 1))
        got = ragged(left).intersection(ragged(right))
        assert as_lists(got) == [
            [value for value in one if value >= 0 and value in other]
            for one, other in pairs
        ]


def test_an_intersection_of_large_values_compares_rows_in_64_bits():
    largest = np.iinfo("int32").max
    one = Ragged(np.array([0, 1, largest], "int32"), np.array([0, 1, 2, 3]))
    other = Ragged(np.array([largest, 0, largest], "int32"), np.array([0, 1, 2, 3]))
    both = one.intersection(other)
    assert both.values.tolist() == [largest]
    assert both.offsets.tolist() == [0, 0, 0, 1]


def test_rows_hold_the_values_that_a_plain_loop_finds():
    rng = np.random.default_rng(0)
    rows = [rng.integers(-1, 12, rng.integers(0, 6)).tolist() for _ in range(20)]
    ragged = Ragged(
        np.array([value for row in rows for value in row], "int32"),
        np.cumsum([0, *map(len, rows)]),
    )
    shared = rng.permutation(12)[:7]
    want = [[value in row for value in shared] for row in rows]
    np.testing.assert_array_equal(ragged.holds(shared), want)
    twice = np.array([3, 8, 3])
    want = [[value in row for value in twice] for row in rows]
    np.testing.assert_array_equal(ragged.holds(twice), want)
    own = rng.integers(0, 15, (20, 5))
    want = [
        [value in row for value in some] for row, some in zip(rows, own, strict=True)
    ]
    np.testing.assert_array_equal(ragged.holds(own), want)
    # Values below 0 mark missing items, which no row holds.
    assert not ragged.holds(np.full((20, 1), -1)).any()
