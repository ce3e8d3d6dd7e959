"""Statistics of the parts: dates, copies and repeats as plain loops count them."""

import pytest

from recdistill.errors import DataError
from recdistill.pipeline.config import SplitConfig
from recdistill.pipeline.preparation.part_statistics import PartStatistics
from recdistill.pipeline.preparation.partitions import Partitions
from tests import small_pipelines
from tests.pipeline.logs import SPLITS, lists_of, random_log, split_by_query


def statistics_of(log, folder, **split):
    folder.mkdir()
    data = small_pipelines.dataset(log)
    parts = Partitions(data, SplitConfig(**split), folder, small_pipelines.quiet)
    found = PartStatistics(parts.times)
    for part in parts:
        found.add(part)
    return found


def test_copies_and_repeats_are_those_of_plain_loops(tmp_path):
    log = random_log(3, rows=200)
    split = split_by_query(log, 0.1, 0.1)
    trained = {(log[k][0], log[k][1]) for k, part in split.items() if part == "train"}
    expected = {
        name: sum(
            any((log[k][0], log[k][1]) in trained for k in rows)
            for first, rows in lists_of(log).items()
            if split[first] == name
        )
        for name in SPLITS[1:]
    }
    record = statistics_of(log, tmp_path / "p").record()
    assert record["repeats"] == expected
    assert min(expected.values()) > 0
    assert record["copies"] == len(log) - len(set(log)) > 0


def test_the_dates_of_the_parts_are_those_of_their_rows(tmp_path):
    day, start = 86_400, 1_714_521_600  # 2024-05-01
    log = [(f"u{u}", f"i{k}", start + day * k) for u in range(3) for k in range(10)]
    record = statistics_of(log, tmp_path / "p", by="global_time").record()
    assert record["parts"] == {
        "train": ["2024-05-01 00:00:00", "2024-05-08 00:00:00"],
        "valid": ["2024-05-09 00:00:00", "2024-05-09 00:00:00"],
        "test": ["2024-05-10 00:00:00", "2024-05-10 00:00:00"],
    }
    assert record["time_warnings"] == []
    assert record["copies"] == 0


@pytest.mark.parametrize(
    ("log", "split", "said"),
    [
        (
            [(f"u{k}", f"i{k % 5}", k) for k in range(40)],
            {},
            r"0 valid list\(s\) and 0 test list\(s\).*no query has more than 1 \(inter"
            r'.*Use `split.by` = "global_time"',
        ),
        (
            [(f"u{k % 10}", f"i{k % 7}", k) for k in range(40)],
            {"by": "leave_last_out", "held_out": 2},
            r'have at least 5, and no query has more than 4.*"global_time"',
        ),
        (
            [(f"u{k % 10}", f"i{k % 7}", 5) for k in range(40)],
            {"by": "global_time"},
            r'too few moments.*"leave_last_out" or "leave_random_out"',
        ),
    ],
)
def test_a_part_without_lists_names_a_split_that_can_work(tmp_path, log, split, said):
    found = statistics_of(log, tmp_path / "p", **split)
    with pytest.raises(DataError, match=said):
        found.check("shop", SplitConfig(**split))
