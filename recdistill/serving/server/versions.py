"""The versions of a model: discovery, loading, serving and unloading.

A version is a folder whose name is a number. A new version is loaded before the old one
is unloaded, so that no request fails; both are in memory during the change. A version
that does not load, or whose warm-up requests fail, does not replace another.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from pathlib import Path
from typing import NamedTuple

from grpc import StatusCode
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus
from tensorflow_serving.config import model_server_config_pb2

from recdistill.errors import RecdistillError, ServeError
from recdistill.export.layout import (
    BATCHING_PARAMS,
    MANIFEST,
    MOST_ROWS,
    verified_manifest,
)
from recdistill.serving.deploy.batching_config import read_batching
from recdistill.serving.server.batcher import Arrays, Batcher
from recdistill.serving.server.loaded_model import (
    DEFAULT_SIGNATURE,
    LoadedModel,
    LoadedSignature,
    request_inputs,
    request_outputs,
    warm_up_requests,
)
from recdistill.serving.server.options import ServerOptions
from recdistill.serving.server.request_errors import RequestError, invalid
from recdistill.serving.server.server_metrics import ServerMetrics

__all__ = ["ModelVersion", "ModelVersions", "Prediction"]

START: int = ModelVersionStatus.START
LOADING: int = ModelVersionStatus.LOADING
AVAILABLE: int = ModelVersionStatus.AVAILABLE
UNLOADING: int = ModelVersionStatus.UNLOADING
END: int = ModelVersionStatus.END

_log = logging.getLogger(__name__)


class Prediction(NamedTuple):
    """A request as arrays.

    Attributes:
        signature: The signature to call.
        inputs: One array for each input, in the order of the signature.
        outputs: Names of the outputs to compute.
    """

    signature: LoadedSignature
    inputs: Arrays
    outputs: tuple[str, ...]


class ModelVersion:
    """A version of a model, from the discovery of its folder.

    Attributes:
        number: Version number, the name of the folder.
        path: The folder.
        state: A state of `ModelVersionStatus`.
        error: Error of the last attempt to load it.
    """

    def __init__(
        self, number: int, path: Path, options: ServerOptions, metrics: ServerMetrics
    ) -> None:
        self.number, self.path = number, path
        self.state: int = START
        self.error: RequestError | None = None
        self.failures, self.retry_at = 0, 0.0
        self._options, self._metrics = options, metrics
        self._model: LoadedModel | None = None
        self._batcher: Batcher | None = None
        self._users, self._lock = 0, threading.Lock()

    @property
    def model(self) -> LoadedModel:
        """The loaded model. Valid between `acquire` and `release`."""
        if self._model is None:
            raise RequestError(
                StatusCode.UNAVAILABLE, f"ModelVersion {self.number} is unloaded."
            )
        return self._model

    def acquire(self) -> bool:
        """Keeps the version in memory until `release`; False if it is not served."""
        with self._lock:
            if self.state != AVAILABLE:
                return False
            self._users += 1
            return True

    def release(self) -> None:
        """Allows the version to be unloaded again."""
        with self._lock:
            self._users -= 1

    def load(self, now: float) -> None:
        """Loads the version and runs its warm-up requests.

        If it fails, `state` and `error` have the reason, and `load` may be called
        again.

        Args:
            now: Time on a monotonic clock, in seconds.
        """
        self.state, started = LOADING, time.perf_counter()
        try:
            self._load()
        except (RequestError, RecdistillError, OSError) as error:
            self._failed(error, now)
        path, status = str(self.path), "success" if self.state == AVAILABLE else "fail"
        name = ":tensorflow:cc:saved_model"
        microseconds = (time.perf_counter() - started) * 1e6
        self._metrics.count(f"{name}:load_attempt_count", path, status)
        self._metrics.count(f"{name}:load_latency", path, by=microseconds)

    def retire(self) -> None:
        """Rejects new requests."""
        with self._lock:
            self.state = UNLOADING

    def unload(self) -> None:
        """Frees the memory of a retired version, unless requests still use it."""
        with self._lock:
            if self._users:
                return
            self.state = END
        self._close()

    def signature(self, name: str) -> LoadedSignature:
        """Returns a signature.

        Args:
            name: Name in the request; empty for the default signature.

        Raises:
            RequestError: If the model does not have this signature, or it is not one
                for predictions.
        """
        signatures, name = self.model.signatures, name or DEFAULT_SIGNATURE
        if name in self.model.signature_defs and name not in signatures:
            raise invalid(f"The signature {name} is not for predictions.")
        if name not in signatures:
            raise RequestError(
                StatusCode.FAILED_PRECONDITION,
                f'Serving signature key "{name}" not found. '
                f"The model has: {', '.join(sorted(signatures))}",
            )
        return signatures[name]

    def prediction(self, request: predict_pb2.PredictRequest) -> Prediction:
        """Reads a gRPC request.

        Raises:
            RequestError: If the request does not match its signature.
        """
        signature = self.signature(request.model_spec.signature_name)
        return Prediction(
            signature,
            request_inputs(signature, request),
            request_outputs(signature, request.output_filter),
        )

    def answer(self, prediction: Prediction, deadline_s: float | None = None) -> Arrays:
        """Runs a request, in a batch if batching is enabled.

        Args:
            prediction: The request.
            deadline_s: Time until the deadline. It ends the wait for a batch, but not a
                run of the graph.

        Raises:
            RequestError: If the request fails.
        """
        rows = max((len(each) for each in prediction.inputs if each.ndim), default=0)
        if rows > MOST_ROWS:
            raise invalid(
                f"A request must have at most {MOST_ROWS} rows. Received: {rows}"
            )
        if self._batcher is None:
            return self.model.run(*prediction)
        return self._batcher.submit(*prediction, deadline_s)

    def _load(self) -> None:
        if (self.path / MANIFEST).exists():
            verified_manifest(self.path)
        self._model = LoadedModel(self.path)
        parameters, own = self._options.batching, self.path / BATCHING_PARAMS
        if self._options.per_model_batching and own.is_file():
            parameters = read_batching(own)
        if parameters is not None:
            self._batcher = Batcher(self._model.run, parameters, self._metrics)
        self._warm_up()
        with self._lock:
            self.state, self.error = AVAILABLE, None

    def _warm_up(self) -> None:
        started = time.perf_counter()
        try:
            for request in warm_up_requests(self.path):
                self.answer(self.prediction(request))
        except RequestError as error:
            raise RequestError(
                error.code, f"The warm-up of {self.path} failed: {error.message}"
            ) from error
        # As in TensorFlow Serving, a warm-up that failed has no series.
        self._metrics.observe(
            ":tensorflow:serving:model_warmup_latency",
            (time.perf_counter() - started) * 1e6,
            str(self.path),
            "OK",
        )

    def _failed(self, error: Exception, now: float) -> None:
        self._close()
        self.failures += 1
        self.retry_at = now + self._options.load_retry_s
        self.error = error if isinstance(error, RequestError) else invalid(str(error))
        if self.failures > self._options.load_retries:
            self.state = END
        _log.warning("%s did not load: %s", self.path, self.error.message)

    def _close(self) -> None:
        model, batcher = self._model, self._batcher
        self._model = self._batcher = None
        if batcher is not None:
            batcher.close()
        if model is not None:
            model.close()


class ModelVersions:
    """A model and the versions found in its folder.

    Args:
        config: Name, folder and version policy.
        options: Settings of the server.
        metrics: Metrics of the server.

    Attributes:
        served: The served versions, latest first.
    """

    def __init__(
        self,
        config: model_server_config_pb2.ModelConfig,
        options: ServerOptions,
        metrics: ServerMetrics,
    ) -> None:
        self.name, self.config = config.name, config
        self._options, self._metrics = options, metrics
        self.versions: dict[int, ModelVersion] = {}
        self.served: tuple[ModelVersion, ...] = ()

    def start(self) -> None:
        """Loads the versions in the folder.

        Raises:
            ServeError: If the folder has no version, or one does not load.
        """
        self.poll(time.monotonic())
        failed = [v for v in self.versions.values() if v.state != AVAILABLE]
        if not failed and self.served:
            return
        reasons = [f"version {v.number}: {v.error}" for v in failed]
        self.stop()
        raise ServeError(
            f"The model {self.name!r} must have versions that load, folders whose "
            f"names are numbers, in {self.config.base_path}. "
            f"Received: {'; '.join(reasons) or 'none'}"
        )

    def poll(self, now: float) -> None:
        """Scans the folder, loads new versions, then unloads unwanted ones.

        Args:
            now: Time on a monotonic clock, in seconds.
        """
        wanted = self._wanted()
        for number, path in sorted(wanted.items()):
            known = self.versions.get(number)
            if known is None or (known.state == END and known.error is None):
                known = ModelVersion(number, path, self._options, self._metrics)
                self.versions[number] = known
            if known.state in (START, LOADING) and known.retry_at <= now:
                known.load(now)
                self._publish()
        replaced = any(v.number in wanted for v in self.served)
        for version in list(self.versions.values()):
            if version.number not in wanted or version.state == UNLOADING:
                self._drop(version, replaced or not wanted)

    def stop(self) -> None:
        """Unloads all versions after their last requests."""
        for version in self.versions.values():
            self._drop(version, True)
        self._publish()
        while not all(v.state == END for v in self.versions.values()):
            time.sleep(0.01)
            for version in self.versions.values():
                self._drop(version, True)

    def _drop(self, version: ModelVersion, replaced: bool) -> None:
        if version.state == AVAILABLE and replaced:
            version.retire()
            self._publish()
        if version.state == UNLOADING:
            version.unload()
        elif version.state != AVAILABLE and version.error is not None:
            # If the folder of a failed version reappears, it counts as a new version.
            version.state, version.error = END, None

    def _publish(self) -> None:
        served = [v for v in self.versions.values() if v.state == AVAILABLE]
        self.served = tuple(sorted(served, key=lambda v: -v.number))

    def _wanted(self) -> dict[int, Path]:
        """Folders of the versions chosen by the version policy."""
        try:
            folders = {
                int(path.name): path
                for path in sorted(Path(self.config.base_path).iterdir())
                if re.fullmatch(r"[0-9]{1,18}", path.name) and path.is_dir()
            }
        except OSError as error:
            # A folder that is temporarily unreadable must not unload its versions.
            if not isinstance(error, FileNotFoundError):
                return {v.number: v.path for v in self.served}
            folders = {}
        policy = self.config.model_version_policy
        match policy.WhichOneof("policy_choice"):
            case "all":
                wanted = set(folders)
            case "specific":
                wanted = set(policy.specific.versions)
            case _:
                wanted = set(sorted(folders)[-(policy.latest.num_versions or 1) :])
        return {number: folders[number] for number in wanted & folders.keys()}
