"""uniform_tail: sets of free items are equally likely, and a draw survives growth."""

import numpy as np
import pytest

from recdistill.data.ragged import Ragged
from recdistill.pipeline.candidates.candidate_selection import mixed
from recdistill.pipeline.candidates.uniform_tail import UniformTail


def tail_of(items):
    return UniformTail(ids_of(np.arange(items)))


def ids_of(items):
    """Hashes of the ids of items."""
    return mixed(np.asarray(items, "uint64"))


def taken_of(free):
    """The columns that are not free, as rows of unequal length."""
    lengths = np.concatenate([[0], np.cumsum((~free).sum(axis=1))])
    return Ragged(np.nonzero(~free)[1], lengths)


@pytest.mark.parametrize("seed", range(20))
def test_a_tail_holds_free_columns_once_and_in_order(seed):
    rng = np.random.default_rng(seed)
    rows, columns = int(rng.integers(1, 6)), int(rng.integers(1, 200))
    free = rng.random((rows, columns)) < rng.random()
    count = int(rng.integers(0, columns + 3)) // (1 + seed % 2 * 20)
    keys = rng.integers(2**63, size=rows).astype("uint64")
    got, left = tail_of(columns).draw(taken_of(free), count, keys)
    np.testing.assert_array_equal(left, free.sum(axis=1))
    for drawn, row in zip(got, free, strict=True):
        real = drawn[drawn >= 0]
        assert len(real) == min(count, row.sum())
        assert (np.diff(real) > 0).all()
        assert row[real].all()
        assert (drawn[len(real) :] == -1).all()


@pytest.mark.parametrize(
    ("columns", "taken"), [(13, [3, 7]), (13, [2, 3, 4, 5, 6, 7, 8]), (21, [0, 20])]
)
def test_free_columns_and_pairs_of_them_are_equally_likely(columns, taken):
    # 4 of m free columns: a column in 4/m of the draws, a pair in 4/m * 3/(m - 1).
    rows, left = 20_000, np.setdiff1d(np.arange(columns), taken)
    free = np.ones((rows, columns), bool)
    free[:, taken] = False
    keys = np.arange(rows, dtype="uint64") * np.uint64(10**9)
    drawn, _ = tail_of(columns).draw(taken_of(free), 4, keys)
    held = np.zeros(free.shape)
    np.put_along_axis(held, drawn, 1.0, axis=1)
    shares = held.T @ held / rows
    found, size = shares[np.ix_(left, left)], len(left)
    # Standard errors are below .0035.
    np.testing.assert_allclose(np.diag(found), 4 / size, atol=0.014)
    off = ~np.eye(size, dtype=bool)
    np.testing.assert_allclose(found[off], 4 / size * 3 / (size - 1), atol=0.014)
    assert shares[taken].sum() == 0.0


def test_the_tail_of_a_row_depends_on_its_own_key_only():
    rng = np.random.default_rng(0)
    free = rng.random((6, 50)) < 0.6
    keys = np.arange(6, dtype="uint64") * np.uint64(977)
    tail = tail_of(50)
    whole, _ = tail.draw(taken_of(free), 7, keys)
    for k in range(6):
        own, _ = tail.draw(taken_of(free[k : k + 1]), 7, keys[k : k + 1])
        np.testing.assert_array_equal(own[0], whole[k])
    other, _ = tail.draw(taken_of(free), 7, keys + np.uint64(1))
    assert (other != whole).any()


def test_a_draw_does_not_depend_on_the_rows_of_the_items():
    rng = np.random.default_rng(1)
    keys = rng.integers(2**63, size=30).astype("uint64")
    for items, count in ((200, 7), (200, 60)):
        order = rng.permutation(items)
        none = Ragged(np.zeros(0, int), np.zeros(31, int))
        drawn, _ = tail_of(items).draw(none, count, keys)
        other, _ = UniformTail(ids_of(order)).draw(none, count, keys)
        np.testing.assert_array_equal(np.sort(order[other], axis=1), drawn)


@pytest.mark.parametrize("count", [8, 60])
def test_a_draw_keeps_most_items_when_the_catalogue_grows(count):
    # 140 items become 154: of each draw, 14 of 154 are expected to be new.
    keys = mixed(np.arange(4_000, dtype="uint64"))
    none = Ragged(np.zeros(0, int), np.zeros(4_001, int))
    before, _ = tail_of(140).draw(none, count, keys)
    after, free = tail_of(154).draw(none, count, keys)
    assert (free == 154).all()
    new = np.count_nonzero(after >= 140, axis=1)
    kept = [len(np.intersect1d(a, b)) for a, b in zip(before, after, strict=True)]
    # The standard errors of the means are below .012 and .03.
    assert new.mean() / count == pytest.approx(14 / 154, abs=0.012)
    share = np.mean(kept) / count
    # Without random cells, the old items of a draw are all from the draw before.
    assert share == pytest.approx(140 / 154, abs=0.012) if count == 60 else share > 0.8


@pytest.mark.parametrize("count", [8, 60])
def test_after_growth_old_and_new_items_have_the_same_chance(count):
    rows = 20_000
    keys = mixed(np.arange(rows, dtype="uint64"))
    none = Ragged(np.zeros(0, int), np.zeros(rows + 1, int))
    drawn, _ = tail_of(154).draw(none, count, keys)
    shares = np.bincount(drawn.ravel(), minlength=154) / rows
    # Five standard errors.
    error = (count / 154 * (1 - count / 154) / rows) ** 0.5
    np.testing.assert_allclose(shares, count / 154, atol=5 * error)


@pytest.mark.parametrize("count", [8, 60])
def test_a_removed_item_leaves_the_rest_of_a_draw(count):
    keys = mixed(np.arange(500, dtype="uint64"))
    none = Ragged(np.zeros(0, int), np.zeros(501, int))
    left = np.delete(np.arange(140), 77)
    before, _ = tail_of(140).draw(none, count, keys)
    after, _ = UniformTail(ids_of(left)).draw(none, count, keys)
    lost = [len(np.setdiff1d(a, left[b])) for a, b in zip(before, after, strict=True)]
    # One of 140 items is gone, and a few moved to another cell.
    assert np.mean(lost) / count < 2.5 / 140


def test_all_items_may_have_the_same_cell():
    # The highest bits of all hashes are 1: no cell follows that of the first.
    ids = np.uint64(2**64 - 1) - np.arange(50, dtype="uint64")
    keys = mixed(np.arange(3_000, dtype="uint64"))
    none = Ragged(np.zeros(0, int), np.zeros(3_001, int))
    drawn, _ = UniformTail(ids).draw(none, 3, keys)
    shares = np.bincount(drawn.ravel(), minlength=50) / 3_000
    np.testing.assert_allclose(shares, 3 / 50, atol=0.022)


def test_nothing_is_drawn_of_nothing():
    none = Ragged(np.zeros(0, int), np.zeros(3, int))
    keys = np.arange(2, dtype="uint64")
    for items, count in ((0, 3), (5, 0), (0, 0)):
        drawn, free = tail_of(items).draw(none, count, keys)
        assert drawn.tolist() == [[-1] * count] * 2
        assert free.tolist() == [items] * 2
