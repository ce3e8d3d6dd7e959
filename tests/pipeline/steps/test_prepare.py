"""The step prepare: what the terminal shows of its record."""

from recdistill.pipeline.steps.prepare import Prepare

RECORD = {
    "parts": {
        "train": ["2024-05-01 00:00:00", "2024-05-08 12:00:00"],
        "valid": ["2024-05-08 12:00:01", "2024-05-09 00:00:00"],
        "test": ["2024-05-09 00:00:01", "2024-05-10 00:00:00"],
    },
    "copies": 1_234,
    "added_items": 0,
    "lists": {"train": 90, "valid": 20, "test": 30},
    "repeats": {"valid": 3, "test": 4},
    "left_out_repeats": {"train": 0, "valid": 0, "test": 0},
    "unknown": {"valid": {}, "test": {}, "items": {}},
}


def test_the_dates_of_the_parts_are_one_line():
    (line, *_) = Prepare().details(RECORD)
    assert line == (
        "train 2024-05-01 00:00:00 to 2024-05-08 12:00:00; "
        "valid 2024-05-08 12:00:01 to 2024-05-09 00:00:00; "
        "test 2024-05-09 00:00:01 to 2024-05-10 00:00:00"
    )


def test_copies_and_repeats_are_counted():
    said = "\n".join(Prepare().details(RECORD))
    assert "1,234 rows are copies of a row with the same query, item and time" in said
    assert "3 of 20 validation lists and 4 of 30 test lists have an item" in said


def test_a_clean_record_says_nothing_more():
    clean = RECORD | {"parts": {}, "copies": 0, "repeats": {"valid": 0, "test": 0}}
    assert list(Prepare().details(clean)) == []
