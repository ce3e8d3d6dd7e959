"""The report's metric, recomputed from the answers of the signature `recommend`.

The report describes the evaluated lists; users get the served ones. These agree only if
candidates, exclusions and scores agree. The exported model therefore answers real test
lists, and each list must have the same metric as in the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recdistill.errors import ExportError

NEAR = 1e-4
"""Two scores may be ordered differently in evaluation and serving up to this
difference, relative to the largest score of the answer if that exceeds 1."""


@dataclass(frozen=True)
class JudgedBatch:
    """Some test lists as one request, with the metric of each in the report.

    Attributes:
        queries: Raw query inputs by name, each `(lists, …)`.
        exclude_ids: `(lists, n)` ids to exclude, "" for none.
        allow_ids: `(lists, n)` ids to choose from, "" for none.
        reported: `(lists,)` the metric of each list in the report.
        measure: Function from answers `(lists, k)`, ids as text and "" for none, to the
            metric `(lists,)`.
    """

    queries: dict[str, np.ndarray]
    exclude_ids: np.ndarray
    allow_ids: np.ndarray
    reported: np.ndarray
    measure: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class JudgedMetric:
    """A metric in the report and through `recommend`, on the same test lists.

    Attributes:
        metric: Name of the metric.
        lists: Number of test lists.
        reported: Mean in the report.
        served: Mean of the answers of the export.
    """

    metric: str
    lists: int
    reported: float
    served: float


@dataclass(frozen=True)
class JudgedLists:
    """A sample of the test lists.

    Attributes:
        metric: Name of the metric, such as "ndcg@10".
        k: Number of items that the metric reads from an answer.
        batches: The lists.
    """

    metric: str
    k: int
    batches: Sequence[JudgedBatch]

    def inputs(self, items: int) -> list[dict[str, np.ndarray]]:
        """Inputs of the requests to `recommend`.

        They request one item more than the metric reads, to detect whether it is nearly
        tied with the last one.

        Args:
            items: Number of items in the catalogue.
        """
        k = min(self.k + 1, items)
        return [
            {
                **batch.queries,
                "k": np.full(len(batch.reported), k, "int32"),
                "exclude_ids": batch.exclude_ids,
                "allow_ids": batch.allow_ids,
            }
            for batch in self.batches
        ]

    def compare(
        self, answers: Sequence[Mapping[str, np.ndarray]], exact: bool
    ) -> JudgedMetric:
        """Compares the metric of the answers with the report.

        Args:
            answers: The answers to `inputs`, in order.
            exact: Whether the index is exact. Then a list may only differ if its
                answer has items with nearly equal scores.

        Raises:
            ExportError: If a list differs for no such reason.
        """
        reported = np.concatenate([batch.reported for batch in self.batches])
        served, tied = [], []
        for batch, answer in zip(self.batches, answers, strict=True):
            ids = answer["item_ids"]
            texts = [[each.decode() for each in row[: self.k]] for row in ids]
            served.append(batch.measure(np.array(texts, object)))
            tied.append(_has_near_ties(ids, answer["scores"]))
        values = np.concatenate(served)
        found = JudgedMetric(
            self.metric,
            len(values),
            round(float(reported.mean()), 6),
            round(float(values.mean()), 6),
        )
        differs = np.abs(values - reported) > 1e-6
        unexplained = int((differs & ~np.concatenate(tied)).sum())
        if exact and unexplained:
            raise ExportError(
                "The export must have the same metric as the report. Received: "
                f"{self.metric} {found.served:.4f} through `recommend` and "
                f"{found.reported:.4f} in the report on the same {found.lists} test "
                f"lists; {unexplained} lists differ"
            )
        return found


def _has_near_ties(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """`(lists,)` bool: whether two adjacent items have nearly equal scores."""
    real = ids != b""
    scores = np.where(real, scores.astype("float64"), 0.0)
    scale = np.maximum(np.abs(scores).max(axis=1, initial=0.0), 1.0)[:, None]
    close = np.abs(np.diff(scores, axis=1)) <= NEAR * scale
    return np.asarray((close & real[:, 1:]).any(axis=1))
