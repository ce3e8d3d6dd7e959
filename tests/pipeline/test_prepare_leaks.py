"""Preparation: held-out parts do not change anything that is learned."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from recdistill.pipeline.preparation.item_table import TRAIN_COUNT
from tests.pipeline.logs import (
    RICH,
    rich,
    rows_of,
    run,
)


def learned(folder, *, also=()):
    """The bytes of everything that is learned from the training part."""
    files = [
        folder / "schema.json",
        *folder.glob("vocabulary-*"),
        *folder.glob("training_rows/*"),
        *folder.glob("lists/train-*"),
        *(path for pattern in also for path in folder.glob(pattern)),
    ]
    assert len(files) > 8
    content = {str(p.relative_to(folder)): p.read_bytes() for p in files}
    count = pq.read_table(folder / "items.parquet", columns=[TRAIN_COUNT])
    return content | {"train_count": count.to_pydict()}


def balanced_log(seed, size):
    """Every query has `size` interactions, so that the split is known."""
    rng = np.random.default_rng(seed)
    return [
        (f"u{user}", f"i{rng.integers(12)}", 10 * k + int(rng.integers(10)))
        for k in range(size)
        for user in range(5)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_a_changed_held_out_interaction_changes_nothing_learned(tmp_path, seed):
    log = balanced_log(seed, 20)  # 16 to train on, then 2 and 2
    rng = np.random.default_rng(seed)
    extra = {"extra_items": ["i97", "i98"]}
    run(rich(log, **extra), tmp_path / "before", **RICH)
    held = [k for k in range(len(log)) if k // 5 >= 16]
    changed = list(log)
    for k in held:
        item = f"i{rng.integers(12)}" if rng.random() < 0.5 else "i98"
        changed[k] = (log[k][0], item, log[k][2] + int(rng.integers(1_000)) * 10_000)
    device = [("phone", "desk")[k % 2] for k in range(len(log))]
    hour = [float(k % 24) for k in range(len(log))]
    relevance = [3.0] * len(log)
    for k in held:
        device[k] = ("watch", "phone")[k % 2]
        hour[k], relevance[k] = 1e6, 5.0
    data = rich(changed, **extra, device=device, hour=hour, relevance=relevance)
    prepared, _ = run(data, tmp_path / "after", **RICH)
    assert learned(tmp_path / "after") == learned(tmp_path / "before")
    assert any(row["relevance"] == [5.0] for row in rows_of(prepared, "test").values())


def test_a_changed_training_interaction_changes_what_is_learned(tmp_path):
    log = balanced_log(0, 20)
    run(rich(log), tmp_path / "before", **RICH)
    device = ["watch", *[("phone", "desk")[k % 2] for k in range(1, len(log))]]
    run(rich(log, device=device), tmp_path / "after", **RICH)
    before, after = learned(tmp_path / "before"), learned(tmp_path / "after")
    differ = {name for name in before if before[name] != after[name]}
    assert "vocabulary-query-device.parquet" in differ
    assert any(name.startswith("lists/train") for name in differ)


@pytest.mark.parametrize(
    ("shares", "kept"),
    [
        ({"valid": 0.05, "test": 0.1}, ["lists/valid-*"]),  # one more test row
        ({"valid": 0.1, "test": 0.05}, []),  # one more validation row
    ],
)
def test_adding_or_removing_held_out_interactions_changes_nothing_learned(
    tmp_path, shares, kept
):
    # 19 rows are 17 + 1 + 1; with a twentieth, 0.1 of them is 2, and 17 stay.
    log = balanced_log(1, 19)
    extra = {"extra_items": ["i98"]}
    run(rich(log, **extra), tmp_path / "before", split=shares, **RICH)
    more = [*log, *((f"u{user}", "i98", 10_000) for user in (0, 2, 3))]
    run(rich(more), tmp_path / "after", split=shares, **RICH)
    assert len(more) == len(log) + 3
    before = learned(tmp_path / "before", also=kept)
    after = learned(tmp_path / "after", also=kept)
    assert after == before


def test_queries_and_items_of_the_test_part_only_change_nothing_learned(tmp_path):
    log = balanced_log(2, 20)
    settings = {"split": {"by": "global_time", "valid": 0.1, "test": 0.1}, **RICH}
    extra = {"extra_items": ["i98"]}
    run(rich(log, **extra), tmp_path / "before", **settings)
    late = max(time for _, _, time in log)
    changed = [
        (f"a{k}", "i98", time) if time >= 180 and time < late else (user, item, time)
        for k, (user, item, time) in enumerate(log)
    ]
    assert changed != log
    run(rich(changed), tmp_path / "after", **settings)

    def content(folder):
        kept = learned(folder)
        for path in folder.glob("training_rows/*"):
            # The new queries have a row of their own, and nothing in it.
            rows = pq.read_table(path).to_pylist()
            kept[f"training_rows/{path.name}"] = [r for r in rows if r["items"]]
        for path in folder.glob("lists/train-*"):
            table = pq.read_table(path).drop_columns(["query_row"])
            kept[f"lists/{path.name}"] = table.to_pylist()
        return kept

    assert content(tmp_path / "after") == content(tmp_path / "before")
