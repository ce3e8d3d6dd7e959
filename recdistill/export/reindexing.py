"""Reindexing: `reindex` replaces the items of an export and keeps its towers.

Item embeddings are variables of the SavedModel, and its graph contains neither the
items nor their number (`recdistill.retrieval.catalogue`). The exported candidate tower
encodes the new items, and the next version is a copy of the old one with other
variables: graph and towers are copied byte for byte. It needs neither Keras nor the
training data nor the training code. The parity check uses the queries that the old
version contains.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from recdistill.atomic import require_space
from recdistill.data import column_values
from recdistill.data.dataset import Progress, no_progress
from recdistill.errors import DataError, ReindexError
from recdistill.export.layout import (
    ASSETS,
    BATCHING_PARAMS,
    EXTRA,
    MOST_ROWS,
    REAL_QUERIES,
    SAVED_MODEL,
    SMALL_FILES,
    VARIABLES,
    check_loadable,
    read_manifest,
    verified_manifest,
    versions,
)
from recdistill.export.list_inputs import with_empty_column
from recdistill.export.parity import Arrays, Live, read_logs
from recdistill.export.publishing import (
    FORMAT,
    Export,
    check_warm_up,
    compared_queries,
    encoded,
    indexed,
    publish,
)
from recdistill.export.raw_inputs import as_inputs, raw_items
from recdistill.export.title_file import write_titles
from recdistill.export.unknown_items import (
    check_known_items,
    other_types,
    unknown_in,
)
from recdistill.features.raw_numbers import as_doubles, converted, vector_of
from recdistill.features.raw_text import BadValueError, is_text, plain
from recdistill.features.specs import SPECS, FeatureSpec
from recdistill.retrieval.catalogue import (
    CHECKPOINT_KEY,
    Catalogue,
    check_unique,
    stored_bytes,
)
from recdistill.retrieval.indexing import IndexSettings

__all__ = ["ReindexError", "reindex"]


def reindex(
    folder: Path,
    items: pa.Table,
    *,
    version: int | None = None,
    warm_up_batches: tuple[int, ...] | None = None,
    progress: Progress = no_progress,
) -> Export:
    """Publishes the next version of a model with another catalogue.

    The kind of index, its storage, the target recall and `top_k` stay the same; for an
    IVF index, clusters and number of probes are computed again. Columns that the run
    converted (`dataset.items.types`) are converted in the same way.

    Args:
        folder: The folder of the model's versions, `…/name`.
        items: The new catalogue: one row for each item. For a student it has the
            columns of the candidate's features; for an export of `export_towers`, the
            inputs of the candidate tower and the ids as `item_id`.
        version: Version whose towers are used (default: the latest).
        warm_up_batches: Batch sizes of the warm-up requests (default: those of the old
            version).
        progress: Callback for progress.

    Returns:
        The published version.

    Raises:
        ReindexError: If the version does not exist, cannot be reindexed or has no
            candidate tower, if there are fewer items than `top_k`, if a column is
            missing, if an item occurs twice, or if all values of a feature are unknown
            to the model.
        NotAnExportError: If the version has no manifest.
        ArtefactError: If a file of the version is damaged.
        ExportError: If the new version does not answer as its towers do.
        BusyError: If another process is publishing to the same place.
        DataError: If the table has a bad value.
    """
    old, manifest = _opened(folder, version)
    items = _as_in_training(items, manifest["schema"].get("types", {}))
    if items.num_rows < manifest["top_k"]:
        raise ReindexError(
            f"`items` must have at least as many rows as `serving_default` of {old} "
            f"returns items, {manifest['top_k']}. Received: {items.num_rows}"
        )
    if "encode_candidates" not in manifest["signatures"]:
        raise ReindexError(
            "`folder` must hold an export with a candidate tower, to encode the new "
            f"items; export the model again with new embeddings. Received: {old}, "
            "which was exported with item embeddings"
        )
    progress("Encoding the items", 0, None)
    model = tf.saved_model.load(str(old))
    facts = manifest["index"]
    settings = IndexSettings(
        facts["kind"], facts["storage"], facts.get("target_recall", 1.0)
    )
    live = _live(model.signatures, old, manifest, items)
    unknown = {}
    if hasattr(model, "candidate_indices"):
        entries = manifest["schema"]["candidate"]
        counts = unknown_in(model.candidate_indices, live.item_rows)
        check_known_items(counts, entries, items)
        unknown = {
            "unknown": counts.shares(),
            "other_types": other_types(entries, items),
        }
    live, built = indexed(live, settings)
    catalogue = Catalogue(live.item_ids, built.index)

    def write(staging: Path) -> None:
        _write(old, staging, catalogue)
        write_titles(staging, live.item_ids, items)

    # An earlier export may have larger batches than a server accepts.
    before = [min(k, MOST_ROWS) for k in manifest["warm_up"]["batch_sizes"]]
    sizes = warm_up_batches or before
    check_warm_up(sizes)
    kept = {k: manifest[k] for k in ("name", "dim", "schema", "on_device")}
    metadata = {k: v for k, v in manifest["metadata"].items() if k != "key"}
    metadata.setdefault("measured_version", int(old.name))
    return publish(
        folder,
        write,
        live,
        {
            **kept,
            **unknown,
            "index": built.facts,
            "reindexed_from": int(old.name),
            "metadata": metadata,
        },
        sizes,
        progress=progress,
    )


def _opened(folder: Path, version: int | None) -> tuple[Path, dict[str, Any]]:
    """The version whose towers are used, and its manifest."""
    check_loadable(folder)
    found = versions(folder)
    if not found or (version is not None and version not in found):
        wanted = "" if version is None else f" {version}"
        raise ReindexError(
            f"`folder` must hold the version{wanted} of a model that recdistill "
            f"exported. Received: {folder} with {found or 'no version'}"
        )
    path = folder / str(version if version is not None else found[-1])
    manifest = read_manifest(path)
    if manifest["format"] != FORMAT:
        raise ReindexError(
            f"`folder` must hold an export of format {FORMAT}; export the model again. "
            f"Received: format {manifest['format']} in {path}"
        )
    return path, verified_manifest(path)


def _live(
    signatures: Mapping[str, Any],
    old: Path,
    manifest: Mapping[str, Any],
    items: pa.Table,
) -> Live:
    """Embeddings of the new items and of the stored queries, by the old towers."""
    [log] = read_logs(old / REAL_QUERIES)
    request = log.predict_log.request
    query_rows = {n: tf.make_ndarray(proto) for n, proto in request.inputs.items()}
    query_rows = compared_queries(query_rows, items.num_rows)
    try:
        item_rows, ids = _item_rows(manifest["schema"], items)
        check_unique(ids)
    except DataError:
        raise
    except ValueError as error:
        raise ReindexError(str(error)) from error
    described = manifest["signatures"]["encode_candidates"]["inputs"]
    specs = {
        name: tf.TensorSpec(info["shape"], info["dtype"])
        for name, info in described.items()
    }
    item_rows = with_empty_column(item_rows, specs)

    def encode(signature: str, rows: Arrays) -> np.ndarray:
        call = signatures[signature]
        return encoded(lambda tensors: call(**tensors)["embedding"], rows)

    return Live(
        query_rows,
        item_rows,
        ids,
        encode("encode_query", query_rows),
        encode("encode_candidates", item_rows),
        manifest["top_k"],
        excluded_inputs=manifest.get("excluded_inputs", ()),
    )


def _as_in_training(items: pa.Table, types: Mapping[str, Any]) -> pa.Table:
    """The table with its columns converted as the training data was.

    Args:
        items: The table.
        types: `dataset.items.types` of the run; columns that are missing are ignored.

    Raises:
        DataError: If a value does not have the type of its column.
    """
    for column in set(types) & set(items.column_names):
        place = column_values.Place("items", column)
        values = column_values.typed(
            items[column].combine_chunks(), types[column], place
        )
        at = items.column_names.index(column)
        items = items.set_column(at, column, values)
    return items


def _item_rows(
    schema: Mapping[str, Any], items: pa.Table
) -> tuple[Arrays, Sequence[str]]:
    """Raw candidate inputs and ids of the new items."""
    entries, id_column = schema["candidate"], schema["item_id"]
    if id_column in entries and entries[id_column]["kind"] != "input":
        rows = raw_items({name: _spec(entry) for name, entry in entries.items()}, items)
        return rows, rows[id_column].tolist()
    if id_column not in items.column_names:
        raise ReindexError(
            f"`items` must have the column {id_column!r} with the ids. "
            f"Received: {items.column_names}"
        )
    inputs = {
        name: tf.TensorSpec(entry["shape"], entry["dtype"])
        for name, entry in entries.items()
    }
    columns = {}
    for name in items.column_names:
        try:
            columns[name] = _input_column(items[name], inputs.get(name))
        except BadValueError as error:
            raise ReindexError(
                f"`items`, column `{name}`, row {error.index + 1}: {error}"
            ) from error
    place = column_values.Place("items", id_column)
    ids = column_values.ids(items[id_column].combine_chunks(), place)
    return as_inputs("items", columns, inputs), ids.to_pylist()


def _input_column(column: pa.ChunkedArray, spec: tf.TensorSpec | None) -> Any:
    """Values of an input; numbers and vectors may be text, as in CSV files."""
    values = plain(column.combine_chunks())
    if spec is None or spec.dtype == tf.string or not is_text(values.type):
        return column.to_pandas()
    if len(spec.shape) > 1:
        vectors = converted(values, vector_of, [])
        return np.asarray(vectors, spec.dtype.as_numpy_dtype)
    numbers = as_doubles(values)
    whole = np.isfinite(numbers).all() and (numbers == np.floor(numbers)).all()
    return numbers.astype("int64") if spec.dtype.is_integer and whole else numbers


def _spec(entry: Mapping[str, Any]) -> FeatureSpec:
    """Specification of a feature from its entry in the manifest."""
    kind = SPECS[entry["kind"]]
    return kind.model_validate(
        {k: v for k, v in entry.items() if k in kind.model_fields}
    )


def _write(old: Path, staging: Path, catalogue: Catalogue) -> None:
    """Copies the old version's files, with the new variables of the catalogue."""
    large = [*(old / VARIABLES).parent.iterdir(), *(old / ASSETS).glob("*")]
    size = sum(path.stat().st_size for path in large)
    size += sum(map(stored_bytes, catalogue.variables))
    require_space(staging, SMALL_FILES + size)
    for part in (SAVED_MODEL, "fingerprint.pb", BATCHING_PARAMS):
        if (old / part).exists():
            shutil.copyfile(old / part, staging / part)
    if (old / ASSETS).exists():
        shutil.copytree(old / ASSETS, staging / ASSETS)
    (staging / EXTRA).mkdir()
    for kept in (old / EXTRA).glob("query_tower.*"):
        shutil.copyfile(kept, staging / EXTRA / kept.name)
    (staging / VARIABLES).parent.mkdir()
    reader = tf.train.load_checkpoint(str(old / VARIABLES))
    new = {CHECKPOINT_KEY.format(k): v for k, v in catalogue.tensors.items()}
    names = sorted(reader.get_variable_to_shape_map())
    missing = new.keys() - names
    if missing:
        raise ReindexError(
            "`folder` must hold an export with the same kind of index. Received: "
            f"{old} without {sorted(missing)[0]}"
        )
    tensors = [
        new[name].read_value() if name in new else tf.constant(reader.get_tensor(name))
        for name in names
    ]
    tf.raw_ops.SaveV2(
        prefix=str(staging / VARIABLES),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=tensors,
    )
