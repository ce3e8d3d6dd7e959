"""One row a list: every number that a model earns, kept list by list.

`measure` judges a batch of lists against relevance, `agreement` against the teacher,
and `ListRows` gathers what they return into a table. `intervals.py` turns such tables
into means and comparisons.

A list whose positive is not in the catalogue counts 0: no model can find it, and
leaving it out would flatter all of them.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recdistill.lists.numpy_ranks import BoolArray, FloatArray
from recdistill.metrics import ranking as ranking_metrics
from recdistill.metrics.ranking import RelevantRanks, relevant_ranks

Measure = Callable[[RelevantRanks, int], FloatArray]

_AT_K: dict[str, Measure] = {
    "ndcg": RelevantRanks.ndcg,
    "recall": RelevantRanks.recall,
    "hit": RelevantRanks.hit_rate,
    "map": RelevantRanks.average_precision,
    "mrr": RelevantRanks.reciprocal_rank,
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
    """Judge a batch of lists by several metrics, from one ranking.

    Args:
        scores: `(batch, list_size)`. Unnormalised.
        relevance: `(batch, list_size)`, at least 0; above 0 is relevant.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        metrics: Names such as "ndcg@10", "recall@10", "hit@10", "map@10", "mrr" and
            "mrr@10".
        unreachable: `(batch,)`, bool. True where what the query wanted is not among the
            candidates at all, say an item without training data. Such a list counts 0
            in every metric. None means that there are none.

    Returns:
        `(batch,)` for each metric, in the order of the names. A list that is reachable
        and has nothing relevant gives NaN; means leave it out.

    Raises:
        ValueError: A metric has no such name, a list marked unreachable has a relevant
            candidate, or the arrays are wrong as in `metrics.relevant_ranks`.

    Example:
        >>> measure([[0.1, 0.9]], [[1, 0]], [[True, True]], ["hit@1", "mrr"])
        {'hit@1': array([0.]), 'mrr': array([0.5])}
    """
    functions = {name: _parse_metric(name) for name in metrics}
    ranks = relevant_ranks(scores, relevance, mask)
    lost = _checked_unreachable(unreachable, ranks)
    return {
        name: np.where(lost, 0.0, function(ranks))
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
    """How alike teacher and student order each list of a batch.

    Args:
        teacher_scores: `(batch, list_size)`. Unnormalised.
        student_scores: `(batch, list_size)`. Unnormalised, on any other scale.
        mask: `(batch, list_size)`, bool. True marks a real candidate.
        k: How much of the teacher's order matters, at least 1.
        survival_at: The n of `metrics.survival`: how many candidates the student would
            pass on to the teacher.

    Returns:
        `(batch,)` for each of "overlap@k", "kendall_tau@k", "rbo" (persistence 0.9) and
        "survival@n", the share of the teacher's first k in the student's first n.

    Raises:
        ValueError: As the functions in `metrics`.

    Example:
        >>> same = agreement([[3.0, 2.0, 1.0]], [[0.3, 0.2, 0.1]], [[True] * 3], k=2)
        >>> same["overlap@2"], same["kendall_tau@2"]
        (array([1.]), array([1.]))
    """
    pair = (teacher_scores, student_scores, mask)
    values = {
        f"overlap@{k}": ranking_metrics.overlap(*pair, k),
        f"kendall_tau@{k}": ranking_metrics.kendall_tau(*pair, k),
        "rbo": ranking_metrics.rank_biased_overlap(*pair),
    }
    for n in survival_at:
        values[f"survival@{n}"] = ranking_metrics.survival(*pair, k, n)
    return values


class ListRows:
    """Gathers batches of per-list results into a table with one row a list.

    The columns are `list_id` (int64), `query_id` (string), one float64 for each metric,
    where NaN means "cannot be judged", and optionally `top` (list of int32): the
    positions of the first candidates, best first. Only the rows are held in memory.

    Example:
        >>> rows = ListRows()
        >>> rows.add([7, 8], ["ann", "bob"], {"hit@1": np.array([1.0, 0.0])})
        >>> rows.table().to_pylist()[0]
        {'list_id': 7, 'query_id': 'ann', 'hit@1': 1.0}
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
            query_ids: `(batch,)`. Lists of one query share its id.
            values: `(batch,)` for each metric, as from `measure` and `agreement`.
            top: `(batch, k)`, integers, as from `ranks.first_k`; entries of -1 are
                left out. None for no such column.

        Raises:
            ValueError: The columns differ from those of the first batch, or their
                lengths from each other.
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
        batch = pa.table(columns)
        if self._batches and batch.schema != self._batches[0].schema:
            raise ValueError(
                "`values` must have the columns of the first batch, "
                f"{self._batches[0].column_names}. Received: {batch.column_names}"
            )
        self._batches.append(batch)

    def table(self) -> pa.Table:
        """All rows so far, in the order they were added.

        Raises:
            ValueError: No batch was added, or a list was added twice.
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


def metric_names(rows: pa.Table) -> list[str]:
    """The metric columns of a table of rows, in order."""
    return [name for name in rows.column_names if name not in _KEY_COLUMNS]


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
        "`metrics` must be ndcg@k, recall@k, hit@k, map@k, mrr@k or mrr, with k a "
        f"positive integer. Received: {name!r}{hint}"
    )


def _checked_unreachable(
    unreachable: npt.ArrayLike | None, ranks: RelevantRanks
) -> BoolArray:
    if unreachable is None:
        return np.zeros(ranks.batch_size, np.bool_)
    lost = np.asarray(unreachable)
    if lost.dtype != np.bool_ or lost.shape != (ranks.batch_size,):
        raise ValueError(
            f"`unreachable` must be a boolean array of shape ({ranks.batch_size},). "
            f"Received: {lost.dtype} of shape {lost.shape}"
        )
    contradictory = np.flatnonzero(lost & (ranks.relevant > 0))
    if contradictory.size:
        raise ValueError(
            "`unreachable` must be False for a list with a relevant candidate. "
            f"Received: True in row {contradictory[0]}"
        )
    return lost
