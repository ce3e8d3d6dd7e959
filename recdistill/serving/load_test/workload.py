"""Workload of a load test: real queries, serialised into messages in advance.

All slow work is done before the test starts, so that the load generator only sends
bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recdistill.export.layout import WARM_UP, find_version
from recdistill.export.warm_up import read_records
from recdistill.serving.client.contract import (
    Query,
    SignatureContract,
    batch_of,
    ids_of,
)
from recdistill.serving.client.messages import PredictionLog
from recdistill.serving.client.protocols import Message, ServingProtocol, Target
from recdistill.serving.client.serving_errors import QueryError
from recdistill.serving.client.tensors import from_proto

__all__ = [
    "Workload",
    "queries_from_columns",
    "queries_from_lines",
    "recorded_rows",
    "rows_of",
]

Row = dict[str, np.ndarray]

MOST_MESSAGES = 2000
"""Maximum number of messages; a longer test repeats them."""


@dataclass(frozen=True)
class Workload:
    """Messages to send in order, repeated from the first if the test is longer.

    Attributes:
        messages: At least one message.
        signature: Signature that they call.
        batch_size: Queries in each message.
        queries: Number of distinct queries.
        target: Model, and its version or label, that they address.
    """

    messages: Sequence[Message]
    signature: str
    batch_size: int
    queries: int
    target: Target

    @classmethod
    def of_rows(
        cls,
        rows: Sequence[Row],
        protocol: ServingProtocol,
        target: Target,
        signature: str,
        batch_size: int,
    ) -> Workload:
        """Messages of `batch_size` queries each, cycling through the queries.

        Args:
            rows: Inputs of each query, each `(1, …)`; at least one query.
            protocol: gRPC or REST, which serialises the messages.
            target: Model to address.
            signature: Signature to call.
            batch_size: Queries in each message, at least 1.

        Raises:
            QueryError: If there are no queries or the batch size is not positive.
        """
        if not rows or batch_size < 1:
            raise QueryError(
                "`rows` must have at least one query and `batch_size` must be at least "
                f"1. Received: {len(rows)} queries, batch_size={batch_size}"
            )
        # One message per query, so that every query is sent equally often.
        count = min(MOST_MESSAGES, len(rows))
        messages = []
        for first in range(count):
            places = [(first * batch_size + n) % len(rows) for n in range(batch_size)]
            inputs = _stacked([rows[place] for place in places])
            messages.append(protocol.predict(target, signature, inputs))
        return cls(messages, signature, batch_size, len(rows), target)


def rows_of(queries: Sequence[Query], contract: SignatureContract, k: int) -> list[Row]:
    """Inputs of a signature for each query.

    Args:
        queries: Features by name and, if the signature has these inputs, `k`,
            `exclude_ids`, `allow_ids` or `candidate_ids`. Other keys are ignored.
        contract: Inputs and outputs of the signature.
        k: Number of items for queries without `k`.

    Returns:
        The inputs of each query, each `(1, …)`.

    Raises:
        QueryError: If a query does not match the signature or has no candidates to
            rank.
    """
    wanted = {*contract.features, *contract.histories.values()}
    rows = []
    for number, query in enumerate(queries):
        features = {name: value for name, value in query.items() if name in wanted}
        row = batch_of(contract, [features])
        if "k" in contract.inputs:
            row["k"] = np.array([_k(query, k, number)], "int32")
        for name in ("exclude_ids", "allow_ids", "candidate_ids"):
            if name in contract.inputs:
                row[name] = _ids(name, query, number)
        rows.append(row)
    return rows


def recorded_rows(export: Path, signature: str) -> list[Row]:
    """Distinct queries among an export's warm-up requests of one signature.

    Args:
        export: `<export>/<name>` for its latest version, or one version's folder.
        signature: Name of the signature.

    Returns:
        The inputs of each query, each `(1, …)`.

    Raises:
        NotAnExportError: If there is no version.
        QueryError: If the signature has no warm-up request.
        DataError: If the file is damaged.
        OSError: If the file cannot be read.
    """
    version = find_version(export)
    rows: dict[bytes, Row] = {}
    seen = set()
    for record in read_records(version / WARM_UP):
        request = PredictionLog.FromString(record).predict_log.request
        seen.add(request.model_spec.signature_name)
        if request.model_spec.signature_name != signature:
            continue
        inputs = {name: from_proto(value) for name, value in request.inputs.items()}
        for place in range(min(len(value) for value in inputs.values())):
            row = {n: v[place : place + 1] for n, v in sorted(inputs.items())}
            key = repr([(name, v.tolist()) for name, v in row.items()]).encode()
            rows.setdefault(key, row)
    if not rows:
        raise QueryError(
            f"`signature` must be one of the warm-up requests of {version}, "
            f"{sorted(seen)}. Received: signature={signature!r}"
        )
    return list(rows.values())


def queries_from_lines(path: Path) -> list[Query]:
    """Queries from a JSON Lines file.

    Args:
        path: File with one JSON object per line; empty lines are skipped.

    Raises:
        QueryError: If a line is not a JSON object; the message has its number.
        OSError: If the file cannot be read.
    """
    queries: list[Query] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                query = json.loads(line)
            except ValueError as error:
                query = f"invalid JSON: {error}"
            if not isinstance(query, dict):
                raise QueryError(
                    "`queries` must have one JSON object per line. Received: line "
                    f"{number} of {path}: {str(query)[:80]}"
                )
            queries.append(query)
    return queries


def queries_from_columns(columns: Mapping[str, np.ndarray]) -> list[Query]:
    """Queries from raw inputs by name, each `(queries, …)`."""
    names = list(columns)
    values = (
        [value if np.ndim(value) else _plain(value) for value in column]
        for column in columns.values()
    )
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def _plain(value: object) -> object:
    """Python value of a NumPy scalar, with bytes decoded to text."""
    plain = value.item() if isinstance(value, np.generic) else value
    return plain.decode() if isinstance(plain, bytes) else plain


def _k(query: Query, default: int, number: int) -> int:
    k = query.get("k")
    if k is None:
        return default
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k < 2**31:
        raise QueryError(
            "`queries` must have whole numbers from 1 to 2,147,483,647 as 'k'. "
            f"Received: {k!r} in query {number}"
        )
    return k


def _ids(name: str, query: Query, number: int) -> np.ndarray:
    ids = query.get(name)
    if ids is None and name != "candidate_ids":
        ids = []
    if not isinstance(ids, Sequence) or isinstance(ids, str):
        raise QueryError(
            f"`queries` must have a list of {name!r}. Received: {ids!r} in query "
            f"{number}"
        )
    return ids_of(name, [ids], 1, led=name != "candidate_ids")


def _stacked(rows: Sequence[Row]) -> Row:
    """Rows joined to one batch; lists are padded as the client does."""
    batch: Row = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if values[0].ndim == 2:
            width = max(value.shape[1] for value in values)
            empty = "" if values[0].dtype == object else 0
            values = [
                np.pad(v, [(0, 0), (0, width - v.shape[1])], constant_values=empty)
                for v in values
            ]
        batch[name] = np.concatenate(values)
    return batch
