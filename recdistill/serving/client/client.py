"""Clients of a served student: typed calls over gRPC or REST.

They run against anything that speaks TensorFlow Serving's protocol. They need neither
TensorFlow nor Keras, so a web service that asks for recommendations starts in a
fraction of a second: the messages are declared in `recdistill.serving.client.messages`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from recdistill.serving.client.async_channels import open_async_channel
from recdistill.serving.client.calls import Calls
from recdistill.serving.client.channels import Endpoint, open_channel
from recdistill.serving.client.contract import Query, SignatureContract
from recdistill.serving.client.histogram import LatencyHistogram
from recdistill.serving.client.protocols import Answer, Message, Target, VersionStatus
from recdistill.serving.client.recommendations import (
    Embeddings,
    Ranking,
    Recommendation,
)

__all__ = ["AsyncClient", "Client"]

_Value = TypeVar("_Value")


class _Observed:
    """What both clients tell of their calls."""

    _calls: Calls

    @property
    def latency(self) -> dict[tuple[str, int | None], LatencyHistogram]:
        """Latency of answered calls by signature and version, retries included.

        Over REST the version is None unless the client asks for one by number.
        """
        return self._calls.observations.latency

    @property
    def errors(self) -> dict[tuple[str, str], int]:
        """Number of failed calls by signature and code, such as "UNAVAILABLE"."""
        return self._calls.observations.errors


class Client(_Observed):
    """Asks a served student; threads may share one, and should.

    A query is a mapping of raw features, as the model's signatures name them: text, a
    number, or a list; None where a value is unknown. A history is its list of ids,
    oldest first. What the model wants is asked of the server once.

    One connection (over REST, as many as calls run at once) is opened on first use and
    kept. A call that nobody took is sent again after a pause; predictions change
    nothing, so that is safe, and `recdistill.serving.client.retries` says when it is
    wise.

    Args:
        endpoint: "grpc://host:8500" (the scheme may be left out) or "http://host:8501";
            "grpcs://" and "https://" for TLS.
        model: The name that the server knows the model by.
        version: The version to ask; None for the newest that is loaded.
        label: The version label to ask, such as "stable", instead of a version.
        deadline_s: Seconds that a call may take, retries included, where it does not
            say otherwise.
        retries: Most tries after the first.

    Raises:
        ValueError: If an argument does not fit.

    Example:
        with Client("grpc://localhost:8500", "films", label="stable") as client:
            query = {"user_id": "ann", "history": ["item-3", "item-7"]}
            [best] = client.recommend([query], k=10, exclude=[["item-3"]])
            print(best.item_ids, best.scores, best.version)
    """

    def __init__(
        self,
        endpoint: str,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        deadline_s: float = 1.0,
        retries: int = 2,
    ) -> None:
        where = Endpoint.parse(endpoint)
        target = Target(model, version, label)
        self._channel = open_channel(where)

        async def send(message: Message, timeout_s: float) -> bytes:
            return self._channel.send(message, timeout_s)

        async def sleep(seconds: float) -> None:
            time.sleep(seconds)

        self._calls = Calls(where, target, send, sleep, deadline_s, retries)

    def recommend(
        self,
        queries: Sequence[Query],
        *,
        k: int | Sequence[int] = 10,
        exclude: Sequence[Sequence[str]] = (),
        allow: Sequence[Sequence[str] | None] | None = None,
        deadline_s: float | None = None,
    ) -> list[Recommendation]:
        """The best items of the catalogue.

        Args:
            queries: At least one.
            k: How many items, for all queries or for each; at least 1 and at most the
                size of the catalogue.
            exclude: Ids that a query must not get, one list a query; unknown ids
                exclude nothing. Empty for no exclusions at all.
            allow: The only ids that a query may get, one list a query, or None for a
                query that may get any. None for no limits at all. An empty list is
                refused: it is nothing to choose from.
            deadline_s: Seconds that the call may take.

        Returns:
            One recommendation a query, in their order.

        Raises:
            QueryError: If an argument does not fit the model; nothing was sent.
            ServingError: If there was no answer; its subclasses say why.
        """
        return _now(self._calls.recommend(queries, k, exclude, allow, deadline_s))

    def rank(
        self,
        queries: Sequence[Query],
        candidates: Sequence[Sequence[str]],
        *,
        deadline_s: float | None = None,
    ) -> list[Ranking]:
        """Scores of given candidates.

        Args:
            queries: At least one.
            candidates: Ids, one list a query.
            deadline_s: Seconds that the call may take.

        Returns:
            One ranking a query, in their order; its scores are in the order of the
            candidates.

        Raises:
            QueryError: If an argument does not fit the model; nothing was sent.
            ServingError: If there was no answer; its subclasses say why.
        """
        return _now(self._calls.rank(queries, candidates, deadline_s))

    def encode_query(
        self, queries: Sequence[Query], *, deadline_s: float | None = None
    ) -> Embeddings:
        """Embeddings of queries, `(queries, dim)`.

        Raises:
            QueryError: If a query does not fit the model; nothing was sent.
            ServingError: If there was no answer; its subclasses say why.
        """
        return _now(self._calls.encode_query(queries, deadline_s))

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        *,
        deadline_s: float | None = None,
    ) -> Answer:
        """Calls any signature with its inputs as they are.

        Args:
            signature: Its name, such as "serving_default".
            inputs: Arrays by input name, each `(batch, …)`, at least one row; text as
                objects.
            deadline_s: Seconds that the call may take.

        Raises:
            QueryError: If there is no such signature, or an input has no rows.
            ServingError: If there was no answer; its subclasses say why.
        """
        return _now(self._calls.predict(signature, inputs, deadline_s))

    def signatures(
        self, *, deadline_s: float | None = None
    ) -> Mapping[str, SignatureContract]:
        """Inputs and outputs of all signatures, as the server tells them."""
        return _now(self._calls.signatures(deadline_s))

    def versions(self, *, deadline_s: float | None = None) -> list[VersionStatus]:
        """The versions that the server knows and their state, the newest first."""
        return _now(self._calls.versions(deadline_s))

    def close(self) -> None:
        """Closes the connections."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient(_Observed):
    """The `Client` for asyncio: the same calls, to be awaited.

    It belongs to the event loop that uses it first. Arguments, results and errors are
    those of `Client`. To cancel a call is safe; over REST its connection is dropped.

    Example:
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
        retries: int = 2,
    ) -> None:
        where = Endpoint.parse(endpoint)
        target = Target(model, version, label)
        self._channel = open_async_channel(where)
        self._calls = Calls(
            where, target, self._channel.send, asyncio.sleep, deadline_s, retries
        )

    async def recommend(
        self,
        queries: Sequence[Query],
        *,
        k: int | Sequence[int] = 10,
        exclude: Sequence[Sequence[str]] = (),
        allow: Sequence[Sequence[str] | None] | None = None,
        deadline_s: float | None = None,
    ) -> list[Recommendation]:
        """See `Client.recommend`."""
        return await self._calls.recommend(queries, k, exclude, allow, deadline_s)

    async def rank(
        self,
        queries: Sequence[Query],
        candidates: Sequence[Sequence[str]],
        *,
        deadline_s: float | None = None,
    ) -> list[Ranking]:
        """See `Client.rank`."""
        return await self._calls.rank(queries, candidates, deadline_s)

    async def encode_query(
        self, queries: Sequence[Query], *, deadline_s: float | None = None
    ) -> Embeddings:
        """See `Client.encode_query`."""
        return await self._calls.encode_query(queries, deadline_s)

    async def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        *,
        deadline_s: float | None = None,
    ) -> Answer:
        """See `Client.predict`."""
        return await self._calls.predict(signature, inputs, deadline_s)

    async def signatures(
        self, *, deadline_s: float | None = None
    ) -> Mapping[str, SignatureContract]:
        """See `Client.signatures`."""
        return await self._calls.signatures(deadline_s)

    async def versions(self, *, deadline_s: float | None = None) -> list[VersionStatus]:
        """See `Client.versions`."""
        return await self._calls.versions(deadline_s)

    async def close(self) -> None:
        """Closes the connections."""
        await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def _now(steps: Coroutine[Any, Any, _Value]) -> _Value:
    """Runs a coroutine that never waits for an event loop."""
    try:
        steps.send(None)
    except StopIteration as done:
        value: _Value = done.value
        return value
    raise RuntimeError("A blocking call must not wait for an event loop.")
