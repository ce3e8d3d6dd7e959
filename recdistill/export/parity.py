"""Parity check: an export must return the answers of the live model.

The expected answers are computed with NumPy from the live model's embeddings. The
export's answers come from a fresh process that can import neither Keras nor this
library. With an approximate index, each answer must have the right scores and order for
the items that it contains, and the recall over all answers must be the one measured
when the index was built.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from recdistill.errors import ExportError
from recdistill.export import fresh_process
from recdistill.export.judged_metric import JudgedLists, JudgedMetric
from recdistill.export.layout import WARM_UP
from recdistill.export.warm_up import read_records
from recdistill.retrieval.exact import LOWEST
from recdistill.retrieval.item_storage import Storage, as_stored

TOLERANCE = 1e-5
"""Largest difference, relative to the largest value of its row if that exceeds 1."""

RECALL_TOLERANCE = 0.005
"""Largest amount by which the recall may be below the recall measured on the index."""

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Parity:
    """Differences between the answers of an export and those of the live model.

    Attributes:
        queries: Number of real queries that were compared.
        requests: Number of requests, each answered through both loaders.
        tolerance: The largest difference that passes; see `TOLERANCE`.
        max_difference: The largest |Δ| over all scores and embeddings, divided by the
            largest magnitude of its row (a query's live scores of the catalogue, or an
            embedding) if that exceeds 1.
        swapped: Number of places in the recommended lists where two items, with live
            scores closer than the tolerance, are in a different order.
        recall: Share of the true `top_k` items in the answers of `serving_default` to
            all queries; 1 for an exact index.
        judged: The report's metric, recomputed through `recommend`; None if the export
            was made without a report.
    """

    queries: int
    requests: int
    tolerance: float
    max_difference: float
    swapped: int
    recall: float
    judged: JudgedMetric | None = None


@dataclass(frozen=True)
class Request:
    """Request to one signature.

    Attributes:
        signature: Name of the signature.
        inputs: Arrays by input name, each `(batch, …)`.
        rows: `(batch,)`; row numbers of the live queries in the batch, or of the live
            candidates for `encode_candidates`.
    """

    signature: str
    inputs: Arrays
    rows: np.ndarray


@dataclass(frozen=True)
class Live:
    """Real rows and the live model's embeddings of them: requests and their answers.

    Attributes:
        query_rows: Raw query inputs by name, each `(queries, …)`.
        item_rows: Raw candidate inputs by name, each `(items, …)`; empty if the model
            has no candidate tower.
        item_ids: `(items,)` strings.
        queries: `(queries, dim)`, the live embeddings of `query_rows`.
        items: `(items, dim)`, the live embeddings of `item_rows`.
        top_k: Number of items that `serving_default` returns.
        storage: Dtype in which the export stores `items`; scores are computed from the
            stored values.
        expected_recall: Recall that an approximate index must reach; None for an exact
            index.
        excluded_inputs: Query inputs with ids that are never recommended, as in
            `Servable`.
    """

    query_rows: Arrays
    item_rows: Arrays
    item_ids: Sequence[str]
    queries: np.ndarray
    items: np.ndarray
    top_k: int
    storage: Storage = "float32"
    expected_recall: float | None = None
    excluded_inputs: Sequence[str] = ()

    def excluded_ids(self, query: int) -> list[str | bytes]:
        """Ids in the excluded inputs of one query."""
        found: list[str | bytes] = []
        for name in self.excluded_inputs:
            length = self.query_rows.get(f"{name}_length")
            end = None if length is None else length[query]
            found += self.query_rows[name][query][:end].tolist()
        return found

    @cached_property
    def scores(self) -> np.ndarray:
        """Live scores `(queries, items)`, float64."""
        items = as_stored(self.items, self.storage)
        scores: np.ndarray = self.queries.astype(float) @ items.astype(float).T
        return scores

    @cached_property
    def largest_scores(self) -> np.ndarray:
        """The largest magnitude of each query's live scores, `(queries,)`."""
        return np.asarray(np.maximum(self.scores.max(axis=1), -self.scores.min(axis=1)))

    def requests(self, batch_sizes: Iterable[int]) -> list[Request]:
        """Requests to each signature for each batch size, built from the real rows.

        Each query excludes its best item, and ranks items from the whole catalogue and
        one unknown id. Of the two `recommend` requests, one restricts every second
        query to those items.
        """
        count, ids = len(self.item_ids), np.asarray(self.item_ids, object)
        spread = np.linspace(0, count - 1, min(49, count)).astype(int)
        best = self.scores.argmax(axis=1)
        requests = []
        for size in batch_sizes:
            rows = np.arange(size) % len(self.queries)
            query = {name: value[rows] for name, value in self.query_rows.items()}
            empty = np.full((size, 1), "", object)
            exclude = np.concatenate([ids[best[rows]][:, None], empty], axis=1)
            listed = np.broadcast_to(ids[spread], (size, len(spread)))
            candidates = np.concatenate([listed, empty], axis=1)
            # Every second query may get any item.
            allowed = np.where(np.arange(size)[:, None] % 2, "", candidates)
            k = np.minimum(1 + np.arange(size)[::-1] % self.top_k, count)
            k[0] = self.top_k
            inputs = {**query, "k": k.astype("int32"), "exclude_ids": exclude}
            picked = np.arange(size) * max(1, count // size) % count
            raw = {name: value[picked] for name, value in self.item_rows.items()}
            requests += [
                Request("serving_default", query, rows),
                Request("recommend", {**inputs, "allow_ids": empty}, rows),
                Request("recommend", {**inputs, "allow_ids": allowed}, rows),
                Request("rank", {**query, "candidate_ids": candidates}, rows),
                Request("encode_query", query, rows),
            ]
            if raw:
                requests.append(Request("encode_candidates", raw, picked))
        return requests


def write_requests(path: Path, requests: Iterable[Request], model: str) -> None:
    """Writes requests to a TFRecord file of `PredictionLog`, the warm-up format.

    Args:
        path: The file.
        requests: The requests.
        model: Name of the model on the server.
    """
    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in requests:
            log = prediction_log_pb2.PredictionLog()
            predict = log.predict_log.request
            predict.model_spec.name = model
            predict.model_spec.signature_name = request.signature
            for name, value in request.inputs.items():
                predict.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            writer.write(log.SerializeToString(deterministic=True))


def read_logs(path: Path) -> Iterator[prediction_log_pb2.PredictionLog]:
    """Prediction logs of a TFRecord file, such as `write_requests` writes.

    Raises:
        DataError: If the file is damaged.
    """
    for record in read_records(path):
        yield prediction_log_pb2.PredictionLog.FromString(record)


def check_parity(
    model: Path,
    live: Live,
    batch_sizes: Iterable[int],
    judged: JudgedLists | None = None,
) -> Parity:
    """Compares a SavedModel, loaded in a fresh process, with the live model.

    Recommended items count as equal if, at every place of the list, the live score of
    the returned item equals the live score of the expected item within twice the
    tolerance: items with scores this close may be in either order. No item may occur
    twice, and no excluded item may occur.

    Args:
        model: The SavedModel with its warm-up requests, which are replayed too.
        live: Real rows and the live model's embeddings.
        batch_sizes: Batch sizes of the requests.
        judged: Test lists, whose metric in the report must be that of the answers.

    Raises:
        ExportError: If the process fails or an answer differs; the message has the
            place and the difference.
    """
    requests = live.requests(batch_sizes)
    inputs = judged.inputs(len(live.item_ids)) if judged else []
    lists = [Request("recommend", each, np.arange(len(each["k"]))) for each in inputs]
    answers = _answers_of_fresh_process(model, [*requests, *lists])
    comparison, half = _Comparison(live), len(answers) // 2
    for loader in (answers[:half], answers[half:]):
        for request, answer in zip(requests, loader[: len(requests)], strict=True):
            comparison.add(request, answer)
    exact = live.expected_recall is None
    return Parity(
        queries=len(live.queries),
        requests=len(requests),
        tolerance=TOLERANCE,
        max_difference=comparison.max_difference,
        swapped=comparison.swapped,
        recall=comparison.recall(),
        judged=(
            judged.compare(answers[half + len(requests) :], exact) if judged else None
        ),
    )


def _answers_of_fresh_process(model: Path, requests: Iterable[Request]) -> list[Arrays]:
    with tempfile.TemporaryDirectory() as scratch:
        written, answered = Path(scratch, "requests"), Path(scratch, "answers")
        write_requests(written, requests, "parity")
        script = str(Path(fresh_process.__file__))
        files = model, written, answered, model / WARM_UP
        done = subprocess.run(
            [sys.executable, "-P", script, *map(str, files)],
            # Served models run on CPU, and this process may be using the accelerator.
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise ExportError(
                "The export must load and answer in a fresh process. Received: exit "
                f"status {done.returncode}:\n{done.stderr[-2000:]}"
            )
        return [
            {
                name: tf.make_ndarray(proto)
                for name, proto in log.predict_log.response.outputs.items()
            }
            for log in read_logs(answered)
        ]


class _Comparison:
    """Comparison of answers with the live model; keeps the largest difference."""

    def __init__(self, live: Live) -> None:
        self.live = live
        # Requests have ids as text, and TensorFlow answers with bytes.
        self.row_of: dict[str | bytes, int] = {}
        for row, name in enumerate(live.item_ids):
            self.row_of[name] = self.row_of[name.encode()] = row
        self.max_difference, self.swapped = 0.0, 0
        self._recalls: dict[int, float] = {}

    def add(self, request: Request, answer: Mapping[str, np.ndarray]) -> None:
        """Compares one answer.

        Raises:
            ExportError: If the answer differs.
        """
        if request.signature in ("encode_query", "encode_candidates"):
            queries = request.signature == "encode_query"
            want = (self.live.queries if queries else self.live.items)[request.rows]
            scale = np.abs(want).max(axis=1)
            self._close(request, answer["embedding"], want, scale)
        elif request.signature == "rank":
            self._rank(request, answer)
        else:
            self._recommended(request, answer)

    def _rank(self, request: Request, answer: Mapping[str, np.ndarray]) -> None:
        rows = self._rows(request.inputs["candidate_ids"])
        if not np.array_equal(answer["known"], rows >= 0):
            raise _difference(request, "known", "differs from the catalogue's ids")
        scores = self.live.scores[request.rows[:, None], np.maximum(rows, 0)]
        want = np.where(rows >= 0, scores, LOWEST)
        self._close(request, answer["scores"], want, self._scale(request))

    def recall(self) -> float:
        """Recall of `serving_default` over all queries.

        Raises:
            ExportError: If it is below the recall measured on the index. It may be
                higher: a query that reads all lists makes its whole batch read them.
        """
        found = float(np.mean(list(self._recalls.values())))
        expected = self.live.expected_recall
        if expected is not None and found < expected - RECALL_TOLERANCE:
            raise ExportError(
                f"The export must reach the recall@{self.live.top_k} that was measured "
                f"on its index, {expected:.4f}. Received: {found:.4f}"
            )
        return found

    def _recommended(self, request: Request, answer: Mapping[str, np.ndarray]) -> None:
        scores, exact = self._allowed_scores(request)
        own_k = request.inputs.get("k", np.full(len(scores), self.live.top_k))
        k = int(own_k.max())
        rows = self._rows(answer["item_ids"])
        if rows.shape != (len(scores), k) or any(
            len(set(row[row >= 0])) < (row >= 0).sum() for row in rows
        ):
            raise _difference(request, "item_ids", f"is not {k} distinct items")
        last = scores.shape[1] - k
        best = np.array(
            [np.sort(np.partition(row, last)[last:])[::-1] for row in scores]
        )
        best = np.where(np.arange(k) < own_k[:, None], np.maximum(best, LOWEST), LOWEST)
        got = np.take_along_axis(scores, np.maximum(rows, 0), axis=1)
        got = np.maximum(np.where(rows >= 0, got, LOWEST), LOWEST)
        scale = self._scale(request)
        near = 2 * TOLERANCE * np.maximum(scale, 1)[:, None]
        if request.signature == "serving_default":
            found = (got >= best[:, -1:] - near).mean(axis=1)
            self._recalls.update(zip(request.rows.tolist(), found, strict=True))
        # An approximate index may miss items; those that it returns must be in order.
        want = np.where(exact[:, None], best, -np.sort(-got, axis=1))
        gap = np.abs(got - want)
        short = (rows < 0) & (best > LOWEST)
        if (gap > near).any() or short.any():
            row, place = np.unravel_index((gap - near + short).argmax(), gap.shape)
            raise _difference(
                request,
                "item_ids",
                f"has {answer['item_ids'][row, place]!r} at place {place + 1} of query "
                f"{request.rows[row]}, with live score {got[row, place]:.7g} where "
                f"{best[row, place]:.7g} belongs",
            )
        beyond = np.arange(k) >= own_k[:, None]
        forbidden = (answer["item_ids"] != b"") & ((got <= LOWEST) | beyond)
        if forbidden.any():
            row, place = np.argwhere(forbidden)[0]
            raise _difference(
                request,
                "item_ids",
                f"has {answer['item_ids'][row, place]!r} at place {place + 1} of query "
                f"{request.rows[row]}, which must be empty",
            )
        self.swapped += int((gap > 0).sum())
        self._close(request, answer["scores"], got, scale)

    def _allowed_scores(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        """Live scores, minus infinity for excluded items; and which rows are exact."""
        scores = self.live.scores[request.rows].copy()
        for row, query in enumerate(request.rows):
            [seen] = self._rows(np.array([self.live.excluded_ids(query)], object))
            scores[row, seen[seen >= 0]] = -np.inf
        exact = np.full(len(scores), self.live.expected_recall is None)
        if request.signature == "recommend":
            allow = np.asarray(request.inputs["allow_ids"], object)
            for row, listed in enumerate(self._rows(allow)):
                if any(allow[row]):  # Restricted queries are answered exactly.
                    exact[row] = True
                    others = np.setdiff1d(np.arange(scores.shape[1]), listed)
                    scores[row, others] = -np.inf
            rows = self._rows(request.inputs["exclude_ids"])
            batch, column = np.nonzero(rows >= 0)
            scores[batch, rows[batch, column]] = -np.inf
        return scores, exact

    def _close(
        self, request: Request, got: np.ndarray, want: np.ndarray, scale: np.ndarray
    ) -> None:
        name = "embedding" if request.signature.startswith("encode") else "scores"
        if got.shape != want.shape or not np.isfinite(got).all():
            raise _difference(request, name, f"is not finite and of shape {want.shape}")
        difference = np.abs(got.astype("float64") - want)
        difference /= np.maximum(scale, 1)[:, None]
        largest = float(difference.max(initial=0.0))
        self.max_difference = max(self.max_difference, largest)
        if largest > TOLERANCE:
            row, column = np.unravel_index(difference.argmax(), difference.shape)
            raise _difference(
                request,
                name,
                f"is {got[row, column]:.7g} where the live model gives "
                f"{want[row, column]:.7g} (row {request.rows[row]}, column {column}), "
                f"max |Δ| {largest:.2g} where {TOLERANCE:g} is allowed",
            )

    def _rows(self, ids: np.ndarray) -> np.ndarray:
        """Row in the catalogue of each id; -1 if unknown."""
        return np.array([[self.row_of.get(i, -1) for i in row] for row in ids], int)

    def _scale(self, request: Request) -> np.ndarray:
        return np.asarray(self.live.largest_scores[request.rows])


def _difference(request: Request, output: str, what: str) -> ExportError:
    size = len(request.rows)
    return ExportError(
        f"The export must answer as the live model does. Received: signature "
        f"`{request.signature}`, batch size {size}: `{output}` {what}"
    )
