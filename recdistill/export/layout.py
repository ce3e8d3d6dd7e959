"""Layout of an export: names of its files, its versions, and reserved input names.

An export is a folder `<name>` with one SavedModel for each version, `<name>/1`,
`<name>/2` and so on. Everything that reads or writes such folders takes the names from
here. This module does not import TensorFlow, so that clients, the command line and the
load test can use it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from recdistill.atomic import difference, folder_checksums, read_sealed
from recdistill.errors import ArtefactError, NotAnExportError, RecdistillError

SAVED_MODEL = "saved_model.pb"
"""File that makes a folder a SavedModel."""

VARIABLES = Path("variables") / "variables"
"""Prefix of a SavedModel's checkpoint."""

ASSETS = Path("assets")
"""Folder of the files that the graph reads, such as vocabularies."""

EXTRA = Path("assets.extra")
"""Folder of the files that TensorFlow does not read, apart from the warm-up."""

WARM_UP = EXTRA / "tf_serving_warmup_requests"
"""Warm-up requests: a TFRecord file of `PredictionLog` that a server replays."""

WARM_UP_LIMIT = 1_000
"""Largest number of warm-up requests; a server does not load a version with more."""

MOST_ROWS = 4_096
"""Largest number of rows of a request that the embedded server accepts, because the
graph needs memory for each row and item, and largest batch of the warm-up."""

MOST_ITEMS = 10_000
"""Largest `k` of `recommend`, or the export's `top_k` if that is larger, so that no
request can exhaust the server's memory."""

MANIFEST = EXTRA / "recdistill.json"
MODEL_CARD = EXTRA / "MODEL_CARD.md"

TITLES = EXTRA / "item_titles.parquet"
"""Titles of the items, if the table of items has them: `item_id` and `title`."""

REAL_QUERIES = EXTRA / "recdistill_queries"
"""Queries of the parity check: one `encode_query` request, stored like a warm-up."""

QUERY_TOWER = EXTRA / "query_tower.tflite"
QUERY_TOWER_DESCRIPTION = EXTRA / "query_tower.json"
"""The query tower for LiteRT and the description of its inputs."""

SMALL_FILES = 2**23
"""Bytes of a version without its variables, at most: graph, warm-up and so on."""

BATCHING_PARAMS = Path("batching_params.pbtxt")
"""Batching of one version, which its operator may add to the version's folder."""

RESERVED = ("k", "exclude_ids", "allow_ids", "candidate_ids")
"""Inputs that the signatures add to the features; features cannot have these names."""

LENGTH = "_length"
"""Suffix of the input that holds the number of entries of a list in each row."""


def lists_without_length(shapes: Mapping[str, Sequence[int | None] | None]) -> set[str]:
    """Inputs `(batch, n)` of any width n for which the first column must be empty.

    A server that batches pads such an input with the first element of the whole
    request, so a request whose first column is empty ("", or 0 for numbers) is padded
    with empty entries, and its rows do not depend on each other or on other requests.
    An input with a `<name>_length` does not need this, because entries beyond the
    length are ignored. `candidate_ids` does not need it either, because padding adds
    places only at the end of the answer.

    Args:
        shapes: Shape of each input of a signature, None for an axis of any size; None
            if the rank is unknown.

    Examples:
        >>> ids = (None, None)
        >>> lists_without_length(
        ...     {"tags": ids, "seen": ids, "seen_length": (None,), "taste": (None, 2)}
        ... )
        {'tags'}
    """
    return {
        name
        for name, shape in shapes.items()
        if shape is not None
        and len(shape) > 1
        and shape[1] is None
        and name != "candidate_ids"
        and f"{name}{LENGTH}" not in shapes
    }


_LARGEST = 2**63 - 1
"""Largest version number; a server ignores names with larger numbers."""


def check_loadable(folder: Path) -> None:
    r"""Checks that TensorFlow can load SavedModels from a folder with this path.

    TensorFlow, and therefore TensorFlow Serving, finds the weights with a pattern in
    which "[" and a backslash have a special meaning.

    Raises:
        NotAnExportError: If the absolute path contains one of these characters.
    """
    path = os.path.abspath(folder)
    if "[" in path or (os.sep == "/" and "\\" in path):
        raise NotAnExportError(
            "The path of an export must not contain '[' or a backslash, because "
            "TensorFlow and TensorFlow Serving do not find the weights there. "
            f"Received: {path}. Use another folder."
        )


def versions(folder: Path) -> list[int]:
    """Version numbers in a model's folder, ascending.

    Args:
        folder: The folder of the model's versions.

    Returns:
        The numbers of all subfolders, and links to folders, whose name is a number of
        at most 63 bits without leading zeros; empty if the folder does not exist.
    """
    paths = ((number, folder / str(number)) for number in _numbers(folder))
    return sorted(number for number, path in paths if path.is_dir())


def next_version(folder: Path) -> int:
    """Number of the next version: above all numbers in the folder.

    Files, links without a target, and names such as "007" count too, because the name
    is already used, or a server reads it as a version.

    Raises:
        NotAnExportError: If the highest number is the largest possible one.
    """
    highest = max(_numbers(folder), default=0)
    if highest == _LARGEST:
        raise NotAnExportError(
            f"{folder} must have room for another version, but it contains the entry "
            f"{highest}, the largest number of a version. Rename or remove it."
        )
    return highest + 1


def _numbers(folder: Path) -> set[int]:
    """Names in a folder that a server reads as a version number, as numbers."""
    if not folder.is_dir():
        return set()
    names = (path.name for path in folder.iterdir())
    numbers = (int(name) for name in names if re.fullmatch("[0-9]+", name))
    return {number for number in numbers if number <= _LARGEST}


def find_version(export: Path) -> Path:
    """SavedModel folder of an export: the given version, or the latest one.

    Args:
        export: `<name>`, with numbered versions in it, or `<name>/<version>`.

    Returns:
        `export` itself if it is a SavedModel; otherwise the version with the highest
        number that contains a SavedModel.

    Raises:
        NotAnExportError: If there is no SavedModel, or TensorFlow could not load it.
    """
    check_loadable(export)
    if (export / SAVED_MODEL).exists():
        return export
    for version in reversed(versions(export)):
        path = export / str(version)
        if (path / SAVED_MODEL).exists():
            return path
    raise NotAnExportError(
        "`export` must be the folder of a SavedModel, or a folder with numbered "
        f"versions. Received: {export}"
    )


def read_manifest(version: Path) -> dict[str, Any]:
    """Manifest of a version, the content of `assets.extra/recdistill.json`.

    Args:
        version: The SavedModel's folder.

    Raises:
        NotAnExportError: If the manifest is missing.
        ArtefactError: If the manifest is damaged.
    """
    path = version / MANIFEST
    try:
        return read_sealed(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotAnExportError(
            f"`version` must be an export of recdistill with the manifest {MANIFEST}. "
            f"Received: {version} (no such file)"
        ) from error
    except ValueError as error:
        fault = f"the file {str(MANIFEST)!r} is damaged: {error}"
        raise _damaged(version, fault, "export") from error


def verified_manifest(version: Path) -> dict[str, Any]:
    """Manifest of a version whose files are verified by their checksums.

    Args:
        version: The SavedModel's folder.

    Raises:
        NotAnExportError: If the manifest is missing.
        ArtefactError: If a file is damaged, missing or unexpected.
    """
    manifest = read_manifest(version)
    added = [MANIFEST.as_posix(), BATCHING_PARAMS.as_posix()]
    fault = difference(manifest["sha256"], folder_checksums(version, without=added))
    if fault is not None:
        command = "reindex" if manifest.get("reindexed_from") else "export"
        raise _damaged(version, fault, command)
    return manifest


def _damaged(version: Path, fault: str, command: str) -> ArtefactError:
    return ArtefactError(
        f"The export {version} cannot be used: {fault}. Remove the folder and write "
        f"the version again with `recdistill {command}`."
    )


def version_with(folder: Path, entry: str, value: str) -> Path | None:
    """Highest version whose metadata has this value; None if there is none.

    Versions that are damaged, or were made by something else, are passed over.

    Args:
        folder: The folder of the model's versions.
        entry: The entry of the metadata, such as "key", a hash of everything that an
            export depends on, or "fingerprint", a hash of the metrics of its run.
        value: The value of the entry.
    """
    for version in reversed(versions(folder)):
        path = folder / str(version)
        with suppress(RecdistillError):
            if read_manifest(path)["metadata"].get(entry) == value:
                return path
    return None


def superseded_by(version: Path) -> Path | None:
    """The highest version beside a version; None if it is that one, or reindexed.

    Commands and servers use the highest version unless they are given another one. A
    version of the same run with other items (`reindex`) takes its place.

    Args:
        version: The SavedModel's folder, `<name>/<version>`.

    Raises:
        NotAnExportError: If the version has no manifest.
        ArtefactError: If its manifest is damaged.
    """
    latest = find_version(version.parent)
    if latest.name == version.name:
        return None
    own = read_manifest(version)["metadata"].get("fingerprint")
    try:
        other = read_manifest(latest)
    except RecdistillError:
        return latest  # Not made by this library, or damaged.
    reindexed = other.get("reindexed_from") is not None
    same = reindexed and other["metadata"].get("fingerprint") == own
    return None if same else latest
