"""Runs one benchmark in this process.

    python -m benchmarks.one_benchmark NAME SCALE

The last line of the output is its outcome, as JSON.
"""

import json
import sys

from benchmarks.__main__ import BENCHMARKS
from recdistill.allocation import keep_freed_memory


def main(name: str, scale: str) -> None:
    """Runs the benchmark and prints its outcome."""
    keep_freed_memory()  # As the commands of recdistill do; for the peers as well.
    (benchmark,) = (each for each in BENCHMARKS if each.name == name)
    outcome = benchmark.run(float(scale))
    print(json.dumps(outcome, allow_nan=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
