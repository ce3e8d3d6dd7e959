"""Per-list metrics: tables with one row per list.

`measure` computes ranking metrics against relevance, `agreement` compares the rankings
of teacher and student, and `ListRows` collects their results in a table. `intervals.py`
turns such tables into means and comparisons.

A list whose positive is not in the catalogue counts as 0: no model can find it, and
leaving it out would overstate the quality of all models.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recdistill.lists.numpy_ranks import BoolArray, FloatArray
from recdistill.metrics import agreement as rank_agreement
from recdistill.metrics.ranking import RelevantRanks, relevant_ranks

if TYPE_CHECKING:
    import pandas as pd

Measure = Callable[[RelevantRanks, int], FloatArray]

_AT_K: dict[str, Measure] = {
    "ndcg": RelevantRanks.ndcg,
    "dcg": RelevantRanks.dcg,
    "recall": RelevantRanks.recall,
    "precision": RelevantRanks.precision,
    "hit": RelevantRanks.hit_rate,
    "map": RelevantRanks.average_precision,
    "mrr": RelevantRanks.reciprocal_rank,
    "rbp": RelevantRanks.rank_biased_precision,
    "err": RelevantRanks.expected_reciprocal_rank,
}
_KEY_COLUMNS = ("list_id", "query_id", "top")


def measure(
    scores: npt.ArrayLike,
    relevance: npt.ArrayLike,
    mask: npt.ArrayLike,
    metrics: Sequence[str],
    *,
    unreachable: npt.ArrayLike | None = None,
) -> dict[str, FloatArray]:
    """Ranking metrics of a batch of lists, all from one ranking.

    Args:
        scores: `(batch, list_size)`. Unnormalised.
        relevance: `(batch, list_size)`, at least 0; above 0 is relevant.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        metrics: Names such as "ndcg@10", "mrr" and "mrr@10". The families are ndcg,
            dcg, recall, precision, hit, map, mrr, rbp (persistence 0.8) and err
            (highest grade 4).
        unreachable: `(batch,)`, bool. True if the positive of a list is not among its
            candidates, for example an item without training data. Such a list counts
            as 0 in every metric. None if no list is unreachable.

    Returns:
        `(batch,)` for each metric, in the order of the names. NaN for a reachable list
        without a relevant candidate; means leave it out.

    Raises:
        ValueError: If a metric is unknown, an unreachable list has a relevant
            candidate, or the arrays do not fit, as in `metrics.relevant_ranks`.

    Examples:
        >>> measure([[0.1, 0.9]], [[1, 0]], [[True, True]], ["hit@1", "mrr"])
        {'hit@1': array([0.]), 'mrr': array([0.5])}
    """
    ranks = relevant_ranks(scores, relevance, mask)
    missed = _checked_unreachable(unreachable, ranks)
    return _measured(ranks, metrics, missed)


def measure_ranks(
    ranks: RelevantRanks, metrics: Sequence[str]
) -> dict[str, FloatArray]:
    """Ranking metrics from the ranks of the relevant candidates.

    Args:
        ranks: The ranks. A list without any counts as 0 in every metric, because its
            positive is not among its candidates.
        metrics: As for `measure`.

    Returns:
        `(batch,)` for each metric, in the order of the names.

    Raises:
        ValueError: If a metric is unknown.
    """
    return _measured(ranks, metrics, ranks.relevant == 0)


def _measured(
    ranks: RelevantRanks, metrics: Sequence[str], missed: BoolArray
) -> dict[str, FloatArray]:
    functions = {name: _parse_metric(name) for name in metrics}
    return {
        name: np.where(missed, 0.0, function(ranks))
        for name, function in functions.items()
    }


def agreement(
    teacher_scores: npt.ArrayLike,
    student_scores: npt.ArrayLike,
    mask: npt.ArrayLike,
    *,
    k: int = 10,
    survival_at: Sequence[int] = (50, 100, 200),
) -> dict[str, FloatArray]:
    """Rank agreement of teacher and student: overlap, Kendall's tau, RBO, survival.

    Args:
        teacher_scores: `(batch, list_size)`. Unnormalised.
        student_scores: `(batch, list_size)`. Unnormalised, on any other scale.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        k: Number of the teacher's first candidates to compare, at least 1.
        survival_at: Values of n for `metrics.survival`: numbers of candidates that the
            student would pass on to the teacher.

    Returns:
        `(batch,)` for each of "overlap@k", "kendall_tau@k", "spearman_rho@k", "rbo"
        (persistence 0.9) and "survival@n", the share of the teacher's first k in the
        student's first n.

    Raises:
        ValueError: As the functions in `recdistill.metrics`.

    Examples:
        >>> same = agreement([[3.0, 2.0, 1.0]], [[0.3, 0.2, 0.1]], [[True] * 3], k=2)
        >>> same["overlap@2"], same["kendall_tau@2"]
        (array([1.]), array([1.]))
    """
    pair = (teacher_scores, student_scores, mask)
    values = {
        f"overlap@{k}": rank_agreement.overlap(*pair, k),
        f"kendall_tau@{k}": rank_agreement.kendall_tau(*pair, k),
        f"spearman_rho@{k}": rank_agreement.spearman_rho(*pair, k),
        "rbo": rank_agreement.rank_biased_overlap(*pair),
    }
    for n in survival_at:
        values[f"survival@{n}"] = rank_agreement.survival(*pair, k, n)
    return values


class ListRows:
    """Table with one row per list, collected from batches of per-list results.

    The columns are `list_id` (int64), `query_id` (string), one float64 column for each
    metric (NaN for a list without a value), and optionally `top` (list of int32), the
    positions of the first candidates, best first.

    Examples:
        >>> rows = ListRows()
        >>> rows.add([7, 8], ["ann", "bob"], {"hit@1": np.array([1.0, 0.0])})
        >>> rows.table().to_pylist()[0]
        {'list_id': 7, 'query_id': 'ann', 'hit@1': 1.0}
        >>> rows.to_frame()["hit@1"].mean().item()
        0.5
    """

    def __init__(self) -> None:
        self._batches: list[pa.Table] = []

    def add(
        self,
        list_ids: npt.ArrayLike,
        query_ids: Sequence[str],
        values: Mapping[str, npt.ArrayLike],
        top: npt.ArrayLike | None = None,
    ) -> None:
        """Add a batch of lists.

        Args:
            list_ids: `(batch,)`, integers; each list is added once.
            query_ids: `(batch,)`. Lists of one query have the same id.
            values: `(batch,)` for each metric, from `measure` and `agreement`.
            top: `(batch, k)`, integers, from `lists.numpy_ranks.first_k`; entries of
                -1 are left out. None to leave out the column.

        Raises:
            ValueError: If the columns differ from those of the first batch, or have
                different lengths.
        """
        columns = {
            "list_id": pa.array(np.asarray(list_ids, np.int64)),
            "query_id": pa.array(list(query_ids), pa.string()),
        }
        for name, value in values.items():
            columns[name] = pa.array(np.asarray(value, np.float64))
        if top is not None:
            first = [row[row >= 0] for row in np.asarray(top, np.int32)]
            columns["top"] = pa.array(first, pa.list_(pa.int32()))
        sizes = {name: len(column) for name, column in columns.items()}
        if len(set(sizes.values())) != 1:
            raise ValueError(
                f"`values` must have one entry for each list. Received: lengths {sizes}"
            )
        self._append(pa.table(columns))

    def _append(self, batch: pa.Table) -> None:
        if self._batches and batch.schema != self._batches[0].schema:
            raise ValueError(
                "`values` must have the columns of the first batch, "
                f"{self._batches[0].column_names}. Received: {batch.column_names}"
            )
        self._batches.append(batch)

    def extend(self, other: ListRows) -> None:
        """Adds the rows of another instance.

        Raises:
            ValueError: If the columns differ from those of the first batch.
        """
        for batch in other._batches:
            self._append(batch)

    def table(self) -> pa.Table:
        """All rows so far as an Arrow table, in the order they were added.

        Raises:
            ValueError: If no batch was added, or a list was added twice.
        """
        if not self._batches:
            raise ValueError("`table` must follow at least one `add`. Received: none")
        table = pa.concat_tables(self._batches).combine_chunks()
        ids, count = np.unique(table["list_id"].to_numpy(), return_counts=True)
        if (count > 1).any():
            raise ValueError(
                f"`list_ids` must be unique. Received: {ids[count > 1][0]} twice"
            )
        return table

    def to_frame(self) -> pd.DataFrame:
        """All rows so far as a pandas DataFrame, with the columns of `table`.

        Raises:
            ValueError: As `table`.
        """
        frame: pd.DataFrame = self.table().to_pandas()
        return frame


def metric_names(rows: pa.Table) -> list[str]:
    """Names of the metric columns of a table of rows, in order."""
    return [name for name in rows.column_names if name not in _KEY_COLUMNS]


def cut_off(metric: str) -> int | None:
    """The cut-off of a metric; None if it takes the whole ranking.

    Examples:
        >>> cut_off("ndcg@10"), cut_off("mrr")
        (10, None)
    """
    number = metric.partition("@")[2]
    return int(number) if number else None


def _parse_metric(name: str) -> Callable[[RelevantRanks], FloatArray]:
    if name == "mrr":
        return RelevantRanks.reciprocal_rank
    family, _, cutoff = name.partition("@")
    if family in _AT_K and re.fullmatch("[1-9][0-9]*", cutoff):
        function, k = _AT_K[family], int(cutoff)
        return lambda ranks: function(ranks, k)
    number = re.search("[1-9][0-9]*", name)
    known = [f"{family}@{number.group() if number else 10}" for family in _AT_K]
    nearest = difflib.get_close_matches(name.lower(), ["mrr", *known], n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ValueError(
        f"`metrics` must be mrr, or one of {', '.join(_AT_K)} with a cut-off, such as "
        f"ndcg@10. Received: {name!r}{hint}"
    )


def _checked_unreachable(
    unreachable: npt.ArrayLike | None, ranks: RelevantRanks
) -> BoolArray:
    if unreachable is None:
        return np.zeros(ranks.batch_size, np.bool_)
    missed = np.asarray(unreachable)
    if missed.dtype != np.bool_ or missed.shape != (ranks.batch_size,):
        raise ValueError(
            f"`unreachable` must be a boolean array of shape ({ranks.batch_size},). "
            f"Received: {missed.dtype} of shape {missed.shape}"
        )
    contradictory = np.flatnonzero(missed & (ranks.relevant > 0))
    if contradictory.size:
        raise ValueError(
            "`unreachable` must be False for a list with a relevant candidate. "
            f"Received: True in row {contradictory[0]}"
        )
    return missed
