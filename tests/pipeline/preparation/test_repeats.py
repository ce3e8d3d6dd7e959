"""Repeats: one decision for all lists of a data set, from the training part."""

import pytest

from recdistill.data.shard_reading import read_lists
from recdistill.pipeline.preparation.repeats import RepeatCounts
from tests import small_pipelines
from tests.pipeline.logs import (
    SPLITS,
    lists_of,
    random_log,
    rows_of,
    run,
    split_by_query,
)


def rotated(user):
    """Ten rows without repeats; the held-out items of other users are among the first.

    So the held-out items of the log are not all new.
    """
    return [(user, f"i{(k + 8) % 10}", k) for k in range(10)]


def repeated_rows(log):
    """The rows whose query had the item at an earlier time, by plain loops."""
    return {
        row
        for row, (user, item, time) in enumerate(log)
        if any(u == user and i == item and t < time for u, i, t in log)
    }


@pytest.mark.parametrize("seed", range(2))
def test_excluded_repeats_are_in_no_list_of_any_part(tmp_path, seed):
    log = random_log(seed, rows=250, users=20, items=15)
    prepared, record = run(
        small_pipelines.dataset(log), tmp_path / "p", lists={"seen": "exclude"}
    )
    repeated, split_of = repeated_rows(log), split_by_query(log, 0.1, 0.1)
    assert record["seen"] == "exclude"
    for split in SPLITS:
        part = {row for row in range(len(log)) if split_of[row] == split}
        lists = rows_of(prepared, split)
        first = {row: start for start, rows in lists_of(log).items() for row in rows}
        assert lists.keys() == {first[row] for row in part - repeated}
        assert record["left_out_repeats"][split] == len(part & repeated)
        assert record["lists"][split] == len(lists)
        for got in lists.values():
            assert not set(got["candidates"]) & set(got["seen"])
        for shard in prepared.shards(split):
            assert read_lists(shard).seen_excluded
    assert sum(record["left_out_repeats"].values()) > 20


def test_included_repeats_stay_and_no_seen_item_is_masked(tmp_path):
    log = random_log(3)
    prepared, record = run(small_pipelines.dataset(log), tmp_path / "p")
    assert record["seen"] == "include"  # "auto": most rows of this log are repeats
    assert record["left_out_repeats"] == {"train": 0, "valid": 0, "test": 0}
    assert sum(record["lists"].values()) == len(lists_of(log))
    for split in SPLITS:
        for shard in prepared.shards(split):
            lists = read_lists(shard)
            assert not lists.seen_excluded
            assert len(lists.seen.values)
            assert not len(lists.excluded.values)


def test_the_share_counts_training_rows_that_can_be_repeats(tmp_path):
    # Of each user's ten rows the last two are held out. The first cannot be a repeat;
    # of the other seven, Ann has one and the others none.
    log = [("ann", f"i{k}", k) for k in range(10)]
    log[5] = ("ann", "i2", 5)
    log += [(user, f"i{k}", k) for user in ("bob", "cy") for k in range(10)]
    # A held-out repeat decides nothing, and two rows of one time do not repeat.
    log[19] = ("bob", "i0", 9)
    log[3] = ("ann", "i2", 2)
    log += rotated("zoe")
    _, record = run(small_pipelines.dataset(log), tmp_path / "p")
    assert record["repeat_share"] == pytest.approx(1 / 28, abs=1e-6)
    assert record["seen"] == "exclude"
    assert record["left_out_repeats"] == {"train": 1, "valid": 0, "test": 1}


@pytest.mark.parametrize(
    ("repeats", "expected"), [(0, "exclude"), (9, "exclude"), (10, "include")]
)
def test_auto_includes_seen_items_from_a_tenth_of_repeats(repeats, expected):
    counts = RepeatCounts(rows=100, repeats=repeats)
    assert counts.decide("auto") == expected
    assert counts.decide("include") == "include"
    assert counts.decide("exclude") == "exclude"
    assert RepeatCounts().decide("auto") == "exclude"


def test_too_few_lists_without_repeats_are_an_error_that_says_how_to_keep_them(
    tmp_path,
):
    log = [(f"u{u}", f"i{k % 3}", k) for u in range(3) for k in range(9)]
    with pytest.raises(ValueError, match=r"0 valid list\(s\).* 3 .*\"include\""):
        run(small_pipelines.dataset(log), tmp_path / "p", lists={"seen": "exclude"})


def test_the_training_lists_of_a_query_are_its_latest_without_repeats(tmp_path):
    log = [(f"u{u}", f"i{k}", k) for u in range(3) for k in range(10)]
    for u in range(3):
        log[10 * u + 7] = (f"u{u}", "i0", 7)  # the latest training row is a repeat
    log += rotated("zoe")
    settings = {"lists": {"seen": "exclude", "per_query": 2}}
    prepared, _ = run(small_pipelines.dataset(log), tmp_path / "p", **settings)
    assert rows_of(prepared, "train").keys() == {
        10 * u + k for u in range(3) for k in (5, 6)
    } | {36, 37}
