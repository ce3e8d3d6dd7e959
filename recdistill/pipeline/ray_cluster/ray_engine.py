"""Ray engine: training as a group of actors, other work as a pool of actors."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recdistill.errors import ConfigError, EngineError
from recdistill.pipeline.config.engine_section import EngineConfig

try:
    import ray
except ImportError as failure:
    raise ConfigError(
        '`engine.kind` = "ray" needs the package `ray`, which is not installed. '
        "Install it with `pip install 'recdistill[ray]'`, or set `engine.kind` = "
        '"local".'
    ) from failure

from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from recdistill.pipeline.engine import P, R, TrainingStep
from recdistill.pipeline.ray_cluster import ray_workers
from recdistill.pipeline.ray_cluster.ray_pool import WorkerPool
from recdistill.pipeline.training.training_checkpoints import States

if TYPE_CHECKING:
    from recdistill.pipeline.artefacts.workspace import Draft
    from recdistill.pipeline.run_context import RunContext

ATTEMPTS = 5
"""Starts of a training group without a new checkpoint, after which the run stops."""

PLACEMENT_S = 30.0
"""Seconds to wait for room for a group before the cluster is counted again."""


class RayEngine:
    """Does the work of steps on a Ray cluster.

    Args:
        config: The `engine` section.
        warn: Callback for warnings.

    Raises:
        EngineError: If the cluster cannot be reached or is too small.
    """

    def __init__(self, config: EngineConfig, warn: Callable[[str], None]) -> None:
        self._config, self._warn = config, warn
        self._owns = _connect(config, warn)

    def close(self) -> None:
        """Disconnects; a cluster that was started for the run ends."""
        if self._owns:
            ray.shutdown()

    def train(
        self, step: TrainingStep[RunContext], run: RunContext, draft: Draft
    ) -> dict[str, Any]:
        """Does the work of a step that trains, and returns its record.

        If a worker is lost, all are started again from the last checkpoint.

        Raises:
            EngineError: If workers are lost again and again.
        """
        states: States = {}
        failures, reports, reason = 0, _reports(run), ""
        while failures < ATTEMPTS:
            before = _epochs(states)
            try:
                record, files = self._attempt(step, run, states, reports)
            except ray_workers.LostError as error:
                reason = " ".join(str(error).split())
                failures = failures + 1 if _epochs(states) == before else 1
                run.progress("Starting the workers again", 0, None)
                continue
            for name, content in files.items():
                path = draft.path / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            return record
        raise EngineError(
            f"The workers of the step `{step.name}` were lost {ATTEMPTS} times without "
            "a new checkpoint. Look for the reason in the logs of Ray, such as too "
            "little memory, and set `engine.memory_gib` or fewer `engine.workers`. The "
            f"last message: {reason}"
        )

    def map(
        self,
        open_work: Callable[[RunContext], Callable[[P], R]],
        parts: Iterable[P],
        run: RunContext,
    ) -> Iterator[tuple[P, R]]:
        """Each part and its result, in the order of the parts.

        The parts of a worker that is lost are done by the others.

        Raises:
            EngineError: If workers are lost again and again.
        """
        shared = ray_workers.SharedRun.of(run)
        with WorkerPool(self._room, shared, open_work) as pool:
            yield from pool.results(parts)

    def _attempt(
        self,
        step: TrainingStep[RunContext],
        run: RunContext,
        states: States,
        reports: Mapping[str, Callable[..., None]],
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        """One start of a group of workers; newer states are added to `states`."""
        with _Group(self._room) as actors:
            try:
                addresses = ray.get([actor.address.remote() for actor in actors])
                shared = ray_workers.SharedRun.of(run)
                token = os.urandom(32)
                first, *others = [
                    actor.train.options(num_returns="streaming").remote(
                        rank, shared, step.name, addresses, token, dict(states)
                    )
                    for rank, actor in enumerate(actors)
                ]
                return _followed(first, others, reports, states)
            except ray.exceptions.RayActorError as error:
                raise ray_workers.LostError(str(error)) from error

    def _room(self) -> tuple[int, dict[str, Any]]:
        """Number of workers, and the resources of each.

        Raises:
            EngineError: If no node has room for a worker.
        """
        config = self._config
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        wanted = {"CPU": config.cpus or 1, "GPU": config.gpus}
        if config.memory_gib is not None:
            wanted["memory"] = int(config.memory_gib * 2**30)
        nodes = [node for node in alive if _copies(wanted, node)]
        if not nodes:
            raise EngineError(_no_room(config, wanted, alive))
        cores = [int(node["CPU"]) for node in nodes]
        workers = config.workers or len(cores)
        each = config.cpus or max(1, min(cores) // -(-workers // len(cores)))
        wanted["CPU"] = each
        # A cluster that lost a node has room for fewer.
        workers = min(workers, sum(_copies(wanted, node) for node in nodes))
        resources: dict[str, Any] = {"num_cpus": each, "num_gpus": config.gpus}
        if "memory" in wanted:
            resources["memory"] = wanted["memory"]
        return workers, resources


def _copies(wanted: Mapping[str, float], node: Mapping[str, float]) -> int:
    """How often a node has these resources."""
    return min(
        int(node.get(name, 0) // amount) for name, amount in wanted.items() if amount
    )


def _no_room(
    config: EngineConfig,
    wanted: Mapping[str, float],
    nodes: Sequence[Mapping[str, float]],
) -> str:
    """Says which resource of a worker no node has."""
    keys = {"CPU": "cpus", "GPU": "gpus", "memory": "memory_gib"}
    given = {
        name: f"`engine.{keys[name]}` = {getattr(config, keys[name]) or 1}"
        for name, amount in wanted.items()
        if amount
    }
    lacking = [
        name
        for name in given
        if not any(_copies({name: wanted[name]}, node) for node in nodes)
    ]
    asked = " and ".join(given[name] for name in lacking or given)
    largest = ", ".join(
        f"{max((node.get(name, 0) for node in nodes), default=0):g} {unit}"
        for name, unit in (("CPU", "cores"), ("GPU", "GPUs"))
    )
    memory = max((node.get("memory", 0) for node in nodes), default=0) / 2**30
    return (
        "A worker must fit on a node of the Ray cluster. Received: "
        f"{asked}; the {len(nodes)} node(s) have at most {largest} and {memory:.3g} "
        "GiB of memory for workers each"
    )


class _Group:
    """Context manager of the actors of a training group, spread over the nodes."""

    def __init__(self, room: Callable[[], tuple[int, dict[str, Any]]]) -> None:
        self._room = room
        self._place: Any = None
        self._actors: list[Any] = []

    def __enter__(self) -> list[Any]:
        workers, resources = self._room()
        bundle = {"CPU": resources["num_cpus"]}
        if resources["num_gpus"]:
            bundle["GPU"] = resources["num_gpus"]
        if "memory" in resources:
            bundle["memory"] = resources["memory"]
        self._place = placement_group([bundle] * workers, strategy="SPREAD")
        if not self._place.wait(PLACEMENT_S):
            remove_placement_group(self._place)
            raise ray_workers.LostError("The cluster has no room for the group.")
        actor = ray.remote(ray_workers.TrainingWorker)
        self._actors = [
            actor.options(
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    self._place, placement_group_bundle_index=number
                ),
                **resources,
            ).remote(resources["num_cpus"])
            for number in range(workers)
        ]
        return self._actors

    def __exit__(self, *error: object) -> None:
        for actor in self._actors:
            ray.kill(actor)
        remove_placement_group(self._place)


def _followed(
    first: Any,
    others: Sequence[Any],
    reports: Mapping[str, Callable[..., None]],
    states: States,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Passes on what the first worker reports, until it is done.

    Raises:
        LostError: If a worker ended.
        Exception: An error of the step.
    """
    streams = [first, *others]
    while True:
        ready, _ = ray.wait(streams, num_returns=1)
        try:
            message = ray.get(next(ready[0]))
        except StopIteration:
            streams.remove(ready[0])
            continue
        kind, *values = message
        if kind == "lost":
            raise ray_workers.LostError("A worker was lost.")
        if kind == "failed":
            raise ray_workers.error_of(*values)
        if ready[0] is not first:
            continue
        if kind == "done":
            return values[0], values[1]
        if kind == "state":
            states[values[0]] = values[1]
        elif kind in reports:
            reports[kind](*values)


def _reports(run: RunContext) -> dict[str, Callable[..., None]]:
    """Callbacks for what a group of workers reports, by the name of the report.

    After a checkpoint, workers that are started again repeat points of the training
    curves; each is passed on once.
    """
    found: dict[str, Callable[..., None]] = {
        "progress": run.progress,
        "warning": run.warn,
    }
    observe, observed = run.observe, set[tuple[Any, ...]]()
    if observe is not None:

        def once(label: str, step: int, values: Mapping[str, float]) -> None:
            point = (label, step, *values)
            if point not in observed:
                observed.add(point)
                observe(label, step, values)

        found["observed"] = once
    return found


def _epochs(states: States) -> dict[str, int]:
    """How far each training run has come."""
    return {key: state["epoch"] for key, state in states.items()}


def _connect(config: EngineConfig, warn: Callable[[str], None]) -> bool:
    """Connects to a cluster.

    Returns:
        Whether `ray.shutdown` must be called at the end.

    Raises:
        EngineError: If the configured cluster cannot be reached.
    """
    if ray.is_initialized():
        return False
    quiet: Any = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = config.address or os.environ.get("RAY_ADDRESS")
    try:
        ray.init(address=address or "auto", **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        if address is not None:
            raise EngineError(
                "`engine.address` (or the environment variable RAY_ADDRESS) must be "
                f"the address of a Ray cluster. Received: {address!r}, which cannot be "
                f"reached: {' '.join(str(error).split())}. If the cluster asks for a "
                "token, the file ~/.ray/auth_token and RAY_AUTH_MODE=token are needed "
                "here as well."
            ) from error
        warn(
            "No Ray cluster runs on this machine and `engine.address` is not set, so "
            "Ray was started on this machine only, for this run."
        )
        quiet["_system_config"] = {"worker_niceness": 0}
        ray.init(address="local", include_dashboard=False, **quiet)
    return True
