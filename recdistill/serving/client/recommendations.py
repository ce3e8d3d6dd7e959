"""The typed calls: from queries to inputs, and from outputs to what was asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from recdistill.serving.client.contract import (
    Query,
    SignatureContract,
    batch_of,
    ids_of,
)
from recdistill.serving.client.protocols import Answer
from recdistill.serving.client.serving_errors import QueryError

__all__ = ["Embeddings", "Ranking", "Recommendation"]

Arrays = dict[str, np.ndarray]
Counts = int | Sequence[int]
Lists = Sequence[Sequence[str]]
Allowed = Sequence[Sequence[str] | None]


@dataclass(frozen=True)
class Recommendation:
    """The best items for a query.

    Attributes:
        item_ids: The best first; at most the `k` of the query, fewer where exclusions
            left fewer.
        scores: `(len(item_ids),)` float32, falling.
        version: The model version that answered; None where the server does not say.
    """

    item_ids: list[str]
    scores: np.ndarray
    version: int | None


@dataclass(frozen=True)
class Ranking:
    """Scores of a query's candidates, in the order in which they were given.

    Attributes:
        scores: `(candidates,)` float32; the lowest float32 for an unknown candidate.
        known: `(candidates,)` bool; False where the catalogue lacks the id.
        version: The model version that answered; None where the server does not say.
    """

    scores: np.ndarray
    known: np.ndarray
    version: int | None


@dataclass(frozen=True)
class Embeddings:
    """Query embeddings.

    Attributes:
        values: `(queries, dim)` float32. Only embeddings of one version can be compared
            with each other.
        version: The model version that answered; None where the server does not say.
    """

    values: np.ndarray
    version: int | None


def recommend_inputs(
    contract: SignatureContract,
    queries: Sequence[Query],
    k: Counts,
    exclude: Lists,
    allow: Allowed | None,
) -> Arrays:
    """The inputs of `recommend`.

    Raises:
        QueryError: If a query, `k`, `exclude` or `allow` does not fit.
    """
    inputs = batch_of(contract, queries)
    rows = len(queries)
    counts = [k] * rows if isinstance(k, Integral) else list(k)  # type: ignore[arg-type]
    if len(counts) != rows or not all(_is_count(each) for each in counts):
        raise QueryError(
            f"`k` must be a number from 1, or one for each of the {rows} queries. "
            f"Received: k={k!r}"
        )
    inputs["k"] = np.array(counts, "int32")
    inputs["exclude_ids"] = ids_of("exclude", exclude or [()] * rows, rows)
    if "allow_ids" in contract.inputs:
        inputs["allow_ids"] = _allow_ids(allow, rows)
    elif allow is not None:
        raise QueryError(
            "`allow` must not be given: this version of the model takes no "
            f"`allow_ids`. Received: allow={allow!r}"
        )
    return inputs


def recommendations(answer: Answer, k: np.ndarray) -> list[Recommendation]:
    """What `recommend` answered, for each query the `k` that it asked for.

    A batch has one width, the largest `k`; answers without an item (more excluded than
    left) have the id "".

    Args:
        answer: With `item_ids` and `scores`, both `(queries, max k)`.
        k: `(queries,)`.
    """
    result = []
    for ids, scores, count in zip(
        answer.outputs["item_ids"], answer.outputs["scores"], k.tolist(), strict=True
    ):
        there = [place for place, each in enumerate(ids[:count]) if each]
        named = [str(ids[place]) for place in there]
        result.append(Recommendation(named, scores[there], answer.version))
    return result


def rank_inputs(
    contract: SignatureContract, queries: Sequence[Query], candidates: Lists
) -> Arrays:
    """The inputs of `rank`.

    Raises:
        QueryError: If a query or `candidates` does not fit.
    """
    inputs = batch_of(contract, queries)
    inputs["candidate_ids"] = ids_of("candidates", candidates, len(queries))
    return inputs


def rankings(answer: Answer, candidates: Lists) -> list[Ranking]:
    """What `rank` answered, without the padding.

    Args:
        answer: With `scores` and `known`, both `(queries, n)`.
        candidates: As they were asked for.
    """
    scores, known = answer.outputs["scores"], answer.outputs["known"]
    return [
        Ranking(scores[row, : len(ids)], known[row, : len(ids)], answer.version)
        for row, ids in enumerate(candidates)
    ]


def _allow_ids(allow: Allowed | None, rows: int) -> np.ndarray:
    lists = [None] * rows if allow is None else allow
    for row, ids in enumerate(lists):
        # On the wire no id is no limit: an empty selection would let everything pass.
        if ids is not None and not any(ids):
            raise QueryError(
                "`allow` must name an item, or be None where any may come. "
                f"Received: {ids!r} for query {row}"
            )
    return ids_of("allow", [() if ids is None else ids for ids in lists], rows)


def _is_count(value: object) -> bool:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and 1 <= int(value) < 2**31  # type: ignore[call-overload]
