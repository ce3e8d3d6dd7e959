"""Examples for the report page: test queries with each model's recommendations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from recdistill.data.batches import Lists
from recdistill.data.item_titles import item_titles
from recdistill.data.ragged import Ragged
from recdistill.data.shard_reading import in_order
from recdistill.evaluation.report.page_details import QueryExample
from recdistill.pipeline.evaluation.judged_lists import history_inputs
from recdistill.pipeline.evaluation.model_comparison import ComparisonRows
from recdistill.pipeline.preparation.prepared_data import Prepared

EXAMPLES = 50
HISTORY = 12
"""Largest numbers of examples, and of items of a history."""

LISTS_AT_ONCE = 4_096


def query_examples(
    prepared: Prepared, rows: ComparisonRows, seed: int
) -> list[QueryExample]:
    """Test lists drawn at random, the largest disagreements first.

    Args:
        prepared: The prepared data.
        rows: Rankings of the test lists.
        seed: Seed of the draw.
    """
    ids = rows.agreement["list_id"].to_numpy()
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.choice(ids, min(EXAMPLES, len(ids)), replace=False))
    name, history = _item_names(prepared), history_inputs(prepared.schema)
    names = dict(zip(prepared.item_ids.tolist(), name, strict=True))
    place = np.argsort(ids)[np.searchsorted(np.sort(ids), drawn)]
    top = {
        model: rows.models[model]["top"].take(place).to_pylist()
        for model in ("teacher", "distilled", "baseline")
    }
    examples = []
    for number, lists in enumerate(_lists(prepared, drawn)):
        first = {model: each[number] for model, each in top.items()}
        both = set(first["teacher"]) & set(first["distilled"])
        examples.append(
            QueryExample(
                query=str(lists.query_id[0]),
                history=_history(lists, history, names),
                chosen=[name[row] for row in lists.positives.values if row >= 0],
                top={m: [name[row] for row in each] for m, each in first.items()},
                overlap=len(both) / max(1, len(first["teacher"])),
            )
        )
    return sorted(examples, key=lambda each: each.overlap)


def _history(
    lists: Lists, features: Sequence[str], names: Mapping[str, str]
) -> list[str]:
    """Names of the items that a query had before, the latest first.

    Args:
        lists: One list.
        features: Names of the histories among the query features.
        names: Names of the items of the catalogue by id.
    """
    ids = [*names]
    past = [ids[row] for row in lists.seen.values]
    for feature in features:
        raw = lists.raw.get(feature)
        if isinstance(raw, Ragged):
            past = raw.values.tolist()
    return [names.get(each, each) for each in past[::-1][:HISTORY]]


def _lists(prepared: Prepared, drawn: np.ndarray) -> Iterator[Lists]:
    """Each of the drawn lists, in the order of their ids."""
    found = {}
    for lists in in_order(prepared.shards("test"), LISTS_AT_ONCE):
        for row in np.flatnonzero(np.isin(lists.list_id, drawn)):
            found[int(lists.list_id[row])] = lists.take(np.array([row]))
    yield from (found[each] for each in drawn.tolist())


def _item_names(prepared: Prepared) -> list[str]:
    """Title and id of each item; the id alone if the items have no titles."""
    ids: list[str] = prepared.item_ids.tolist()
    titles = item_titles(prepared.items)
    if titles is None:
        return ids
    return [
        f"{title} ({key})" if title else key
        for title, key in zip(titles.to_pylist(), ids, strict=True)
    ]
