"""RecBole's loading of a data set, in a Python that has RecBole.

Run as a script by `benchmarks.preparation`:

    python recbole_loading.py FOLDER NAME

It prints the seconds of wall-clock and of CPU time that RecBole's `create_dataset` and
`build` take, and counts, as JSON. The import of RecBole is not timed.
"""

import json
import sys
import time

from recbole.config import Config
from recbole.data import create_dataset


def main(folder: str, name: str) -> None:
    """Loads, splits and augments as for SASRec."""
    config = Config(
        model="SASRec",
        dataset=name,
        config_dict={
            "data_path": folder,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "MAX_ITEM_LIST_LENGTH": 50,
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO"},
            "train_neg_sample_args": None,
            "save_dataset": False,
            "use_gpu": False,
            "benchmark_filename": None,
        },
    )
    start = time.perf_counter(), time.process_time()
    dataset = create_dataset(config)
    parts = dataset.build()
    seconds, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    found = {
        "seconds": seconds,
        "cpu_seconds": cpu,
        # RecBole counts the padding value.
        "queries": dataset.user_num - 1,
        "items": dataset.item_num - 1,
        **dict(zip(("train", "valid", "test"), map(len, parts), strict=True)),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
