"""Preparation: vocabularies, item table, training rows and list shards of a data set.

All statistics (vocabularies, means, popularity, the training rows of the linear item
model) are computed from the training part only.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recdistill.data import Dataset
from recdistill.data.dataset import Progress
from recdistill.errors import DataError
from recdistill.features.encoders import Encoder, VocabularyEncoder, build_encoder
from recdistill.features.schema import Schema
from recdistill.features.specs import NumberSpec, raw_column
from recdistill.features.vocabulary_extension import extended_vocabulary
from recdistill.pipeline.config import Config
from recdistill.pipeline.preparation.feature_columns import (
    FeatureColumn,
    FeatureColumns,
)
from recdistill.pipeline.preparation.item_table import ItemTable, no_row_fits
from recdistill.pipeline.preparation.list_shards import ListShardWriter
from recdistill.pipeline.preparation.listed_rows import NotChosenRows
from recdistill.pipeline.preparation.part_statistics import PartStatistics
from recdistill.pipeline.preparation.partitions import Partition, Partitions
from recdistill.pipeline.preparation.query_feature_values import query_column
from recdistill.pipeline.preparation.repeats import RepeatCounts
from recdistill.pipeline.preparation.row_parts import SPLITS, TRAIN
from recdistill.pipeline.preparation.unknown_features import (
    check_known,
    unknown_in_items,
)
from recdistill.pipeline.preparation.unlabelled_rows import UnlabelledRows


def prepare(
    dataset: Dataset,
    config: Config,
    folder: Path,
    progress: Progress,
    earlier: Schema | None = None,
) -> dict[str, Any]:
    """Writes the artefact of the step `prepare`.

    Args:
        dataset: The data set.
        config: The pipeline's configuration.
        folder: An empty folder.
        progress: Callback for progress.
        earlier: Features that were fitted to earlier data. Their vocabularies are
            extended: their values keep their indices, and new values follow.

    Returns:
        Counts for the step's record, JSON-ready.

    Raises:
        DataError: If the data is invalid.
    """
    scratch = folder / "partitions"
    scratch.mkdir()
    features = FeatureColumns.find(dataset, config)
    parts = Partitions(
        dataset,
        config.split,
        scratch,
        progress,
        config.seed,
        features.of_interactions,
    )
    not_chosen = NotChosenRows(dataset, parts, scratch)
    statistics = PartStatistics(parts.times)
    found = _count(parts, statistics, not_chosen, progress)
    statistics.check(dataset.name, config.split)
    _check_weights(dataset.name, parts.columns.weight, found.weight)
    items = ItemTable(dataset, parts.item_ids, found.items, features.required("items"))
    if len(items.ids) < 2:
        raise DataError(
            f"Data set `{dataset.name}` has {len(items.ids)} item(s); at least two are "
            "required for a ranking."
        )
    seen = found.repeats.decide(config.lists.seen)
    unlabelled = UnlabelledRows(
        dataset,
        parts,
        not_chosen,
        scratch,
        statistics.last_training_time,
        features.history[0] if features.history else None,
        config.lists.per_query,
    )
    shown = _shown_in_training(parts, not_chosen, unlabelled)
    schema = _fit(dataset, features, parts, found, items, shown, earlier)
    schema.save(folder)
    items.write(folder / "items.parquet")
    writer = ListShardWriter(
        schema,
        features,
        items,
        parts,
        dataset,
        config,
        folder,
        seen,
        unlabelled.query_ids,
        found.items,
    )
    for done, part in enumerate(parts):
        writer.write(part, done, not_chosen)
        for extended, rows in unlabelled.lists(part):
            writer.write_unlabelled(extended, rows, not_chosen, found.mean_weight)
        progress("Writing lists", done + 1, len(parts))
    shutil.rmtree(scratch)
    _check(writer, dataset.name)
    _check_reachable(writer, dataset.name)
    check_known(writer.unknown, features)
    dataset.verify()
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "source": dict(dataset.source),
        "interactions": parts.rows,
        "queries": len(parts.query_ids),
        "items": len(items.ids),
        "lists": {split: writer.counts[split] for split in SPLITS},
        "unlabelled": writer.unlabelled,
        "unlabelled_without_history": writer.without_history,
        "unlabelled_without_row": writer.without_row,
        "requests": unlabelled.requests,
        "added_items": items.added,
        "unlisted_items": items.unlisted,
        "unlisted_interactions": writer.unlisted,
        "unreachable": writer.unreachable,
        "not_chosen": not_chosen.count,
        "seen": seen,
        "repeat_share": round(found.repeats.share, 6),
        "left_out_repeats": writer.left_out,
        "unknown": {
            **{split: writer.unknown[split].shares() for split in SPLITS},
            "items": unknown_in_items(schema, items.table).shares(),
        },
        "types": features.types(dataset),
        "notes": list(dataset.notes),
        **statistics.record(),
    }


class _Counts:
    """Statistics of the training part.

    Attributes:
        items: Training interactions of each item, by its number.
        trained: Whether each query has a training interaction, by its number.
        features: Statistics of the features of the interactions.
        repeats: Repeats of the training part.
        weight: Sum of the weights.
    """

    def __init__(self, parts: Partitions) -> None:
        self.items = np.zeros(len(parts.item_ids), "int64")
        self.trained = np.zeros(len(parts.query_ids), bool)
        self.features = {each.name: _Statistics(each) for each in parts.features}
        self.repeats = RepeatCounts()
        self.weight = 0.0

    @property
    def mean_weight(self) -> float:
        """Mean weight of the training interactions."""
        return self.weight / max(1, int(self.items.sum()))

    def add(self, part: Partition) -> None:
        """Adds the training rows of a partition."""
        self.repeats.add(part)
        train = part.split == TRAIN
        item, count = np.unique(part.item[train], return_counts=True)
        self.items[item] += count
        self.trained[part.query[train]] = True
        for number, statistics in enumerate(self.features.values()):
            column = part.table[f"feature{number}"].combine_chunks()
            statistics.update(column.filter(pa.array(train)))
        weights = np.ones(len(part))
        if "weight" in part.table.column_names:
            weights = np.asarray(part.table["weight"])
        self.weight += float(weights[train].sum(dtype="float64"))


class _Statistics:
    """Counts of values, or mean and deviation of numbers, updated batch by batch."""

    def __init__(self, feature: FeatureColumn) -> None:
        self.feature = feature
        self._counts = pa.table(
            {"value": pa.array([], pa.string()), "count": pa.array([], pa.int64())}
        )
        self.number, self.total, self.squares = 0, 0.0, 0.0

    def update(self, values: pa.Array) -> None:
        """Adds raw values of the training part."""
        if isinstance(self.feature.spec, NumberSpec):
            numbers = np.asarray(values)
            real = numbers[np.isfinite(numbers)].astype("float64")
            self.number += len(real)
            self.total += float(real.sum())
            self.squares += float((real**2).sum())
            return
        if pa.types.is_list(values.type):
            values = values.flatten()
        if pa.types.is_string(values.type):
            value, count = values.value_counts().flatten()
            self.add_counts(value, count)

    def add_counts(self, values: pa.Array, counts: pa.Array) -> None:
        """Adds values with their counts."""
        more = pa.table({"value": values, "count": counts.cast(pa.int64())})
        both = pa.concat_tables([self._counts, more])
        found = both.group_by("value").aggregate([("count", "sum")])
        self._counts = found.rename_columns({"count_sum": "count"})

    def state(self, earlier: Encoder | None) -> dict[str, Any]:
        """The state of an encoder, which extends the vocabulary of an earlier one."""
        if isinstance(self.feature.spec, NumberSpec):
            mean = self.total / max(self.number, 1)
            square = self.squares / max(self.number, 1)
            variance = square - mean**2
            # Below this limit the difference is that of rounding.
            deviation = variance**0.5 if variance > 1e-15 * square else 1.0
            return {"mean": mean, "deviation": deviation}
        # Ties are in alphabetical order, so the vocabulary depends on the data only.
        order = [("count", "descending"), ("value", "ascending")]
        values = self._counts.sort_by(order)["value"].combine_chunks()
        values = values.filter(pc.not_equal(values, ""))
        if isinstance(earlier, VocabularyEncoder):
            values = extended_vocabulary(earlier.values, values)
        return {"vocabulary": values}


def _count(
    parts: Partitions,
    statistics: PartStatistics,
    not_chosen: NotChosenRows,
    progress: Progress,
) -> _Counts:
    found = _Counts(parts)
    for done, part in enumerate(parts):
        statistics.add(part)
        not_chosen.check(part)
        found.add(part)
        progress("Building vocabularies", done + 1, len(parts))
    not_chosen.check_lists(parts)
    return found


def _shown_in_training(
    parts: Partitions, not_chosen: NotChosenRows, unlabelled: UnlabelledRows
) -> pa.Array:
    """Ids of the items that were shown and not chosen in lists of the training part.

    A student learns about these as well: they are negatives, and the teacher scores
    them.
    """
    shown = pa.array([], pa.string())
    for part in parts if not_chosen.count else ():
        table = not_chosen.of(part)
        if table is None:
            continue
        names = part.table["list"].filter(pa.array(part.split == TRAIN))
        lists = [names.combine_chunks()]
        for extended, rows in unlabelled.lists(part):
            lists.append(extended.table["list"].take(pa.array(rows)).combine_chunks())
        trained = pc.is_in(table["list"], value_set=pa.concat_arrays(lists))
        own = table["item"].filter(trained).combine_chunks()
        shown = pc.unique(pa.concat_arrays([shown, own]))
    return shown


def _fit(
    dataset: Dataset,
    features: FeatureColumns,
    parts: Partitions,
    found: _Counts,
    items: ItemTable,
    shown: pa.Array,
    earlier: Schema | None,
) -> Schema:
    """The schema, with vocabularies that extend those of an earlier one."""
    before = () if earlier is None else (*earlier.query, *earlier.candidate)
    known = {(each.feature, each.spec.kind): each for each in before}

    def fitted(feature: FeatureColumn, statistics: _Statistics) -> Encoder:
        state = statistics.state(known.get((feature.name, feature.spec.kind)))
        return build_encoder(feature.name, feature.spec, state)

    candidate = []
    for feature in features.candidate:
        statistics = _Statistics(feature)
        if feature.name == features.item_id:
            trained = np.flatnonzero(found.items)
            ids = parts.item_ids.take(pa.array(trained))
            statistics.add_counts(ids, pa.array(found.items[trained]))
            # After those with interactions, which are ordered by their number.
            statistics.add_counts(shown, pa.array(np.zeros(len(shown), "int64")))
        else:
            values = raw_column(
                items.table[feature.column],
                feature.spec,
                table="items",
                name=feature.column,
            )
            trained_on = pc.or_(
                pa.array(items.train_count > 0), pc.is_in(items.ids, value_set=shown)
            )
            statistics.update(values.filter(trained_on))
        candidate.append(fitted(feature, statistics))
    item_id = next(e for e in candidate if e.feature == features.item_id)
    queries = parts.query_ids.filter(pa.array(found.trained))
    query: list[Encoder] = []
    for feature in features.query:
        statistics = found.features.get(feature.name) or _Statistics(feature)
        if feature.column == features.query_column:
            statistics.update(
                raw_column(queries, feature.spec, table="interactions", name="")
            )
        elif feature.table == "queries":
            statistics.update(_of_known(dataset, feature, features, queries))
        query.append(fitted(feature, statistics))
    if features.history is not None and isinstance(item_id, VocabularyEncoder):
        query.append(build_encoder(*features.history, {}, item_id))
    return Schema(query, candidate, features.affinity, features.item_id)


def _of_known(
    dataset: Dataset,
    feature: FeatureColumn,
    features: FeatureColumns,
    queries: pa.Array,
) -> pa.Array:
    """Raw values of a feature in the rows of these queries in the table `queries`."""
    values = query_column(dataset, feature, features)
    if dataset.queries is None:
        return values
    ids = dataset.queries[features.query_column].combine_chunks()
    known = pc.is_in(ids, value_set=queries)
    if not pc.any(known).as_py():
        raise no_row_fits("queries", pc.min(queries).as_py(), ids)
    return values.slice(0, len(ids)).filter(known)


def _check_weights(name: str, column: str | None, total: float) -> None:
    """Checks that training rows have a weight above 0, if they have weights."""
    if column is not None and not total:
        raise DataError(
            f"Data set `{name}` has the weight 0 in all rows of the training part "
            f"(column `{column}`), so that nothing can be learned. Give some rows a "
            "weight above 0, or remove `dataset.columns.weight`."
        )


def _check_reachable(writer: ListShardWriter, name: str) -> None:
    """Checks that the held-out parts have items of the catalogue."""
    for split in SPLITS[1:]:
        if writer.unreachable[split] == writer.counts[split]:
            raise DataError(
                f"Data set `{name}` has no item of the catalogue in any of its "
                f"{writer.counts[split]} {split} lists, because all of these items are "
                "new: they are not in the training part, nor in a table of items. Add "
                "a table of items with their features, or change `split`."
            )


def _check(writer: ListShardWriter, name: str) -> None:
    """Checks that enough lists are left without the repeats."""
    for split in SPLITS:
        if writer.counts[split] < 2:
            raise DataError(
                f"Data set `{name}` has {writer.counts[split]} {split} list(s) without "
                "repeats; at least two are required. The lists leave out "
                f"{writer.left_out[split]} interactions with an item that the query "
                'had interacted with before. Set `lists.seen` = "include" to keep them.'
            )
