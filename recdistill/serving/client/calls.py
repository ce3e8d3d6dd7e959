"""The calls of a client from inputs to results, with deadline, retries and statistics.

Both clients share these coroutines, which wait only in the functions `send` and `sleep`
that are passed to `Calls`. `AsyncClient` passes functions that suspend. `Client` passes
functions that block, so its coroutines finish without being suspended.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from numbers import Real
from typing import TypeVar

import numpy as np

from recdistill.serving.client.contract import (
    Query,
    SignatureContract,
    batch_of,
    ids_of,
)
from recdistill.serving.client.endpoints import Endpoint
from recdistill.serving.client.histogram import LatencyHistogram
from recdistill.serving.client.input_checks import shape_problem, value_problem
from recdistill.serving.client.protocols import Answer, Message, Target, VersionStatus
from recdistill.serving.client.recommendations import (
    Embeddings,
    Ranking,
    Recommendation,
    Results,
    rankings,
    recommend_inputs,
    recommendations,
)
from recdistill.serving.client.retries import RetryPolicy
from recdistill.serving.client.serving_errors import (
    InvalidRequestError,
    QueryError,
    ServingError,
    UnavailableError,
)

__all__ = ["Calls"]

Send = Callable[[Message, float], Awaitable[bytes]]
Sleep = Callable[[float], Awaitable[None]]
Inputs = Mapping[str, np.ndarray]
_Value = TypeVar("_Value")

CONTRACT_S, ALLOWED_S = 60.0, 1.0
"""Seconds after which the inputs of a model are asked for again, because a label may
have moved to a version with others; the second for calls that limit the items."""


class _UnreadableError(Exception):
    """An answer that does not fit the contract."""

    def __init__(self, failure: ServingError) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Calls:
    """The calls of one client, as coroutines.

    Args:
        endpoint: The server.
        target: The model.
        send: Sends a message with a timeout in seconds and returns the answer.
        sleep: Waits a number of seconds.
        deadline_s: Default deadline of a call, in seconds.
        retries: Maximum number of retries, or a policy.

    Raises:
        ValueError: If the deadline is not positive, or `retries` is negative or of
            another type.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        target: Target,
        send: Send,
        sleep: Sleep,
        deadline_s: float,
        retries: int | RetryPolicy,
    ) -> None:
        self._endpoint, self._target = endpoint, target
        self._protocol = endpoint.protocol
        self._send_once, self._sleep = send, sleep
        self._deadline_s = _checked_deadline(deadline_s)
        if not isinstance(retries, int | RetryPolicy):
            raise ValueError(
                "`retries` must be a whole number or a RetryPolicy. Received: "
                f"retries={retries!r}"
            )
        self._retries = RetryPolicy(retries) if isinstance(retries, int) else retries
        self._signatures: Mapping[str, SignatureContract] | None = None
        self._asked = 0.0
        self._described = 0
        self._latency: dict[tuple[str, int | None], LatencyHistogram] = {}
        self._errors: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    @property
    def latency(self) -> dict[tuple[str, int | None], LatencyHistogram]:
        """See `Client.latency`."""
        with self._lock:
            return dict(self._latency)

    @property
    def errors(self) -> dict[tuple[str, str], int]:
        """See `Client.errors`."""
        with self._lock:
            return dict(self._errors)

    async def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        *,
        deadline_s: float | None = None,
    ) -> Answer:
        """See `Client.predict`."""
        return await self._predict(
            signature, lambda _: inputs, lambda answer, _: answer, deadline_s
        )

    async def recommend(
        self,
        queries: Sequence[Query],
        *,
        k: int | Sequence[int] = 10,
        exclude: Sequence[Sequence[str]] = (),
        allow: Sequence[Sequence[str] | None] | None = None,
        deadline_s: float | None = None,
    ) -> Results[Recommendation]:
        """See `Client.recommend`."""
        return await self._predict(
            "recommend",
            lambda contract: recommend_inputs(contract, queries, k, exclude, allow),
            lambda answer, inputs: recommendations(answer, inputs["k"]),
            deadline_s,
            # A version without `allow_ids` ignores them over REST.
            ALLOWED_S if allow is not None else CONTRACT_S,
        )

    async def rank(
        self,
        queries: Sequence[Query],
        candidates: Sequence[Sequence[str]],
        *,
        deadline_s: float | None = None,
    ) -> Results[Ranking]:
        """See `Client.rank`."""
        return await self._predict(
            "rank",
            lambda contract: {
                **batch_of(contract, queries),
                "candidate_ids": ids_of(
                    "candidates", candidates, len(queries), led=False
                ),
            },
            lambda answer, _: rankings(answer, candidates),
            deadline_s,
        )

    async def encode_query(
        self, queries: Sequence[Query], *, deadline_s: float | None = None
    ) -> Embeddings:
        """See `Client.encode_query`."""
        return await self._predict(
            "encode_query",
            lambda contract: batch_of(contract, queries),
            lambda answer, _: Embeddings(answer.outputs["embedding"], answer.version),
            deadline_s,
        )

    async def signatures(
        self, *, deadline_s: float | None = None
    ) -> Mapping[str, SignatureContract]:
        """See `Client.signatures`."""
        return await self._ask_signatures(self._deadline(deadline_s))

    async def versions(self, *, deadline_s: float | None = None) -> list[VersionStatus]:
        """See `Client.versions`."""
        message = self._protocol.status(self._target)
        deadline = self._deadline(deadline_s)
        return await self._exchange(message, deadline, self._protocol.versions)

    async def _predict(
        self,
        signature: str,
        inputs_of: Callable[[SignatureContract], Inputs],
        result_of: Callable[[Answer, Inputs], _Value],
        deadline_s: float | None,
        oldest_s: float = CONTRACT_S,
    ) -> _Value:
        deadline = self._deadline(deadline_s)
        try:
            return await self._answered(
                signature, inputs_of, result_of, deadline, oldest_s
            )
        except ServingError as error:
            with self._lock:
                self._errors[signature, error.code] += 1
            raise

    async def _answered(
        self,
        signature: str,
        inputs_of: Callable[[SignatureContract], Inputs],
        result_of: Callable[[Answer, Inputs], _Value],
        deadline: float,
        oldest_s: float,
    ) -> _Value:
        before = self._described
        contract = await self._contract(signature, deadline, oldest_s)
        try:
            return await self._call(signature, contract, inputs_of, result_of, deadline)
        except (QueryError, _UnreadableError) as error:
            if before == self._described:
                # The server may have changed version since it described its inputs.
                self._signatures = None
                now = await self._contract(signature, deadline, oldest_s)
                if now != contract:
                    return await self._call(
                        signature, now, inputs_of, result_of, deadline
                    )
            if isinstance(error, _UnreadableError):
                raise error.failure from error.failure.__cause__
            raise

    async def _call(
        self,
        signature: str,
        contract: SignatureContract,
        inputs_of: Callable[[SignatureContract], Inputs],
        result_of: Callable[[Answer, Inputs], _Value],
        deadline: float,
    ) -> _Value:
        inputs = inputs_of(contract)
        problem = shape_problem(contract.shapes, inputs) or value_problem(
            contract.shapes, inputs
        )
        if problem is not None:
            raise QueryError(problem)
        started = time.perf_counter()
        try:
            message = self._protocol.predict(self._target, signature, inputs)
        except (TypeError, ValueError) as error:
            raise QueryError(
                "`inputs` must be numbers and text that the protocol can carry. "
                f"Received: {error}"
            ) from error

        unreadable = False

        def read(body: bytes) -> tuple[_Value, int | None]:
            nonlocal unreadable
            unreadable = True
            answer = self._protocol.answer(body, self._target, contract)
            result = result_of(answer, inputs)
            unreadable = False
            return result, answer.version

        try:
            result, version = await self._exchange(message, deadline, read)
        except ServingError as error:
            if isinstance(error, InvalidRequestError):
                self._signatures = None  # The server may have changed version.
            if unreadable:
                raise _UnreadableError(error) from error
            raise
        seconds = time.perf_counter() - started
        with self._lock:
            key = signature, version
            histogram = self._latency.setdefault(key, LatencyHistogram())
        histogram.record(seconds)
        return result

    async def _contract(
        self, signature: str, deadline: float, oldest_s: float
    ) -> SignatureContract:
        known = self._signatures
        old = time.monotonic() - self._asked > oldest_s
        if known is None or signature not in known or old:
            # Concurrent calls go on with what is known.
            self._asked = time.monotonic()
            try:
                known = self._signatures = await self._ask_signatures(deadline)
                self._described += 1
            except UnavailableError:
                # A limit of the items must not be lost, see `recommend`.
                if not known or signature not in known or oldest_s < CONTRACT_S:
                    raise
        if signature not in known:
            raise QueryError(
                f"`signature` must be one of the model's: {sorted(known)}. "
                f"Received: {signature!r}"
            )
        return known[signature]

    async def _ask_signatures(self, deadline: float) -> Mapping[str, SignatureContract]:
        message = self._protocol.metadata(self._target)
        return await self._exchange(message, deadline, self._protocol.signatures)

    async def _send(self, message: Message, deadline: float) -> bytes:
        """Sends a message, with the retries of `recdistill.serving.client.retries`."""
        for tries in itertools.count():
            left = deadline - time.monotonic()
            if left <= 0:
                break
            try:
                body = await self._send_once(message, left)
            except UnavailableError:
                pause = self._retries.pause(tries, deadline - time.monotonic())
                if pause is None:
                    raise
                await self._sleep(pause)
            else:
                self._retries.succeeded()
                return body
        raise self._endpoint.failure("DEADLINE_EXCEEDED", "no time left", message)

    async def _exchange(
        self, message: Message, deadline: float, read: Callable[[bytes], _Value]
    ) -> _Value:
        """Sends a message and reads the answer."""
        body = await self._send(message, deadline)
        try:
            return read(body)
        except Exception as error:
            detail = f"the answer cannot be read: {type(error).__name__}: {error}"
            raise self._endpoint.failure("INTERNAL", detail, message) from error

    def _deadline(self, deadline_s: float | None) -> float:
        seconds = self._deadline_s if deadline_s is None else deadline_s
        return time.monotonic() + _checked_deadline(seconds)


_LONGEST_S = 1e9
"""Deadlines above 30 years, infinity included: timers do not accept all of them."""


def _checked_deadline(deadline_s: float) -> float:
    if not isinstance(deadline_s, Real) or not deadline_s > 0:
        raise QueryError(
            "`deadline_s` must be positive: a number of seconds, or infinity for none. "
            f"Received: deadline_s={deadline_s!r}"
        )
    return min(float(deadline_s), _LONGEST_S)
