"""The models of a server: lookup by name, version or label, and reconfiguration.

A thread polls the folders of all models and `models.config`. A configuration is applied
as a whole or not at all.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import text_format
from grpc import StatusCode
from tensorflow_serving.apis import get_model_status_pb2, model_pb2
from tensorflow_serving.config.model_server_config_pb2 import (
    ModelConfig,
    ModelServerConfig,
)

from recdistill.errors import ServeError
from recdistill.serving.server.options import ServerOptions
from recdistill.serving.server.request_errors import RequestError, invalid
from recdistill.serving.server.server_metrics import ServerMetrics
from recdistill.serving.server.versions import ModelVersion, ModelVersions

__all__ = ["ServedModels"]

Labels = dict[str, dict[str, int]]

_log = logging.getLogger(__name__)


class ServedModels:
    """The models of a server.

    Args:
        options: Settings of the server.
        metrics: Metrics of the server.
    """

    def __init__(self, options: ServerOptions, metrics: ServerMetrics) -> None:
        self._options, self._metrics = options, metrics
        self._models: dict[str, ModelVersions] = {}
        self._labels: Labels = {}
        self._roots: tuple[Path, ...] = ()
        self._text = ""
        self._changing = threading.Lock()
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all models."""
        return tuple(self._models)

    def start(self) -> None:
        """Loads all models, then watches their folders.

        Raises:
            ServeError: If the configuration is invalid or a version does not load.
            OSError: If the configuration cannot be read.
        """
        self._text = self._options.models.read_text(encoding="utf-8")
        try:
            config = _parsed(self._text)
            self._apply(config)
        except RequestError as error:
            raise ServeError(f"{self._options.models}: {error.message}") from error
        # Later configurations may not use folders elsewhere.
        paths = [each.base_path for each in config.model_config_list.config]
        self._roots = tuple({Path(os.path.realpath(p)).parent for p in paths})
        self._watcher.start()

    def stop(self) -> None:
        """Stops watching and unloads all models."""
        self._stopped.set()
        self._wake.set()
        if self._watcher.is_alive():
            self._watcher.join()
        with self._changing:
            for model in self._models.values():
                model.stop()

    def reconfigure(self, config: ModelServerConfig) -> None:
        """Applies a new configuration, and returns after its new models are loaded.

        Args:
            config: The configuration. Its folders must be next to those of the
                configuration at the start.

        Raises:
            RequestError: If the configuration is rejected; nothing has changed then.
        """
        for each in config.model_config_list.config:
            folder = Path(os.path.realpath(each.base_path))
            if not any(folder.is_relative_to(root) for root in self._roots):
                raise RequestError(
                    StatusCode.PERMISSION_DENIED,
                    f"The base_path of {each.name!r} must be next to the folders that "
                    f"the server was started with. Received: {each.base_path}",
                )
        self._apply(config)

    @contextlib.contextmanager
    def use(self, spec: model_pb2.ModelSpec) -> Iterator[ModelVersion]:
        """Keeps the requested version in memory until the context ends.

        Args:
            spec: Model, version or label of the request.

        Raises:
            RequestError: If the model or version is not served.
        """
        version = self._acquired(spec)
        try:
            yield version
        finally:
            version.release()

    def _acquired(self, spec: model_pb2.ModelSpec) -> ModelVersion:
        model = self._models.get(spec.name)
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        number = self._number(spec)
        served: tuple[ModelVersion, ...] | None = None
        # If the versions were replaced meanwhile, a new one may be the right one.
        while model is not None and served is not model.served:
            served = model.served
            for version in served:
                # A version that was just retired cannot be acquired.
                if number in (None, version.number) and version.acquire():
                    return version
        named = (
            f"Latest({spec.name})"
            if number is None
            else f"Specific({spec.name}, {number})"
        )
        raise RequestError(
            StatusCode.NOT_FOUND, f"Servable not found for request: {named}"
        )

    def status(
        self, spec: model_pb2.ModelSpec
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """State of all versions of a model, or of one version.

        Args:
            spec: Model and version of the request. As in TensorFlow Serving, a label
                is ignored.

        Raises:
            RequestError: If the model or version is unknown.
        """
        model = self._models.get(spec.name)
        number = spec.version.value if spec.HasField("version") else None
        response = get_model_status_pb2.GetModelStatusResponse()
        versions = dict(model.versions) if model else {}
        for version in sorted(versions.values(), key=lambda v: -v.number):
            if number in (None, version.number):
                status = response.model_version_status.add(
                    version=version.number, state=version.state
                )
                status.status.SetInParent()  # "OK" is written too.
                if version.error is not None:
                    status.status.error_code = version.error.code.value[0]
                    status.status.error_message = version.error.message
        if not response.model_version_status:
            what = "any versions" if number is None else f"version {number}"
            raise RequestError(
                StatusCode.NOT_FOUND, f"Could not find {what} of model {spec.name}"
            )
        return response

    def _number(self, spec: model_pb2.ModelSpec) -> int | None:
        """The requested version; None for the latest."""
        choice = spec.WhichOneof("version_choice")
        if choice != "version_label":
            return int(spec.version.value) if choice else None
        number = self._labels.get(spec.name, {}).get(spec.version_label)
        if number is None:
            raise invalid(f"Unrecognized servable version label: {spec.version_label}")
        return number

    def _apply(self, config: ModelServerConfig) -> None:
        _check(config)
        listed = {each.name: each for each in config.model_config_list.config}
        with self._changing:
            labels = self._checked_labels(listed)
            models = dict(self._models)
            for name in listed.keys() - models.keys():
                models[name] = ModelVersions(listed[name], self._options, self._metrics)
            added = [models[name] for name in listed.keys() - self._models.keys()]
            try:
                for model in added:
                    model.start()
            except ServeError as error:
                for model in added:
                    model.stop()
                raise RequestError(StatusCode.UNKNOWN, str(error)) from error
            removed = [models.pop(name) for name in models.keys() - listed.keys()]
            for name, model in models.items():
                model.config = listed[name]
            self._models, self._labels = models, labels
            for model in removed:
                model.stop()
        self._wake.set()

    def _checked_labels(self, listed: dict[str, ModelConfig]) -> Labels:
        """Labels by model. A label may only move to a version that is loaded."""
        labels: Labels = {}
        for name, each in listed.items():
            known = self._models.get(name)
            served = {v.number for v in known.served} if known else set()
            before = self._labels.get(name, {})
            for label, number in each.version_labels.items():
                new = before.get(label, number) == number
                allowed = new and self._options.labels_for_unavailable
                if number not in served and not allowed:
                    raise RequestError(
                        StatusCode.FAILED_PRECONDITION,
                        f"Request to assign label to version {number} of model {name}, "
                        "which is not currently available for inference",
                    )
            labels[name] = dict(each.version_labels)
        return labels

    def _watch(self) -> None:
        options, read_at = self._options, time.monotonic()
        while not self._stopped.is_set():
            self._wake.wait(options.poll_s)
            self._wake.clear()
            if self._stopped.is_set():
                return
            now = time.monotonic()
            if options.models_poll_s and now - read_at >= options.models_poll_s:
                read_at = now
                self._read_again()
            with self._changing:
                for model in self._models.values():
                    try:
                        model.poll(now)
                    except Exception:
                        # The thread must not end, or no new version would be seen.
                        _log.exception("Scanning for versions of %s failed", model.name)

    def _read_again(self) -> None:
        """Applies `models.config` if it has changed and is valid."""
        try:
            text = self._options.models.read_text(encoding="utf-8")
            if text == self._text:
                return
            self._apply(_parsed(text))
            # A rejected file is tried again: its versions may be loaded later.
            self._text = text
        except (OSError, ValueError, RequestError) as error:
            _log.warning("%s is rejected: %s", self._options.models, error)


def _parsed(text: str) -> ModelServerConfig:
    try:
        return text_format.Parse(text, ModelServerConfig())
    except text_format.ParseError as error:
        raise invalid(
            f"The configuration must be a ModelServerConfig in text form: {error}"
        ) from error


def _check(config: ModelServerConfig) -> None:
    if config.WhichOneof("config") != "model_config_list":
        raise invalid("The configuration must have a model_config_list.")
    names: set[str] = set()
    for each in config.model_config_list.config:
        if not each.name or "/" in each.name or each.name in names:
            raise invalid(
                "The name of a model must be unique, not empty and without '/'. "
                f"Received: {each.name!r}"
            )
        names.add(each.name)
        if each.model_platform != "tensorflow":
            raise invalid(
                f"The platform of {each.name!r} must be 'tensorflow'. "
                f"Received: {each.model_platform!r}"
            )
        if not os.path.isabs(each.base_path):
            raise invalid(
                f"The base_path of {each.name!r} must be absolute. "
                f"Received: {each.base_path!r}"
            )
