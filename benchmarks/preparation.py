"""The step `prepare`, compared with RecBole's loading and with pandas.

RecBole needs PyTorch and versions of NumPy and pandas of its own. Install it into a
virtual environment, `pip install recbole torch "numpy<2" "pandas<2.3" "scipy<1.13"`,
and name that environment's Python in the environment variable
`RECDISTILL_BENCH_RECBOLE_PYTHON`. Without it the comparison with RecBole is left out,
and the sizes say so.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import Benchmark, sized

RECBOLE_PYTHON = os.environ.get("RECDISTILL_BENCH_RECBOLE_PYTHON")
RECBOLE_SCRIPT = Path(__file__).with_name("recbole_loading.py")
LENGTH = 50
NAME = "generated"

CONFIG = """
name = "preparation"
workdir = "{folder}/runs"
[dataset]
reader = "recbole"
path = "{folder}/generated"
[query]
history = {{ kind = "history", length = 50 }}
[candidate]
item_id = {{ kind = "id" }}
[split]
by = "leave_last_out"
[teacher]
kind = "linear"
"""

Counts = dict[str, float]


def run(scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Run the benchmark; `BENCHMARK.reading` explains the figures."""
    sizes = {
        "interactions": sized(1_000_000, scale, least=2_000),
        "interactions_of_a_query": 20,
        "items": sized(20_000, scale, least=100),
        "rounds": sized(3, scale, least=1),
    }
    sides = {"pandas": with_pandas, "recdistill": with_prepare}
    if RECBOLE_PYTHON is not None:
        sides["recbole"] = with_recbole
    found: dict[str, list[Counts]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_interactions(folder / NAME, sizes)
        for number in range(sizes["rounds"]):
            for side in list(sides)[:: 1 if number % 2 else -1]:
                found[side].append(sides[side](folder))
    return {"sizes": sizes, "figures": figures(found)}


def figures(found: Mapping[str, list[Counts]]) -> dict[str, float]:
    """Times, their ratios with the spread over the rounds, and the difference."""
    shown: dict[str, float] = {}
    for side, rounds in found.items():
        for unit in ("seconds", "cpu_seconds"):
            shown[f"{side}_{unit}"] = float(np.median([each[unit] for each in rounds]))
    ours = found["recdistill"]
    for side in set(found) - {"recdistill"}:
        pairs = zip(found[side], ours, strict=True)
        ratio = np.array(
            [one["cpu_seconds"] / own["cpu_seconds"] for one, own in pairs]
        )
        shown[f"speedup_over_{side}"] = float(np.median(ratio))
        shown[f"speedup_over_{side}_lowest"] = float(ratio.min())
        shown[f"speedup_over_{side}_highest"] = float(ratio.max())
    names = ("queries", "items", "train", "valid", "test")
    shown["difference"] = max(
        abs(rounds[0][name] - ours[0][name])
        for rounds in found.values()
        for name in names
    )
    return dict(sorted(shown.items()))


def write_interactions(folder: Path, sizes: Mapping[str, int]) -> None:
    """A file of RecBole's format, in random order; no query has an item twice."""
    rng = np.random.default_rng(0)
    each, items = sizes["interactions_of_a_query"], sizes["items"]
    queries = sizes["interactions"] // each
    # A stride that is coprime to the number of items never repeats one.
    start, stride = rng.integers(0, items, (2, queries, 1))
    coprime = np.array([k for k in range(1, items) if np.gcd(k, items) == 1])
    chosen = (start + coprime[stride % len(coprime)] * np.arange(each)) % items
    times = 1_700_000_000 + np.sort(rng.integers(0, 31_536_000, chosen.shape), axis=1)
    times += np.arange(each)
    rows = pd.DataFrame(
        {
            "user_id:token": np.repeat(np.arange(queries), each),
            "item_id:token": chosen.ravel(),
            "timestamp:float": times.ravel(),
        }
    ).sample(frac=1.0, random_state=0)
    rows["user_id:token"] = "u" + rows["user_id:token"].astype(str)
    rows["item_id:token"] = "i" + rows["item_id:token"].astype(str)
    folder.mkdir()
    rows.to_csv(folder / f"{NAME}.inter", sep="\t", index=False)


def with_prepare(folder: Path) -> Counts:
    """`recdistill prepare`, without the start of the process."""
    config = folder / "preparation.toml"
    config.write_text(CONFIG.format(folder=folder), encoding="utf-8")
    script = (
        "import sys, time, pathlib\n"
        "from recdistill.pipeline.config import load_config\n"
        "from recdistill.pipeline.runner import Pipeline\n"
        "import json, keras, recdistill.pipeline.preparation.preparation\n"
        "pipeline = Pipeline(load_config(pathlib.Path(sys.argv[1])))\n"
        "start = time.process_time()\n"
        "record = pipeline.run('prepare').record\n"
        "print(json.dumps({**record, 'cpu': time.process_time() - start}))\n"
    )
    record = child([sys.executable, "-c", script, str(config)])
    for path in sorted((folder / "runs").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return {
        "seconds": record["seconds"],
        "cpu_seconds": record["cpu"],
        "queries": record["queries"],
        "items": record["items"],
        **record["lists"],
    }


def with_recbole(folder: Path) -> Counts:
    """RecBole's loading for a sequence model.

    RecBole makes no training list of a query's first interaction, which has no
    history; these are added to the count.
    """
    assert RECBOLE_PYTHON is not None
    found = child([RECBOLE_PYTHON, str(RECBOLE_SCRIPT), str(folder), NAME], folder)
    found["train"] += found["queries"]
    return found


def child(command: list[str], folder: Path | None = None) -> dict[str, Any]:
    """The last line that a command prints, which is JSON."""
    root = Path(__file__).parents[1]
    output = subprocess.run(
        command,
        cwd=folder or root,
        env={**os.environ, "PYTHONPATH": "" if folder else str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    ).stdout
    document: dict[str, Any] = json.loads(output.splitlines()[-1])
    return document


def with_pandas(folder: Path) -> Counts:
    """The same lists with pandas and NumPy: ids, order, split and histories."""
    start, used = time.perf_counter(), cpu_seconds()
    rows = pd.read_csv(folder / NAME / f"{NAME}.inter", sep="\t")
    user, users = pd.factorize(rows["user_id:token"])
    item, items = pd.factorize(rows["item_id:token"])
    order = np.lexsort((rows["timestamp:float"].to_numpy(), user))
    user, item = user[order], item[order].astype("int32")
    first = np.searchsorted(user, np.arange(len(users)))
    place = np.arange(len(user)) - first[user]
    left = np.bincount(user)[user] - 1 - place
    padded = np.concatenate([np.zeros(LENGTH, "int32"), item + 2])
    parts = {}
    for part, chosen in (
        ("train", left >= 2),
        ("valid", left == 1),
        ("test", left == 0),
    ):
        index = np.flatnonzero(chosen)
        history = np.lib.stride_tricks.sliding_window_view(padded, LENGTH)[index]
        mask = np.arange(LENGTH)[::-1] < np.minimum(place[index], LENGTH)[:, None]
        table = {
            "user": user[index],
            "item": item[index],
            "history": list(np.where(mask, history, 0)),
        }
        pd.DataFrame(table).to_parquet(folder / f"{part}.parquet")
        parts[part] = len(index)
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": cpu_seconds() - used,
        "queries": len(users),
        "items": len(items),
        **parts,
    }


def cpu_seconds() -> float:
    """CPU time of this process so far, all threads together."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


_SIDES = {
    "recdistill": "recdistill's step `prepare`",
    "pandas": "pandas and NumPy, by hand",
    "recbole": "RecBole's `create_dataset` and `build`",
}

BENCHMARK = Benchmark(
    name="preparation",
    title="The step `prepare`, compared with RecBole's loading and with pandas",
    equal=(
        "The same file of interactions in random order, the last two interactions of "
        "each query held out, histories of up to 50 items. Start of the process and "
        "imports are not counted. The numbers of queries, items and lists of each part "
        "are compared; RecBole makes no training list of a query's first interaction, "
        "and these are added to its count. Speed-ups are ratios of CPU time, all "
        "threads together, in turns."
    ),
    other_side=(
        "RecBole's loading for a sequence model (SASRec), which keeps the result in "
        "memory, and a script in pandas and NumPy that writes the lists as Parquet "
        "and checks nothing. `prepare` also checks ids and times, finds duplicates and "
        "repeats, writes the items each query has seen, and checksums of all files. "
        "RecBole is measured where `RECDISTILL_BENCH_RECBOLE_PYTHON` names a Python "
        "that has it."
    ),
    reading={
        **{f"{n}_seconds": f"Seconds of {how}, median." for n, how in _SIDES.items()},
        **{
            f"{n}_cpu_seconds": f"CPU seconds of {how}, median."
            for n, how in _SIDES.items()
        },
        **{
            f"speedup_over_{n}{suffix}": f"{text} over {_SIDES[n]}."
            for n in ("pandas", "recbole")
            for suffix, text in {
                "": "Speed-up of `prepare`, median of the rounds,",
                "_lowest": "Lowest speed-up of a round",
                "_highest": "Highest speed-up of a round",
            }.items()
        },
        "difference": "Largest difference between the counts of the sides.",
    },
    run=run,
)
