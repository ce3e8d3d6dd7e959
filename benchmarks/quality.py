"""Quality of all models on several data sets, from one command.

    python -m benchmarks.quality --minutes 180
    python -m benchmarks.quality --data movielens_100k --widths 8 32

For each data set this runs its pipeline in `pipelines/` with a student of each width,
the teachers "linear" and "sequence" alone (as they are in the pipeline's teacher, if it
has them), and a baseline with twice the training steps: as many as baseline and
distillation together. Everything is chosen on validation, and the test lists are ranked
once by each model.

Every finished run is an entry of `benchmarks/quality.json`, from which the page
`docs/quality.md` is written. So the command can be stopped at any time and continued:
it runs what is missing there and what had other settings. To measure a run again,
delete its entry. With `--minutes` no further run starts when the time is over.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from rich.console import Console

from benchmarks import json_by_entry
from recdistill.atomic import atomic_write, fingerprint
from recdistill.errors import RecdistillError
from recdistill.evaluation.intervals import bootstrap
from recdistill.evaluation.report.run_environment import describe_environment
from recdistill.evaluation.report.run_report import Report
from recdistill.pipeline.candidates.scored_candidates import lists_to_evaluate
from recdistill.pipeline.config import Config, load_config
from recdistill.pipeline.config.teacher_section import (
    EnsembleTeacherConfig,
    LinearTeacherConfig,
    SequenceTeacherConfig,
    TeacherConfig,
)
from recdistill.pipeline.models.scorers import Scorer, compiled
from recdistill.pipeline.ranking.validation import Validation
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.variants.student_sweep import measured_export

METRICS = ("ndcg@10", "recall@10", "recall@50")
WIDTHS = (32, 8, 16, 64)
ALONE = {"linear": LinearTeacherConfig, "sequence": SequenceTeacherConfig}
SEGMENTS = ("head", "torso", "tail", "new")


@dataclass(frozen=True)
class DataSet:
    """A pipeline file, and what is changed in it."""

    pipeline: str
    overrides: tuple[str, ...] = ()


DATA = {
    "movielens_100k": DataSet("movielens_100k.toml", ("student.seeds=3",)),
    "movielens_latest_small": DataSet("movielens_latest_small.toml"),
    "amazon_beauty": DataSet("amazon_beauty.toml"),
    "amazon_video_games": DataSet(
        "amazon_beauty.toml",
        (
            "name=amazon_video_games",
            "dataset.path=../shared/data/amazon-video-games",
            'candidate={ item_id = { kind = "id" } }',
        ),
    ),
    "synthetic": DataSet("synthetic.toml"),
}


@dataclass(frozen=True)
class Point:
    """One run: a data set, what is run, and its settings.

    Attributes:
        data: Name of the data set.
        kind: "student", "linear", "sequence" or "more steps".
        config: The configuration.
        width: Width of the student; 0 for a teacher alone.
    """

    data: str
    kind: str
    config: Config
    width: int = 0

    @property
    def key(self) -> str:
        """Name of its result: what it is, without its settings."""
        return f"{self.data}, {self.kind} {self.width or ''}".rstrip()

    @property
    def settings(self) -> str:
        """Hash of its configuration."""
        settings = self.config.model_dump(mode="json", exclude={"workdir", "export"})
        return fingerprint(settings)


@dataclass(frozen=True)
class Plan:
    """What is run, and where.

    Attributes:
        work: Folder of all artefacts.
        data: The data sets by name.
        widths: Widths of the student.
        overrides: Changed settings of all pipelines.
        alone: Kinds of teachers that are evaluated alone.
        pipelines: Folder of the pipeline files.
    """

    work: Path
    data: Mapping[str, DataSet]
    widths: Sequence[int] = WIDTHS
    overrides: Sequence[str] = ()
    alone: Sequence[str] = tuple(ALONE)
    pipelines: Path = field(default=Path("pipelines"))

    def points(self) -> Iterator[Point]:
        """All runs, the most important of each data set first."""
        for name, data in self.data.items():
            for width in self.widths:
                yield self._point(name, data, "student", width)
            for kind in self.alone:
                yield self._point(name, data, kind)
            yield self._point(name, data, "more steps", self.widths[0])

    def _point(self, name: str, data: DataSet, kind: str, width: int = 0) -> Point:
        changes = [
            *data.overrides,
            f"evaluate.metrics={json.dumps(METRICS)}",
            "distill.gate=warn",
            f"workdir={self.work}",
            *self.overrides,
        ]
        if width:
            changes.append(f"student.dim={width}")
        config = load_config(self.pipelines / data.pipeline, changes)
        if kind in ALONE:
            config = config.model_copy(update={"teacher": _alone(config, kind)})
        if kind == "more steps":
            more = {"steps": 2 * config.student.steps}
            student = config.student.model_copy(update=more)
            config = config.model_copy(update={"student": student})
        return Point(name, kind, config, width)


def _alone(config: Config, kind: str) -> TeacherConfig:
    """Settings of a kind of teacher: those of the pipeline's member of that kind."""
    teacher = config.teacher
    members = (
        teacher.members if isinstance(teacher, EnsembleTeacherConfig) else (teacher,)
    )
    found = (each for each in members if each.kind == kind)
    return next(found, ALONE[kind]())


def run(
    plan: Plan, results: Path, output: Path, seconds: float, say: Any = print
) -> bool:
    """Runs what is missing, and writes results and page after each run.

    Args:
        plan: What is run.
        results: JSON file of the results. Those of other runs stay as they are.
        output: File of the page.
        seconds: No run starts later than this.
        say: Called with a line about each run.

    Returns:
        Whether every run has a result.
    """
    begun, complete = time.monotonic(), True
    for point in plan.points():
        if _read(results).get(point.key, {}).get("settings") == point.settings:
            continue
        if time.monotonic() - begun > seconds:
            complete = False
            continue
        say(point.key)
        try:
            result = measure(point)
        except (RecdistillError, OSError) as error:
            say(f"  left out: {error}")
            complete = False
            continue
        # Read again: another command may have added results.
        found = {**_read(results), point.key: result}
        with atomic_write(results) as temporary:
            temporary.write_text(json_by_entry(found), encoding="utf-8")
        with atomic_write(output) as temporary:
            temporary.write_text(page(list(found.values())), encoding="utf-8")
    return complete


def _read(results: Path) -> dict[str, dict[str, Any]]:
    """The results by key; none if there is no file."""
    if not results.is_file():
        return {}
    found: dict[str, dict[str, Any]] = json.loads(results.read_text("utf-8"))
    return found


def measure(point: Point) -> dict[str, Any]:
    """The result of a run, JSON-ready."""
    pipeline = Pipeline(point.config)
    result = {
        "data": point.data,
        "kind": point.kind,
        "width": point.width,
        "seed": point.config.seed,
        "settings": point.settings,
        "config": point.config.model_dump(
            mode="json", exclude={"workdir", "export"}, exclude_unset=True
        ),
        "environment": describe_environment(),
    }
    if point.kind == "student":
        return {**result, **_of_student(pipeline)}
    step = "baseline" if point.kind == "more steps" else "teacher"
    artefact = pipeline.run(step)
    context = pipeline.context
    model = (
        context.student_model("baseline")
        if step == "baseline"
        else context.teacher_model
    )
    return {
        **result,
        "source": context.artefacts["prepare"].record["source"],
        "metrics": catalogue_metrics(pipeline, compiled(model)),
        "seconds": artefact.record["seconds"],
    }


def catalogue_metrics(pipeline: Pipeline, scorer: Scorer) -> dict[str, Any]:
    """Metrics of a model that ranks the catalogue of each test list."""
    prepared, config = pipeline.prepared, pipeline.context.config
    lists = list(lists_to_evaluate(prepared, "test"))
    rows = Validation(lists, prepared.catalogue_size, METRICS).rows(scorer)
    return {
        name: [each.value, each.low, each.high]
        for name, each in bootstrap(
            rows, samples=config.evaluate.bootstrap, seed=config.seed
        ).items()
    }


def _of_student(pipeline: Pipeline) -> dict[str, Any]:
    """The result of a whole run, from its report and the measured export."""
    evaluated = pipeline.run("evaluate")
    report = Report.load(evaluated.file("report.json"))
    served = measured_export(pipeline, pipeline.context.artefacts["distill"])
    document = report.model_dump(mode="json")
    whole = {n: part["metrics"] for n, part in document["models"].items()}
    whole |= document["retrieval"]["catalogue"] if document["retrieval"] else {}
    return {
        "source": document["dataset"]["source"],
        "fingerprint": report.dataset.fingerprint,
        "candidates": report.protocol.candidates,
        "lists": report.protocol.lists,
        "models": {
            name: {metric: _numbers(one) for metric, one in metrics.items()}
            for name, metrics in whole.items()
        },
        "gap_closed": _numbers(document["gap_closed"][METRICS[0]]),
        "kept": _numbers(document["kept"][METRICS[0]]),
        "gained": _numbers(
            document["differences"]["distilled_minus_baseline"][METRICS[0]]
        ),
        "slices": {
            name: {
                slice_: _numbers(one["metrics"][METRICS[0]])
                for slice_, one in part["slices"].get("item", {}).items()
            }
            for name, part in document["models"].items()
        },
        "slices_gained": {
            name: _numbers(one["metrics"][METRICS[0]])
            for name, one in document["slice_differences"].get("item", {}).items()
        },
        "seeds": document["seeds"],
        "served": served.record["measured"],
        "seconds": document["timings_s"],
    }


def _numbers(estimate: Mapping[str, Any]) -> list[float | None]:
    """Value, low and high of an interval of a report."""
    return [estimate["value"], *(estimate["ci"] or [None, None])]


def page(found: Sequence[Mapping[str, Any]]) -> str:
    """The page with the tables of all results.

    Args:
        found: Results of `measure`.
    """
    text = [
        "# Quality",
        "",
        "Written by `python -m benchmarks.quality` (`make quality`). NDCG and recall of"
        " the test lists, with 95 % intervals over queries. All models rank the whole"
        " catalogue, except that a teacher with retrieved candidates re-ranks these;"
        " *gap closed*, *kept* and slices then are among the retrieved candidates."
        " *Gained* is distilled minus baseline, paired. Slices are those of the"
        " relevant items' popularity; *new* items have no training interactions. The"
        " baseline with more steps has twice the training steps, as many as baseline"
        " and distillation together. Everything was chosen on validation. *ms* is the"
        " median of one query, all items of the catalogue ranked by the exported"
        " SavedModel on one thread. *Training* of a distilled student includes its"
        " teacher and its scores, but not the baseline. Times are those of the clock,"
        " for all seeds of a student; other work of the machine lengthens them.",
    ]
    for data in dict.fromkeys(each["data"] for each in found):
        text += ["", f"## {data}", ""]
        text += _section([each for each in found if each["data"] == data])
    return "\n".join(text) + "\n"


def _section(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Tables of one data set."""
    students = [each for each in found if each["kind"] == "student"]
    students.sort(key=lambda each: each["width"])
    others = [each for each in found if each["kind"] != "student"]
    yield from _heading(["model", *METRICS, "training, s", "ms"])
    for name in ("popularity", "teacher") if students else ():
        first = students[0]
        yield _row(_quality(name, first["models"][name], first["seconds"].get(name)))
    for each in others:
        name = each["kind"]
        if each["width"]:
            name = f"baseline with more steps, width {each['width']}"
        yield _row(_quality(name, each["metrics"], each["seconds"]))
    for each in students:
        yield from _towers(each)
    if students:
        yield from _effects(students)
        yield from _provenance(students[0])


def _towers(each: Mapping[str, Any]) -> Iterator[str]:
    """Baseline and distilled student of one width."""
    seconds, steps = each["seconds"], ("teacher", "score", "pilot", "closure")
    trained = {
        "baseline": seconds["baseline"],
        "distilled": seconds["distill"] + sum(seconds.get(s, 0.0) for s in steps),
    }
    for name, total in trained.items():
        label = f"{name}, width {each['width']}"
        served = each["served"]["p50"]
        yield _row(_quality(label, each["models"][name], total, served))


def _effects(students: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Effect of the distillation by width, on all lists and on slices."""
    yield ""
    slices = [f"{name}: baseline, gained" for name in SEGMENTS]
    yield from _heading(["width", "gap closed", "kept", "gained", *slices])
    for each in students:
        cells = [str(each["width"])]
        cells += [_cell(each[name], ".0%") for name in ("gap_closed", "kept")]
        cells.append(_cell(each["gained"], "+.4f"))
        for name in SEGMENTS:
            before = _cell(each["slices"]["baseline"].get(name, [None])[:1], ".4f")
            gained = _cell(each["slices_gained"].get(name, [None]), "+.4f")
            cells.append(f"{before}, {gained}" if before and gained else "")
        yield _row(cells)
    yield ""
    for each in students:
        if each["seeds"]:
            yield f"- Width {each['width']}: {_spread(each['seeds'])}"


def _provenance(each: Mapping[str, Any]) -> Iterator[str]:
    """Data, seed and settings behind a table."""
    yield (
        f"- {each['lists']:,} test lists, candidates: {each['candidates']}, seed "
        f"{each['seed']}, prepared data {each['fingerprint'][:12]}"
    )
    for name, digest in each["source"].items():
        yield f"- `{name}`: SHA-256 {digest[:16]}…"
    settings = {key: each["config"][key] for key in ("teacher", "student", "distill")}
    yield f"- settings: `{json.dumps(settings)}`"


def _spread(seeds: Mapping[str, Any]) -> str:
    """Mean and standard deviation over seeds in a sentence."""
    spreads = {name: one[METRICS[0]] for name, one in seeds["models"].items()}
    found = [
        f"{name} {one['mean']:.4f} ± {one['deviation'] or 0.0:.4f}"
        for name, one in spreads.items()
    ]
    return f"{METRICS[0]} over {len(seeds['seeds'])} seeds: {', '.join(found)}"


def _quality(
    name: str,
    metrics: Mapping[str, Sequence[float | None]],
    seconds: float | None,
    milliseconds: float | None = None,
) -> list[str]:
    return [
        name,
        *(_cell(metrics.get(metric, [None]), ".4f") for metric in METRICS),
        _cell([seconds], ".0f"),
        _cell([milliseconds], ".2f"),
    ]


def _cell(numbers: Sequence[float | None], form: str) -> str:
    """A number with its interval; empty if it is unknown."""
    value, *ends = numbers
    if value is None:
        return ""
    if not ends or None in ends:
        return f"{value:{form}}"
    return f"{value:{form}} [{ends[0]:{form}}, {ends[1]:{form}}]"


def _heading(columns: Sequence[str]) -> Iterator[str]:
    yield _row(columns)
    yield _row(["---", *["---:"] * (len(columns) - 1)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Reads the command line and runs what is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("--minutes", type=float, default=180.0, help="time for runs")
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--widths", nargs="+", type=int, default=WIDTHS)
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"))
    parser.add_argument(
        "--results", type=Path, default=Path(__file__).with_suffix(".json")
    )
    parser.add_argument("--output", type=Path, default=Path("docs/quality.md"))
    given = parser.parse_args()
    plan = Plan(
        given.work,
        {name: DATA[name] for name in given.data},
        given.widths,
        given.set,
    )
    console = Console()
    seconds = 60.0 * given.minutes
    complete = run(plan, given.results, given.output, seconds, console.print)
    console.print("Complete." if complete else "Not complete: run it again.")


if __name__ == "__main__":
    main()
