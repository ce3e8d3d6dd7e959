"""Pool of Ray actors that do independent parts of a step's work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import ray

from recdistill.errors import EngineError
from recdistill.pipeline.ray_cluster import ray_workers

if TYPE_CHECKING:
    from recdistill.pipeline.run_context import RunContext

ATTEMPTS = 5
"""Workers lost without a finished part, for each worker of the pool, after which the
work stops."""

AHEAD = 4
"""Parts for each worker that have been read, and whose results are not passed on."""


class WorkerPool:
    """Context manager of actors that do parts, spread over the nodes of a cluster.

    A worker has one part at a time. The part of a worker that is lost goes to another
    one, and a new worker is started, which waits if the cluster has no room for it.

    Args:
        room: Returns the number of workers and the resources of each.
        shared: The run.
        open_work: As for `Engine.map`.
    """

    def __init__(
        self,
        room: Callable[[], tuple[int, dict[str, Any]]],
        shared: ray_workers.SharedRun,
        open_work: Callable[[RunContext], Callable[[Any], Any]],
    ) -> None:
        self._room, self._shared, self._open_work = room, shared, open_work
        self._actors: list[Any] = []
        self._free: list[Any] = []
        # Each busy actor with the number of its part; None while it opens.
        self._busy: dict[Any, tuple[Any, int | None]] = {}
        self._lost = 0

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *error: object) -> None:
        for actor in self._actors:
            ray.kill(actor)

    def results(self, parts: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Each part and its result, in the order of the parts.

        Raises:
            EngineError: If workers are lost again and again.
            Exception: An error of the work.
        """
        source, passed_on = enumerate(parts), 0
        given: dict[int, Any] = {}
        found: dict[int, Any] = {}
        waiting: deque[int] = deque()
        while True:
            ahead = AHEAD * max(1, len(self._actors)) - len(given)
            for number, part in islice(source, max(0, ahead)):
                given[number] = part
                waiting.append(number)
            if not given:
                return
            if not self._actors:
                self._start(self._room()[0])
            while waiting and self._free:
                actor, number = self._free.pop(), waiting.popleft()
                self._busy[actor.result.remote(given[number])] = (actor, number)
            done, result = self._next()
            if done is not None and result is _LOST:
                waiting.appendleft(done)
            elif done is not None:
                found[done] = result
            while passed_on in found:
                yield given.pop(passed_on), found.pop(passed_on)
                passed_on += 1

    def _start(self, workers: int) -> None:
        """Starts workers, which wait until the cluster has room for them."""
        _, resources = self._room()
        kind = ray.remote(ray_workers.PartWorker).options(
            max_restarts=0, scheduling_strategy="SPREAD", **resources
        )
        for _ in range(workers):
            actor = kind.remote(resources["num_cpus"])
            self._actors.append(actor)
            opened = actor.open.remote(self._shared, self._open_work)
            self._busy[opened] = (actor, None)

    def _next(self) -> tuple[int | None, Any]:
        """The number of the next finished part and its result.

        The number is None for a worker that has opened, and the result `_LOST` for a
        worker that was lost.
        """
        [ready], _ = ray.wait([*self._busy], num_returns=1)
        actor, number = self._busy.pop(ready)
        try:
            result = ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            self._replace(actor, error)
            return number, _LOST
        self._free.append(actor)
        if number is not None:
            self._lost = 0
        return number, result

    def _replace(self, actor: Any, error: Exception) -> None:
        self._lost += 1
        if self._lost >= ATTEMPTS * len(self._actors):
            raise EngineError(
                f"Workers were lost {self._lost} times without a finished part. Look "
                "for the reason in the logs of Ray, such as too little memory, and set "
                "`engine.memory_gib` or fewer `engine.workers`. The last message: "
                f"{' '.join(str(error).split())}"
            ) from error
        self._actors.remove(actor)
        self._start(1)


_LOST = object()
