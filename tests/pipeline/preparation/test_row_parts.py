"""Parts of rows: copies stay together, and the last interactions are held out."""

import numpy as np
import pytest

from recdistill.pipeline.config import SplitConfig
from recdistill.pipeline.preparation.row_parts import (
    TEST,
    TRAIN,
    VALID,
    Pairs,
    kept_together,
    last_of_each_query,
)


@pytest.mark.parametrize("seed", range(3))
def test_the_first_copy_is_found_as_by_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    moment = np.repeat(np.arange(0, 40, 8), 8)
    item = rng.integers(0, 4, 40)
    seen, expected = {}, []
    for row, key in enumerate(zip(moment, item, strict=True)):
        expected.append(seen.setdefault(key, row))
    found = Pairs.find(np.zeros(40, int), item, moment)
    assert found.first_copy.tolist() == expected
    pairs = [item.tolist().index(each) for each in item]
    assert found.first_of_pair.tolist() == pairs


def test_codes_of_rows_and_items_are_multiplied_in_64_bits():
    query = np.array([0, 2**31 - 1, 2**31 - 1], "int32")
    item = np.array([2**31 - 2, 5, 5], "int64")
    found = Pairs.find(query, item, np.array([0, 1, 2]))
    assert found.first_of_pair.tolist() == [0, 1, 1]
    assert found.first_copy.tolist() == [0, 1, 2]


def test_copies_count_once_and_are_held_out_together():
    # One query: a, then b three times at one moment, then c, then d twice.
    unit = np.array([0, 1, 1, 1, 4, 5, 5])
    split = SplitConfig(by="leave_last_out")
    part = last_of_each_query(split, np.zeros(7, int), unit)
    assert part.tolist() == [TRAIN, TRAIN, TRAIN, TRAIN, VALID, TEST, TEST]


@pytest.mark.parametrize(
    ("held_out", "parts"),
    [
        (1, [TRAIN, TRAIN, TRAIN, VALID, TEST]),
        (2, [TRAIN, VALID, VALID, TEST, TEST]),
        (3, [TRAIN] * 5),  # 3 and 3 of 5 would leave nothing for training
    ],
)
def test_a_number_of_interactions_of_each_query_is_held_out(held_out, parts):
    split = SplitConfig(by="leave_last_out", held_out=held_out)
    first = np.repeat([0, 5], 5)
    part = last_of_each_query(split, first, np.arange(10))
    assert part.tolist() == parts * 2


def test_groups_that_share_a_row_are_in_the_latest_part_of_all():
    part = np.array([TRAIN, TRAIN, VALID, TEST, TRAIN])
    lists = np.array([0, 0, 2, 2, 4])
    same = np.array([0, 1, 1, 3, 4])  # rows 1 and 2 are copies in two lists
    together = kept_together(part, [lists, same])
    assert together.tolist() == [TEST, TEST, TEST, TEST, TRAIN]
