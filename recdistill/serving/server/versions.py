"""The versions of one model: found in its folder, loaded, served, unloaded.

A version is any folder whose name is a number. It is loaded before the one that it
replaces goes, so both are in memory for a while, and no request is without an answer. A
version that does not load, or does not answer its warm-up requests, replaces nothing.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from pathlib import Path

from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus
from tensorflow_serving.config import model_server_config_pb2

from recdistill.errors import ConfigError, ServeError
from recdistill.serving.deploy.batching_config import read_batching
from recdistill.serving.server.batcher import Arrays, Batcher
from recdistill.serving.server.loaded_model import (
    DEFAULT_SIGNATURE,
    Model,
    Signature,
    inputs_of,
    outputs_of,
    warm_up_requests,
)
from recdistill.serving.server.options import ServerOptions
from recdistill.serving.server.request_errors import Code, RequestError, invalid
from recdistill.serving.server.server_metrics import Metrics

__all__ = ["ModelVersions", "Version"]

START: int = ModelVersionStatus.START
LOADING: int = ModelVersionStatus.LOADING
AVAILABLE: int = ModelVersionStatus.AVAILABLE
UNLOADING: int = ModelVersionStatus.UNLOADING
END: int = ModelVersionStatus.END

BATCHING_FILE = "batching_params.pbtxt"

_log = logging.getLogger(__name__)


class Version:
    """One version, from the moment that its folder is seen.

    Attributes:
        number: The folder's name.
        path: The folder.
        state: A state of `ModelVersionStatus`.
        error: Why it did not load.
    """

    def __init__(
        self, number: int, path: Path, options: ServerOptions, metrics: Metrics
    ) -> None:
        self.number, self.path = number, path
        self.state, self.error = START, None
        self.failures, self.retry_at = 0, 0.0
        self._options, self._metrics = options, metrics
        self._model: Model | None = None
        self._batcher: Batcher | None = None
        self._users, self._lock = 0, threading.Lock()

    state: int
    error: RequestError | None

    @property
    def model(self) -> Model:
        """What was loaded; only while the version is held."""
        if self._model is None:
            raise RequestError(Code.UNAVAILABLE, f"Version {self.number} is unloaded.")
        return self._model

    def hold(self) -> bool:
        """Keeps the version in memory until `let_go`; False if it is not served."""
        with self._lock:
            if self.state != AVAILABLE:
                return False
            self._users += 1
            return True

    def let_go(self) -> None:
        """Ends what `hold` began."""
        with self._lock:
            self._users -= 1

    def load(self, now: float) -> bool:
        """Loads the version and answers its warm-up requests.

        Args:
            now: The time on a monotonic clock, in seconds.

        Returns:
            Whether it is served now. If not, `state` and `error` say why, and a later
            call tries again.
        """
        self.state, started = LOADING, time.perf_counter()
        try:
            self._load()
        except RequestError as error:
            self._failed(error, now)
        except (ConfigError, OSError) as error:
            self._failed(invalid(str(error)), now)
        self._measure(started)
        return self.state == AVAILABLE

    def retire(self) -> None:
        """Takes no more requests."""
        with self._lock:
            self.state = UNLOADING

    def unload(self) -> bool:
        """Frees the memory of a retired version, if nobody holds it any more."""
        with self._lock:
            if self._users:
                return False
            self.state = END
        self._close()
        return True

    def signature(self, name: str) -> Signature:
        """One signature.

        Args:
            name: As in the request; empty for the default one.

        Raises:
            RequestError: If there is none of that name.
        """
        found = self.model.signatures.get(name or DEFAULT_SIGNATURE)
        if found is None:
            message = (
                f'Serving signature key "{name or DEFAULT_SIGNATURE}" not found. '
                f"There are: {', '.join(sorted(self.model.signatures))}"
            )
            raise RequestError(Code.FAILED_PRECONDITION, message)
        return found

    def answer(
        self,
        signature: Signature,
        values: Arrays,
        outputs: tuple[str, ...],
        timeout_s: float | None,
        deadline_s: float | None = None,
    ) -> Arrays:
        """Runs one request, in a batch where requests are batched.

        Args:
            signature: What is asked.
            values: One array for each of its inputs.
            outputs: Names of the outputs to compute.
            timeout_s: How long it may take.
            deadline_s: How long the caller waits, where that differs from request to
                request: it bounds the wait for a batch only.

        Raises:
            RequestError: If it fails.
        """
        if self._batcher is None:
            return self.model.run(signature, values, outputs, timeout_s)
        bounds = [s for s in (timeout_s, deadline_s) if s is not None]
        return self._batcher.submit(
            signature, values, outputs, min(bounds, default=None)
        )

    def _load(self) -> None:
        options = self._options
        self._model = Model(
            self.path,
            intra_op_threads=options.intra_op_threads,
            inter_op_threads=options.inter_op_threads,
        )
        parameters, own = options.batching, self.path / BATCHING_FILE
        if options.per_model_batching and own.is_file():
            parameters = read_batching(own)
        if parameters is not None:
            self._batcher = Batcher(self._model.run, parameters, self._metrics)
        self._warm_up()
        with self._lock:
            self.state, self.error = AVAILABLE, None

    def _warm_up(self) -> None:
        started, status = time.perf_counter(), "OK"
        # With a time limit, as over REST, TensorFlow prepares a call of its own.
        limits: list[float | None] = [None]
        if self._options.rest_port is not None and self._batcher is None:
            limits.append(self._options.rest_timeout_s)
        try:
            for request in warm_up_requests(self.path):
                signature = self.signature(request.model_spec.signature_name)
                outputs = outputs_of(signature, request.output_filter)
                values = inputs_of(signature, request)
                for limit in limits:
                    self.answer(signature, values, outputs, limit)
        except RequestError as error:
            status = error.code.name
            message = f"The warm-up of {self.path} failed: {error.message}"
            raise RequestError(error.code, message) from error
        finally:
            self._metrics.observe(
                ":tensorflow:serving:model_warmup_latency",
                (time.perf_counter() - started) * 1e6,
                str(self.path),
                status,
            )

    def _failed(self, error: RequestError, now: float) -> None:
        self._close()
        self.failures += 1
        self.retry_at = now + self._options.load_retry_s
        self.error = error
        if self.failures > self._options.load_retries:
            self.state = END
        _log.warning("%s did not load: %s", self.path, error.message)

    def _close(self) -> None:
        model, batcher = self._model, self._batcher
        self._model = self._batcher = None
        if batcher is not None:
            batcher.close()
        if model is not None:
            model.close()

    def _measure(self, started: float) -> None:
        path = str(self.path)
        status = "success" if self.state == AVAILABLE else "fail"
        name = ":tensorflow:cc:saved_model"
        self._metrics.count(f"{name}:load_attempt_count", path, status)
        microseconds = (time.perf_counter() - started) * 1e6
        self._metrics.count(f"{name}:load_latency", path, by=microseconds)


class ModelVersions:
    """A model: its folder, and the versions that were seen there.

    Args:
        config: Name, folder and version policy.
        options: Of the server.
        metrics: Where loads are counted.
    """

    def __init__(
        self,
        config: model_server_config_pb2.ModelConfig,
        options: ServerOptions,
        metrics: Metrics,
    ) -> None:
        self.name, self.config = config.name, config
        self._options, self._metrics = options, metrics
        self.versions: dict[int, Version] = {}
        self._served: tuple[Version, ...] = ()

    @property
    def served(self) -> tuple[Version, ...]:
        """The versions that answer, the highest first."""
        return self._served

    def start(self) -> None:
        """Loads all versions that are there.

        Raises:
            ServeError: If there is none, or one does not load.
        """
        self.poll(time.monotonic())
        failed = [v for v in self.versions.values() if v.state != AVAILABLE]
        if not failed and self._served:
            return
        reasons = [f"version {v.number}: {v.error}" for v in failed]
        self.stop()
        raise ServeError(
            f"The model {self.name!r} must have versions that load, folders whose "
            f"names are numbers, in {self.config.base_path}. "
            f"Received: {'; '.join(reasons) or 'none'}"
        )

    def poll(self, now: float) -> None:
        """Looks at the folder; loads what is new, then unloads what is not wanted.

        Args:
            now: The time on a monotonic clock, in seconds.
        """
        wanted = self._wanted()
        for number, path in sorted(wanted.items()):
            known = self.versions.get(number)
            if known is None or (known.state == END and known.error is None):
                known = Version(number, path, self._options, self._metrics)
                self.versions[number] = known
            if known.state in (START, LOADING) and known.retry_at <= now:
                known.load(now)
                self._publish()
        replaced = any(v.number in wanted for v in self._served)
        for version in list(self.versions.values()):
            if version.number not in wanted or version.state == UNLOADING:
                self._drop(version, replaced or not wanted)

    def stop(self) -> None:
        """Unloads everything, as soon as nobody uses it."""
        for version in self.versions.values():
            self._drop(version, True)
        self._publish()
        while not all(v.state == END for v in self.versions.values()):
            time.sleep(0.01)
            for version in self.versions.values():
                self._drop(version, True)

    def _drop(self, version: Version, replaced: bool) -> None:
        if version.state == AVAILABLE and replaced:
            version.retire()
            self._publish()
        if version.state == UNLOADING:
            version.unload()
        elif version.state != AVAILABLE and version.error is not None:
            # Its folder is gone; if it comes again, it is a new one.
            version.state, version.error = END, None

    def _publish(self) -> None:
        served = [v for v in self.versions.values() if v.state == AVAILABLE]
        self._served = tuple(sorted(served, key=lambda v: -v.number))

    def _wanted(self) -> dict[int, Path]:
        """The versions in the folder that the policy picks."""
        try:
            folders = [
                path
                for path in Path(self.config.base_path).iterdir()
                if re.fullmatch(r"[0-9]{1,18}", path.name) and path.is_dir()
            ]
        except OSError as error:
            # A folder that can't be read for a moment is no reason to unload.
            if not isinstance(error, FileNotFoundError):
                return {v.number: v.path for v in self._served}
            folders = []
        found = {int(path.name): path for path in sorted(folders)}
        policy = self.config.model_version_policy
        match policy.WhichOneof("policy_choice"):
            case "all":
                return found
            case "specific":
                asked = set(policy.specific.versions)
                return {n: path for n, path in found.items() if n in asked}
            case _:
                latest = sorted(found)[-(policy.latest.num_versions or 1) :]
                return {n: found[n] for n in latest}
