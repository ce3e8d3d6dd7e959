"""Clients for TensorFlow Serving: typed calls over gRPC or REST.

They work with every server that implements TensorFlow Serving's protocol. They import
neither TensorFlow nor Keras, so a web service that uses one starts in a fraction of a
second: `recdistill.serving.client.messages` declares the protocol's messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from recdistill.serving.client.async_channels import open_async_channel
from recdistill.serving.client.calls import Calls
from recdistill.serving.client.channels import open_channel
from recdistill.serving.client.contract import Query, SignatureContract
from recdistill.serving.client.endpoints import Endpoint
from recdistill.serving.client.histogram import LatencyHistogram
from recdistill.serving.client.protocols import Answer, Message, Target, VersionStatus
from recdistill.serving.client.recommendations import (
    Embeddings,
    Ranking,
    Recommendation,
    Results,
)
from recdistill.serving.client.retries import RetryPolicy

__all__ = ["AsyncClient", "Client"]

_Value = TypeVar("_Value")


class Client(contextlib.AbstractContextManager["Client"]):
    """Client for a served student. It is thread-safe, and should be shared.

    A query maps feature names to raw values: text, a number, or a list; None if the
    value is unknown. A history is a list of item ids, oldest first. The client reads
    the model's signatures from the server once.

    Connections are opened on first use and reused: one over gRPC, one for each
    concurrent call over REST. A request that the server did not accept is sent again
    after a pause, by the rules in `recdistill.serving.client.retries`.

    Args:
        endpoint: "grpc://host:8500" (the scheme is optional) or "http://host:8501";
            "grpcs://" or "https://" for TLS.
        model: Name of the model on the server.
        version: Version of the model; None for the latest loaded version.
        label: Version label, such as "stable", instead of a version.
        deadline_s: Default deadline of a call, in seconds, for everything from the
            look-up of the server's name to the last retry; infinity for none.
        retries: Maximum number of retries, or a policy; 0 sends each request once.

    Raises:
        ValueError: If an argument is invalid.

    Examples:
        with Client("grpc://localhost:8500", "films", label="stable") as client:
            query = {"user_id": "ann", "history": ["item-3", "item-7"]}
            [best] = client.recommend([query], k=10, exclude=[["item-3"]])
            print(best.item_ids, best.scores, best.version)
            frame = client.rank([query], [["item-3", "item-9"]]).to_frame()
    """

    def __init__(
        self,
        endpoint: str,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        deadline_s: float = 1.0,
        retries: int | RetryPolicy = 2,
    ) -> None:
        server = Endpoint.parse(endpoint)
        target = Target(model, version, label)
        channel = self._channel = open_channel(server)

        async def send(message: Message, timeout_s: float) -> bytes:
            return channel.send(message, timeout_s)

        async def sleep(seconds: float) -> None:
            time.sleep(seconds)

        self._calls = Calls(server, target, send, sleep, deadline_s, retries)

    def recommend(
        self,
        queries: Sequence[Query],
        *,
        k: int | Sequence[int] = 10,
        exclude: Sequence[Sequence[str]] = (),
        allow: Sequence[Sequence[str] | None] | None = None,
        deadline_s: float | None = None,
    ) -> Results[Recommendation]:
        """Recommends the top items of the catalogue for each query.

        Args:
            queries: At least one.
            k: Number of items, for all queries or for each; at least 1. A query gets at
                most the whole catalogue, and at most 10,000 items.
            exclude: Item ids to exclude, one list per query; unknown ids have no
                effect. Empty to exclude nothing. If the model was evaluated without
                seen items, it excludes all items of the history as well, so send the
                whole history.
            allow: Item ids to choose from, one non-empty list per query, or None for a
                query without this limit. None to limit no query.
            deadline_s: Deadline of this call, in seconds.

        Returns:
            A list with one recommendation per query, in their order. Its `to_frame`
            returns a pandas DataFrame.

        Raises:
            QueryError: If an argument does not fit the model; no request was sent.
            ServingError: If the request failed; the subclass gives the reason.
        """
        return _now(
            self._calls.recommend(
                queries, k=k, exclude=exclude, allow=allow, deadline_s=deadline_s
            )
        )

    def rank(
        self,
        queries: Sequence[Query],
        candidates: Sequence[Sequence[str]],
        *,
        deadline_s: float | None = None,
    ) -> Results[Ranking]:
        """Scores candidates for each query.

        Args:
            queries: At least one.
            candidates: Item ids, one list per query.
            deadline_s: Deadline of this call, in seconds.

        Returns:
            A list with one ranking per query, in their order. Its `to_frame` returns a
            pandas DataFrame.

        Raises:
            QueryError: If an argument does not fit the model; no request was sent.
            ServingError: If the request failed; the subclass gives the reason.
        """
        return _now(self._calls.rank(queries, candidates, deadline_s=deadline_s))

    def encode_query(
        self, queries: Sequence[Query], *, deadline_s: float | None = None
    ) -> Embeddings:
        """Computes the embeddings of queries, `(queries, dim)`.

        Raises:
            QueryError: If a query does not fit the model; no request was sent.
            ServingError: If the request failed; the subclass gives the reason.
        """
        return _now(self._calls.encode_query(queries, deadline_s=deadline_s))

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        *,
        deadline_s: float | None = None,
    ) -> Answer:
        """Calls any signature with arrays.

        Args:
            signature: Its name, such as "serving_default".
            inputs: Arrays by input name, each `(batch, …)` with at least one row; text
                as an array of objects. They are sent as given: if the server batches
                and pads requests, lists without a length must begin with an empty
                entry.
            deadline_s: Deadline of this call, in seconds.

        Raises:
            QueryError: If the model does not have this signature, or an input has a
                wrong shape or a wrong `k` or length.
            ServingError: If the request failed; the subclass gives the reason.
        """
        return _now(self._calls.predict(signature, inputs, deadline_s=deadline_s))

    def signatures(
        self, *, deadline_s: float | None = None
    ) -> Mapping[str, SignatureContract]:
        """Reads the inputs and outputs of all signatures from the server."""
        return _now(self._calls.signatures(deadline_s=deadline_s))

    def versions(self, *, deadline_s: float | None = None) -> list[VersionStatus]:
        """Reads the model's versions and their states, latest version first."""
        return _now(self._calls.versions(deadline_s=deadline_s))

    @property
    def latency(self) -> dict[tuple[str, int | None], LatencyHistogram]:
        """Latency of successful calls by signature and version, retries included.

        Over REST the version is None unless the client was created with `version`.
        """
        return self._calls.latency

    @property
    def errors(self) -> dict[tuple[str, str], int]:
        """Number of failed calls by signature and code, such as "UNAVAILABLE"."""
        return self._calls.errors

    def close(self) -> None:
        """Closes the connections."""
        self._channel.close()

    def __exit__(self, *exception: object) -> None:
        self.close()


class AsyncClient(Calls, contextlib.AbstractAsyncContextManager["AsyncClient"]):
    """The `Client` for asyncio: the same calls as coroutines.

    A client belongs to the event loop that uses it first. Arguments, results and errors
    are those of `Client`. Calls may be cancelled; over REST this closes the connection.

    Examples:
        async with AsyncClient("localhost:8500", "films") as client:
            [best] = await client.recommend([query], k=10)
    """

    def __init__(
        self,
        endpoint: str,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        deadline_s: float = 1.0,
        retries: int | RetryPolicy = 2,
    ) -> None:
        server = Endpoint.parse(endpoint)
        target = Target(model, version, label)
        self._channel = open_async_channel(server)
        super().__init__(
            server, target, self._channel.send, asyncio.sleep, deadline_s, retries
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._channel.close()

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


def _now(steps: Coroutine[Any, Any, _Value]) -> _Value:
    """Runs a coroutine that never suspends."""
    try:
        steps.send(None)
    except StopIteration as done:
        value: _Value = done.value
        return value
    raise RuntimeError("A blocking call must not await.")
