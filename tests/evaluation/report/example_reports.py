"""A report with plausible numbers, for the tests of the report and of its views."""

from recdistill.evaluation.intervals import Interval, Slice
from recdistill.evaluation.latency.stopwatch import Latency
from recdistill.evaluation.report.run_environment import describe_environment
from recdistill.evaluation.report.run_report import (
    DatasetPart,
    GatePart,
    ModelPart,
    ProtocolPart,
    Report,
    RetrievalPart,
)
from recdistill.evaluation.report.training_parts import SoftTargetsPart

METRICS = ("ndcg@10", "recall@10", "mrr")
NO_GAP = "teacher and baseline do not differ beyond noise"


def model_part(value, *, p50=None):
    around = Interval(value, value - 0.01, value + 0.016)
    return ModelPart(
        metrics={name: around for name in METRICS},
        slices={"query": {"cold": Slice(3, 2, {"mrr": around})}},
        parameters=182_345,
        size_bytes=812_345,
        latency_ms={}
        if p50 is None
        else {
            n: Latency(
                p50,
                2 * p50,
                3 * p50,
                p50,
                p50 / 2,
                200,
                tuple(p50 * (0.5 + part / 10) for part in range(21)),
            )
            for n in ("100", "1000")
        },
    )


def report(**changes):
    fields = {
        "name": "movielens",
        "seed": 1,
        "dataset": DatasetPart(
            name="MovieLens 100K",
            fingerprint="ab12",
            interactions=100_000,
            queries=943,
            items=1682,
            lists={"train": 9_000, "test": 943},
            parts={"train": ("1997-09-20", "1998-03-01")},
            copies=9,
            copies_by_part={"train": 8, "test": 1},
            repeats={"test": 77},
        ),
        "protocol": ProtocolPart(
            split="test", lists=943, seen="exclude", unreachable=7
        ),
        "models": {
            "popularity": model_part(0.051),
            "baseline": model_part(0.081, p50=0.42),
            "distilled": model_part(0.091, p50=0.43),
            "teacher": model_part(0.102, p50=41.23),
        },
        "gap_closed": {
            "ndcg@10": Interval(0.476, 0.21, 0.71),
            "recall@10": Interval(0.55, 0.3, 0.8),
            "mrr": Interval(None, reason=NO_GAP),
        },
        "kept": {name: Interval(0.892, 0.86, 0.95) for name in METRICS},
        "differences": {
            pair: {name: Interval(0.021, 0.004, 0.032) for name in METRICS}
            for pair in (
                "teacher_minus_baseline",
                "distilled_minus_baseline",
            )
        },
        "slice_differences": {
            "query": {"cold": Slice(3, 2, {"mrr": Interval(-0.02, -0.03, -0.01)})}
        },
        "agreement": {"overlap@10": Interval(0.71, 0.69, 0.73)},
        "speedup": {"1000": 95.9},
        "gate": GatePart(passed=True, message="the teacher is better by 0.02"),
        "timings_s": {"distill": 12.5},
        "environment": describe_environment(),
        "config": {"student": {"dim": 32}},
    }
    return Report(**(fields | changes))


SOFT_TARGETS = SoftTargetsPart(
    transform="log",
    teacher_temperature=0.39,
    temperature=1.0,
    chosen_by="doctor",
    effective=98.7,
    list_size=1_568,
    findings=("The tail is heavy",),
    reason="The logarithm compresses a heavy tail",
)


RETRIEVAL = RetrievalPart(
    candidates=412.4,
    recall={
        n: Interval(share, share - 0.01, share + 0.01)
        for n, share in (("50", 0.51), ("100", 0.72), ("200", 0.83))
    },
    catalogue={
        name: {
            metric: Interval(value, value - 0.01, value + 0.01) for metric in METRICS
        }
        for name, value in (("baseline", 0.0787), ("distilled", 0.0894))
    },
)


def retrieved():
    """A report whose teacher ranks what the retrievers found."""
    protocol = report().protocol.model_copy(update={"candidates": "retrieved:200"})
    return report(protocol=protocol, retrieval=RETRIEVAL)
