"""Typed calls of a student: inputs from queries, and results from outputs."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from recdistill.serving.client.contract import (
    Query,
    SignatureContract,
    batch_of,
    ids_of,
)
from recdistill.serving.client.protocols import Answer
from recdistill.serving.client.serving_errors import QueryError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Embeddings", "Ranking", "Recommendation", "Results"]


@dataclass(frozen=True)
class Recommendation:
    """Top items for one query.

    Attributes:
        item_ids: Best first; at most the `k` of the query, fewer if exclusions left
            fewer.
        scores: `(len(item_ids),)` float32, descending.
        version: Model version that answered; None if the server does not report it.
    """

    item_ids: list[str]
    scores: np.ndarray
    version: int | None


@dataclass(frozen=True)
class Ranking:
    """Scores of one query's candidates.

    Attributes:
        item_ids: The candidates, in the order of the request.
        scores: `(candidates,)` float32; the lowest float32 for an unknown candidate.
        known: `(candidates,)` bool; False if the catalogue does not have the id.
        version: Model version that answered; None if the server does not report it.
    """

    item_ids: list[str]
    scores: np.ndarray
    known: np.ndarray
    version: int | None


@dataclass(frozen=True)
class Embeddings:
    """Query embeddings.

    Attributes:
        values: `(queries, dim)` float32. Embeddings of different model versions are not
            comparable.
        version: Model version that answered; None if the server does not report it.
    """

    values: np.ndarray
    version: int | None


_Result = TypeVar("_Result", Recommendation, Ranking)


class Results(list[_Result]):
    """List of results, one per query, which converts to a pandas DataFrame.

    Examples:
        >>> scores = np.array([2.0, 1.5], "float32")
        >>> Results([Recommendation(["a", "b"], scores, version=7)]).to_frame()
           query  rank item_id  score  version
        0      0     1       a    2.0        7
        1      0     2       b    1.5        7
    """

    def to_frame(self) -> pd.DataFrame:
        """One row for each query and item.

        Returns:
            A DataFrame with the columns `query` (position of the query in the call),
            `rank` (position of the item in its result, from 1), `item_id`, `score`,
            `known` (rankings only) and `version` (missing if not reported).
        """
        import pandas as pd

        sizes: list[int] = [len(result.item_ids) for result in self]
        columns: dict[str, object] = {
            "query": np.repeat(np.arange(len(self)), sizes),
            "rank": np.concatenate(
                [np.arange(0), *(np.arange(1, n + 1) for n in sizes)]
            ),
            "item_id": [item for result in self for item in result.item_ids],
            "score": _joined([result.scores for result in self], "float32"),
        }
        known = [result.known for result in self if isinstance(result, Ranking)]
        if known:
            columns["known"] = _joined(known, "bool")
        versions = [result.version for result in self for _ in result.item_ids]
        columns["version"] = pd.array(versions, dtype="Int64")
        return pd.DataFrame(columns)


def recommend_inputs(
    contract: SignatureContract,
    queries: Sequence[Query],
    k: int | Sequence[int],
    exclude: Sequence[Sequence[str]],
    allow: Sequence[Sequence[str] | None] | None,
) -> dict[str, np.ndarray]:
    """Inputs of the signature `recommend`; see `Client.recommend`.

    Raises:
        QueryError: If a query, `k`, `exclude` or `allow` is invalid.
    """
    inputs = batch_of(contract, queries)
    rows = len(queries)
    several = isinstance(k, Sequence | np.ndarray)
    counts = list(k) if several else [k] * rows  # type: ignore[arg-type]
    if len(counts) != rows or not all(_is_count(each) for each in counts):
        raise QueryError(
            f"`k` must be a number from 1, or one for each of the {rows} queries. "
            f"Received: k={k!r}"
        )
    inputs["k"] = np.array(counts, "int32")
    # An array has no truth value.
    nothing = exclude is None or (isinstance(exclude, Sized) and not len(exclude))
    excluded = [()] * rows if nothing else exclude
    inputs["exclude_ids"] = ids_of("exclude", excluded, rows)
    if "allow_ids" in contract.inputs:
        inputs["allow_ids"] = _allow_ids(allow, rows)
    elif allow is not None:
        raise QueryError(
            "`allow` must be None: this version of the model does not have the input "
            f"`allow_ids`. Received: allow={allow!r}"
        )
    return inputs


def recommendations(answer: Answer, k: np.ndarray) -> Results[Recommendation]:
    """Results of the signature `recommend`, each cut to the `k` of its query.

    All rows of a batch have the width of the largest `k`. A place for which no item is
    left, because of the exclusions, has the id "".

    Args:
        answer: With `item_ids` and `scores`, both `(queries, max k)`.
        k: `(queries,)`.
    """
    results: Results[Recommendation] = Results()
    for ids, scores, count in zip(
        answer.outputs["item_ids"], answer.outputs["scores"], k.tolist(), strict=True
    ):
        filled = [place for place, each in enumerate(ids[:count]) if each]
        names = [str(ids[place]) for place in filled]
        results.append(Recommendation(names, scores[filled], answer.version))
    return results


def rankings(answer: Answer, candidates: Sequence[Sequence[str]]) -> Results[Ranking]:
    """Results of the signature `rank`, without the padding.

    Args:
        answer: With `scores` and `known`, both `(queries, n)`.
        candidates: The candidates of the request.
    """
    scores, known = answer.outputs["scores"], answer.outputs["known"]
    return Results(
        Ranking(
            list(ids), scores[row, : len(ids)], known[row, : len(ids)], answer.version
        )
        for row, ids in enumerate(candidates)
    )


def _joined(arrays: Sequence[np.ndarray], dtype: str) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *arrays])


def _allow_ids(allow: Sequence[Sequence[str] | None] | None, rows: int) -> np.ndarray:
    found = ids_of("allow", [()] * rows if allow is None else allow, rows)
    for row, ids in enumerate(() if allow is None else allow):
        # In the protocol an empty list means no limit, so it must not be sent.
        if ids is not None and not any(found[row]):
            raise QueryError(
                "`allow` must name at least one item, or be None for no limit. "
                f"Received: {ids!r} for query {row}"
            )
    return found


def _is_count(value: object) -> bool:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and 1 <= int(value) < 2**31  # type: ignore[call-overload]
