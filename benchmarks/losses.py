"""Compare distillation losses: one student for each loss, from the same score store.

    python -m benchmarks.losses pipelines/movielens_latest_small.toml

The steps `prepare`, `teacher` and `score` are those of the pipeline; their artefacts
are reused if they exist. Then one student is trained for each loss, and one without
distillation ("none", the baseline), with the same initial weights, batches, steps and
learning rates. The best checkpoint, learning rate and temperature of each loss are
chosen on validation, and the test lists are ranked once with the chosen student.

Every trained student is stored in the work folder under the hash of its inputs, so an
interrupted run can be continued, and a run with more losses or seeds trains only what
is missing. The results are written to `losses.json` and to `LOSSES.md`, the table for
`docs/losses.md`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from rich.console import Console

from benchmarks import json_by_entry
from recdistill import losses
from recdistill.atomic import atomic_write, fingerprint
from recdistill.data.batches import Lists, catalogue_mask
from recdistill.data.collation import Collator, score_catalogue
from recdistill.data.shard_reading import in_order
from recdistill.distillation.distiller import Distiller
from recdistill.evaluation.intervals import Interval, bootstrap, paired_difference
from recdistill.evaluation.latency.stopwatch import compare
from recdistill.evaluation.report.run_environment import describe_environment
from recdistill.evaluation.rows import ListRows, measure_ranks
from recdistill.lists.numpy_ranks import first_k, real_scores
from recdistill.pipeline.config import Config, load_config
from recdistill.pipeline.models.model_building import build_student
from recdistill.pipeline.models.scorers import PAIRS_AT_ONCE, Scorer, compiled
from recdistill.pipeline.ranking.catalogue_ranking import rank_scores
from recdistill.pipeline.ranking.validation import Validation
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.training.trainer import VALIDATIONS
from recdistill.pipeline.training.training import TrainingPlan, train
from recdistill.pipeline.training.training_batches import training_batches

NDCG, OVERLAP, TOP = "ndcg@10", "overlap@10", 10
DEFAULT_LOSS, BASELINE = "ListwiseKLDivergence", "none"
CONTENDERS = (
    DEFAULT_LOSS,
    BASELINE,
    "ListwiseJensenShannon",
    "ListwisePlackettLuce",
    "ListwiseSoftLambdaNDCG",
    "TopKPositionWeighted",
    "TopKRelaxedRanking",
    "TopKRankDistil",
    "TopKDualCorrection",
    "PairwiseMarginMSE",
    "PairwiseRankNet",
    "PointwiseMSE",
    "PointwiseBinaryCrossEntropy",
)
"""Losses to compare, without `ListwiseSoftCrossEntropy`: its gradient is that of KL."""

PACKAGES = ("tensorflow", "keras", "numpy")


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment, the same for all losses.

    Attributes:
        contenders: Names of losses, and "none" for the baseline.
        temperatures: Temperatures tried for each loss that has one.
        weight: Weight of the distillation loss; the loss on hard labels has the rest.
        seeds: One student is trained for each; results are averaged for each list.
        cutoff: `k` of the losses that have one, except those of NDCG.
        samples: Number of bootstrap samples of the queries.
    """

    contenders: Sequence[str] = CONTENDERS
    temperatures: Sequence[float] = (1.0,)
    weight: float = 0.8
    seeds: Sequence[int] = (1, 2, 3)
    cutoff: int = 50
    samples: int = 1000


@dataclass(frozen=True)
class Arena:
    """The data for all students.

    Attributes:
        pipeline: The pipeline, whose first three steps are done.
        key: Hash of the score store and of all other inputs of the training.
        dataset: Creates the training batches for a seed.
        lists: Validation and test lists, in pieces that can be scored at once.
        teacher: For each piece the teacher's first candidates, `(lists, 10)`.
    """

    pipeline: Pipeline
    key: str
    dataset: Callable[[int], tf.data.Dataset]
    lists: Mapping[str, Sequence[Lists]]
    teacher: Mapping[str, Sequence[np.ndarray]]

    @property
    def config(self) -> Config:
        """The pipeline's configuration."""
        return self.pipeline.config

    def rows(self, split: str, score: Scorer) -> pa.Table:
        """One row for each list of a split: NDCG, and the overlap with the teacher."""
        rows, size = ListRows(), self.pipeline.prepared.catalogue_size
        for lists, wanted in zip(self.lists[split], self.teacher[split], strict=True):
            scores = score_catalogue(score, lists, size)
            ranking = rank_scores(scores, lists, TOP)
            judged = measure_ranks(ranking.ranks, [NDCG])
            judged[OVERLAP] = shared(wanted, ranking.top)
            rows.add(lists.list_id, list(lists.query_id), judged)
        return rows.table()


@dataclass(frozen=True)
class Choice:
    """The best student of one loss, chosen on validation.

    Attributes:
        loss: Name and settings of the loss, JSON-ready; None for the baseline.
        learning_rate: The chosen learning rate.
        valid: Rows of the validation lists, averaged over seeds.
        test: The same for the test lists.
        trials: Validation NDCG of all trials, by temperature and learning rate.
    """

    loss: dict[str, Any] | None
    learning_rate: float
    valid: pa.Table
    test: pa.Table
    trials: dict[str, float] = field(default_factory=dict)


def quiet(*_: Any) -> None:
    """Callback for progress that ignores it."""


def open_arena(config: Config, progress: Any = quiet) -> Arena:
    """Run or reuse the pipeline's first three steps and read their artefacts."""
    pipeline = Pipeline(config, progress)
    store = pipeline.run("score")
    prepared, targets = pipeline.prepared, pipeline.soft_targets
    collate = Collator(prepared.catalogue_size, with_teacher=True)
    shards = sorted(store.path.glob("scores-*.parquet"))

    def dataset(seed: int) -> tf.data.Dataset:
        size = config.student.batch_size
        return training_batches(shards, collate, size, seed, targets)

    size = max(1, PAIRS_AT_ONCE // prepared.catalogue_size)
    settings = config.evaluate
    valid = Validation.sample(prepared, [NDCG], settings.valid_lists, config.seed).lists
    lists = {"valid": valid, "test": list(in_order(prepared.shards("test"), size))}
    score = teacher_scorer(pipeline)
    teacher = {
        split: [
            first_items(score_catalogue(score, each, prepared.catalogue_size), each)
            for each in pieces
        ]
        for split, pieces in lists.items()
    }
    student = config.student.model_dump(mode="json", exclude={"learning_rates"})
    key = fingerprint(
        {
            "score": store.key,
            "student": student,
            "valid_lists": settings.valid_lists,
            "targets": [targets.transform, targets.teacher_temperature],
        }
    )
    return Arena(pipeline, key, dataset, lists, teacher)


def teacher_scorer(pipeline: Pipeline) -> Scorer:
    """The pipeline's trained teacher, for lists that are not in the score store."""
    pipeline.run("teacher")
    return compiled(pipeline.context.teacher_model)


def first_items(scores: np.ndarray, lists: Lists) -> np.ndarray:
    """The top ten of the catalogue for each list, `(lists, 10)`, padded with -1."""
    mask = catalogue_mask(lists, scores.shape[1])
    return first_k(real_scores(scores, mask, name="scores"), TOP)


def shared(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The share of the wanted items that were found, for each row.

    Example:
        >>> shared(np.array([[1, 2, -1]]), np.array([[2, 5, -1]]))
        array([0.5])
    """
    real = wanted >= 0
    both = (wanted[:, :, None] == found[:, None, :]).any(axis=2) & real
    return both.sum(axis=1) / real.sum(axis=1)


def variants(name: str, settings: Settings) -> list[Any]:
    """The losses to try for a name: one for each temperature, if it has one."""
    if name == BASELINE:
        return [None]
    cls = getattr(losses, name)
    known = cls().get_config()
    own = {"k": settings.cutoff} if "k" in known and "NDCG" not in name else {}
    if "temperature" not in known:
        return [cls(**own)]
    return [cls(temperature=each, **own) for each in settings.temperatures]


def trained(
    arena: Arena, loss: Any, rate: float, seed: int, weight: float, progress: Any
) -> Path:
    """Train a student or reuse it; the folder has its `valid` and `test` rows."""
    what = {"arena": arena.key, "loss": described(loss), "seed": seed, "rate": rate}
    if loss is not None:
        what["weight"] = weight
    with arena.pipeline.workspace.produce("loss", what) as draft:
        if draft.done is None:
            keras.utils.set_random_seed(seed)
            config, prepared = arena.config, arena.pipeline.prepared
            student = build_student(config.student, prepared)
            name = BASELINE if loss is None else type(loss).__name__
            fitted = train(
                around(student, loss, weight),
                arena.dataset(seed).skip,
                Validation(arena.lists["valid"], prepared.catalogue_size, [NDCG]),
                TrainingPlan(
                    learning_rate=rate,
                    steps=config.student.steps,
                    epochs=min(VALIDATIONS, config.student.steps),
                    patience=VALIDATIONS,
                ),
                progress,
                f"{name}, seed {seed}",
            )
            for split in arena.lists:
                rows = arena.rows(split, compiled(student))
                pq.write_table(rows, draft.path / f"{split}.parquet")
            draft.record = {**what, "trial": vars(fitted)}
    return draft.artefact().path


def around(student: Any, loss: Any, weight: float) -> Distiller:
    """A distiller of the student with hard labels and, unless it is None, the loss."""
    if loss is None:
        return Distiller(None, student, student_loss_weight=1.0)
    return Distiller(None, student, loss, [weight], student_loss_weight=1.0 - weight)


def described(loss: Any) -> dict[str, Any] | None:
    """Name and settings of a loss, JSON-ready."""
    if loss is None:
        return None
    config = {k: v for k, v in loss.get_config().items() if k != "name"}
    return {"class": type(loss).__name__, **config}


def choose(arena: Arena, name: str, settings: Settings, progress: Any) -> Choice:
    """Train all variants of a loss and choose the best one on validation."""
    best: Choice | None = None
    trials: dict[str, float] = {}
    for loss in variants(name, settings):
        for rate in arena.config.student.learning_rates:
            folders = [
                trained(arena, loss, rate, seed, settings.weight, progress)
                for seed in settings.seeds
            ]
            valid = mean_rows([pq.read_table(f / "valid.parquet") for f in folders])
            temperature = getattr(loss, "temperature", None)
            trials[f"temperature={temperature}, learning_rate={rate}"] = mean(valid)
            if best is None or mean(valid) > mean(best.valid):
                test = mean_rows([pq.read_table(f / "test.parquet") for f in folders])
                best = Choice(described(loss), rate, valid, test, trials)
    assert best is not None
    return best


def mean(rows: pa.Table) -> float:
    """Mean NDCG of the rows."""
    return float(np.nanmean(rows[NDCG].to_numpy()))


def mean_rows(tables: Sequence[pa.Table]) -> pa.Table:
    """The mean of several tables of the same lists, for each list."""
    first = tables[0]
    assert all(table["list_id"].equals(first["list_id"]) for table in tables)
    for name in (NDCG, OVERLAP):
        values = np.mean([table[name].to_numpy() for table in tables], axis=0)
        first = first.set_column(first.column_names.index(name), name, pa.array(values))
    return first


def step_times(arena: Arena, settings: Settings) -> dict[str, float]:
    """Median milliseconds of a training step with each loss, measured in turns."""
    x, y, weight = next(iter(arena.dataset(0).take(1)))
    calls = {}
    for name in settings.contenders:
        student = build_student(arena.config.student, arena.pipeline.prepared)
        loss = variants(name, settings)[0]
        distiller = around(student, loss, settings.weight)
        distiller.compile(
            keras.optimizers.AdamW(1e-4),
            loss=losses.ListwiseCrossEntropy(),
            jit_compile=False,
        )
        calls[name] = partial(distiller.train_on_batch, x, y, weight)
    timed = compare(calls, warmup=2, repeats=50, budget_s=120.0)
    return {name: latency.p50 for name, latency in timed.latencies.items()}


def run(arena: Arena, settings: Settings, progress: Any = quiet) -> dict[str, Any]:
    """Run the whole experiment.

    Args:
        arena: The data.
        settings: Settings, the same for all losses.
        progress: Callback for progress.

    Returns:
        JSON-ready: the settings, and for each loss the chosen hyperparameters, its
        metrics with intervals, and its paired differences to the default loss and to
        the baseline.
    """
    config = arena.config
    choices = {n: choose(arena, n, settings, progress) for n in settings.contenders}
    times = step_times(arena, settings)
    ci = {"samples": settings.samples, "seed": config.seed}
    outcome = {}
    for name, each in choices.items():
        outcome[name] = {
            "loss": each.loss,
            "learning_rate": each.learning_rate,
            "trials": each.trials,
            "ms_a_step": times[name],
            "valid": shown_all(bootstrap(each.valid, [NDCG, OVERLAP], **ci)),
            "test": shown_all(bootstrap(each.test, [NDCG, OVERLAP], **ci)),
        }
        for other in (DEFAULT_LOSS, BASELINE):
            if other in choices and other != name:
                gap = paired_difference(
                    each.test, choices[other].test, [NDCG, OVERLAP], **ci
                )
                outcome[name][f"test_minus_{other}"] = shown_all(gap)
    return {
        "environment": describe_environment(PACKAGES),
        "pipeline": config.name,
        "settings": {k: v for k, v in vars(settings).items() if k != "contenders"},
        "student": config.student.model_dump(mode="json"),
        "lists": {k: sum(map(len, pieces)) for k, pieces in arena.lists.items()},
        "losses": outcome,
    }


def shown_all(intervals: Mapping[str, Interval]) -> dict[str, list[float | None]]:
    """Value, lower and upper end of each interval."""
    return {name: [i.value, i.low, i.high] for name, i in intervals.items()}


def as_markdown(document: Mapping[str, Any]) -> str:
    """The table for `docs/losses.md`."""
    settings, lists = document["settings"], document["lists"]
    head = ["loss", "chosen", f"{NDCG} valid", f"{NDCG} test"]
    head += [f"minus {DEFAULT_LOSS}", f"minus {BASELINE}", f"{OVERLAP} test"]
    head += [f"minus {DEFAULT_LOSS}", "ms per step"]
    rows = [row_of(name, each) for name, each in document["losses"].items()]
    table = [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *rows]
    environment = document["environment"]
    return "\n".join(
        [
            "# Distillation losses compared on one score store\n",
            f"Written by `python -m benchmarks.losses`. Pipeline "
            f"`{document['pipeline']}`, {document['student']['steps']:,} steps of "
            f"{document['student']['batch_size']} lists; weight of the distillation "
            f"loss {settings['weight']}; seeds {list(settings['seeds'])}; temperatures "
            f"tried {list(settings['temperatures'])}, learning rates "
            f"{document['student']['learning_rates']}. {lists['valid']:,} validation "
            f"and {lists['test']:,} test lists, ranked over the whole catalogue. "
            "Checkpoint, learning rate and temperature chosen on validation; "
            "differences are paired, with 95 % intervals over queries. "
            f"{environment['cpu']}, {environment['cores']} cores.\n",
            *("| " + " | ".join(row) + " |" for row in table),
            "",
        ]
    )


def row_of(name: str, each: Mapping[str, Any]) -> list[str]:
    """The row of one loss in the table."""
    chosen = dict(each["loss"] or {}, learning_rate=each["learning_rate"])
    hidden = ("class", "reduction")
    to_default = each.get(f"test_minus_{DEFAULT_LOSS}", {})
    to_baseline = each.get(f"test_minus_{BASELINE}", {})
    return [
        f"`{name}`" if each["loss"] else name,
        ", ".join(f"{k} {v}" for k, v in chosen.items() if k not in hidden),
        f"{each['valid'][NDCG][0]:.4f}",
        f"{each['test'][NDCG][0]:.4f}",
        difference(to_default.get(NDCG)),
        difference(to_baseline.get(NDCG)),
        f"{each['test'][OVERLAP][0]:.4f}",
        difference(to_default.get(OVERLAP)),
        f"{each['ms_a_step']:.1f}",
    ]


def difference(interval: Sequence[float | None] | None) -> str:
    """A difference with its interval, as text.

    Example:
        >>> difference([0.01, -0.002, 0.022]), difference(None)
        ('+0.0100 [-0.0020, +0.0220]', '')
    """
    if interval is None:
        return ""
    value, low, high = interval
    if value is None or low is None or high is None:
        return "unknown"
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"


def write(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write both files atomically."""
    texts = {
        "losses.json": json_by_entry(document, "losses"),
        "LOSSES.md": as_markdown(document),
    }
    for name, text in texts.items():
        with atomic_write(folder / name) as aside:
            aside.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.losses")
    default = Settings()
    parser.add_argument("config", type=Path, help="a pipeline file")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--losses", nargs="+", default=default.contenders)
    parser.add_argument(
        "--temperatures", nargs="+", type=float, default=default.temperatures
    )
    parser.add_argument("--weight", type=float, default=default.weight)
    parser.add_argument("--seeds", nargs="+", type=int, default=default.seeds)
    parser.add_argument("--cutoff", type=int, default=default.cutoff)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    return parser.parse_args(argv)


def main() -> None:
    """Run the experiment, print its table and write its files."""
    given, console = arguments(), Console()
    settings = Settings(
        given.losses, given.temperatures, given.weight, given.seeds, given.cutoff
    )
    with console.status("…") as status:

        def progress(label: str, done: int, total: int | None) -> None:
            status.update(f"{label}: {done} of {total}")

        arena = open_arena(load_config(given.config, given.set), progress)
        document = run(arena, settings, progress)
    console.print(as_markdown(document))
    for path in write(document, given.out):
        console.print(f"Written: {path}")


if __name__ == "__main__":
    main()
