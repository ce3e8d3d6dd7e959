"""The model server's files: which models and versions it has, and its metrics.

`models.config` is the text form of `tensorflow.serving.ModelServerConfig`. It is read,
changed and written by the server's own message, so fields that are not named here
survive a change. Comments do not.

A server that reads a new `models.config` moves the labels first and loads versions
after. If one label can't be moved, because its version is not loaded, it drops the file
and loads nothing: read again every few seconds, such a file never takes effect. Hence
the rules that `Models` keeps:

* a label moves only to a version that the file before it loads already: load it with
  `with_versions`, let the server do so, then move the label. A label that is new may
  name any version, given `--allow_version_labels_for_unavailable_models`;
* a model with labels loads the versions that it names and no others. A policy of "the
  latest" would unload `stable` as soon as somebody exports twice;
* the version that a label leaves stays loaded, so that a rollback has nothing to load.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from recdistill.atomic import atomic_write
from recdistill.errors import ConfigError

__all__ = [
    "CANARY",
    "STABLE",
    "Models",
    "ServedModel",
    "read_models",
    "write_monitoring",
]

STABLE, CANARY = "stable", "canary"
"""The labels that `recdistill release` moves: for most traffic, and for a little."""

METRICS_PATH = "/monitoring/prometheus/metrics"
"""Where a server shows its metrics, on its REST port."""

_HEADER = (
    "# Written by recdistill, rewritten by `recdistill release`: comments are lost.\n"
)


@dataclass(frozen=True)
class ServedModel:
    """One model of a server.

    Attributes:
        name: As requests call it.
        base_path: The folder of its versions, as the server sees it: an absolute path,
            or a URI such as `gs://bucket/films`.
        versions: The versions that are loaded, ascending. Empty: the `latest` highest.
        latest: How many of the highest versions are loaded where `versions` is empty.
        labels: Versions by label; each is among `versions`.
    """

    name: str
    base_path: str
    versions: tuple[int, ...] = ()
    latest: int = 1
    labels: Mapping[str, int] = field(default_factory=dict)

    @property
    def standby(self) -> tuple[int, ...]:
        """Loaded versions without a label, ascending: what a rollback can go back to.

        Example:
            >>> ServedModel("films", "/m", (3, 4), labels={"stable": 4}).standby
            (3,)
        """
        labelled = set(self.labels.values())
        return tuple(v for v in self.versions if v not in labelled)


class Models:
    """The content of a `models.config`. It is a value: a change gives another one.

    Args:
        text: The file's content. Empty: no model.

    Raises:
        ConfigError: If the text is no `ModelServerConfig`, or one that no server takes:
            a model without a name or with a relative path, two of one name.

    Example:
        >>> models = Models().with_model("films", "/models/films")
        >>> models = models.with_label("films", "stable", 3)
        >>> models = models.with_label("films", "canary", 4)
        >>> models["films"].versions, dict(models["films"].labels)
        ((3, 4), {'canary': 4, 'stable': 3})
        >>> models.with_label("films", "stable", 4)["films"].standby
        (3,)
    """

    def __init__(self, text: str = "") -> None:
        self._config = model_server_config_pb2.ModelServerConfig()
        try:
            text_format.Parse(text, self._config)
        except text_format.ParseError as error:
            raise ConfigError(
                "`models.config` must be a ModelServerConfig in text form. "
                f"Received: {error}"
            ) from error
        if self._config.HasField("custom_model_config"):
            raise ConfigError(
                "`models.config` must have a model_config_list. "
                "Received: custom_model_config"
            )
        names = [each.name for each in self._config.model_config_list.config]
        for each in self._config.model_config_list.config:
            _check_name(each.name)
            _check_base_path(each.base_path)
            if names.count(each.name) > 1:
                raise ConfigError(
                    "`models.config` must name each model once. Received: "
                    f"{each.name!r} {names.count(each.name)} times"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models, in the file's order."""
        return tuple(each.name for each in self._config.model_config_list.config)

    @property
    def text(self) -> str:
        """The file's content."""
        return _HEADER + str(text_format.MessageToString(self._config))

    def __getitem__(self, name: str) -> ServedModel:
        """One model.

        Raises:
            ConfigError: If there is none of that name.
        """
        config = self._find(self._config, name)
        policy = config.model_version_policy
        latest, specific = policy.latest.num_versions, policy.specific.versions
        return ServedModel(
            name,
            config.base_path,
            tuple(sorted(specific)),
            latest or 1,
            dict(sorted(config.version_labels.items())),
        )

    def with_model(self, name: str, base_path: str, *, latest: int = 1) -> Models:
        """Adds a model, or moves one; it loads its highest versions and has no label.

        Args:
            name: As requests will call it.
            base_path: The folder of its versions, as the server sees it.
            latest: How many of the highest versions to load, at least 1.

        Raises:
            ConfigError: If an argument does not fit.
        """
        _check_name(name)
        _check_base_path(base_path)
        if latest < 1:
            raise ConfigError(f"`latest` must be at least 1. Received: latest={latest}")
        changed = self._copy()
        models = changed._config.model_config_list.config
        config = next((m for m in models if m.name == name), None) or models.add()
        config.Clear()
        config.name, config.base_path = name, base_path
        config.model_platform = "tensorflow"
        if latest > 1:
            config.model_version_policy.latest.num_versions = latest
        return changed

    def with_versions(self, name: str, versions: Iterable[int]) -> Models:
        """Loads these versions of a model, and those that its labels name.

        Args:
            name: The model.
            versions: Their numbers, each at least 1.

        Raises:
            ConfigError: If there is no such model, no version is left to load, or one
                is out of range.
        """
        labelled = self[name].labels.values()
        wanted = sorted({*(_version(v) for v in versions), *labelled})
        if not wanted:
            raise ConfigError(
                f"`versions` must name at least one version of {name!r}. Received: none"
            )
        changed = self._copy()
        policy = self._find(changed._config, name).model_version_policy
        policy.Clear()
        policy.specific.versions.extend(wanted)
        return changed

    def with_label(self, name: str, label: str, version: int) -> Models:
        """Gives a label to a version; it leaves the one that had it.

        Loaded are then the versions that have a label and the one that this label left.

        Args:
            name: The model.
            label: Such as `STABLE`, `CANARY`.
            version: The version that gets it. If the label is there already, one that
                is loaded: see the top of this module.

        Raises:
            ConfigError: If there is no such model, or an argument does not fit.
        """
        if not label:
            raise ConfigError(f"`label` must not be empty. Received: label={label!r}")
        before = self[name]
        left = before.labels.get(label)
        if left == version:
            return self
        if left is not None and version not in before.versions:
            raise ConfigError(
                f"`version` must be among the loaded ones, {list(before.versions)}, "
                f"because a server moves the label {label!r} to no other: load it "
                f"first, and give it the label then. Received: version={version}"
            )
        changed = self._copy()
        self._find(changed._config, name).version_labels[label] = _version(version)
        return changed.with_versions(name, [] if left is None else [left])

    def without_label(self, name: str, label: str) -> Models:
        """Takes a label away; its version is unloaded unless another label names it.

        The last label's version stays, as the only one.

        Args:
            name: The model.
            label: A label that it has.

        Raises:
            ConfigError: If there is no such model or label.
        """
        before = self[name]
        if label not in before.labels:
            raise ConfigError(
                f"`label` must be one of {sorted(before.labels)}, the labels of "
                f"{name!r}. Received: label={label!r}"
            )
        changed = self._copy()
        del self._find(changed._config, name).version_labels[label]
        left = before.labels[label]
        kept = [v for v in before.standby if v != left]
        return changed.with_versions(
            name, kept if len(before.labels) > 1 else [*kept, left]
        )

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all: a server may read it at any moment.

        Args:
            path: The file; its folder must exist.

        Raises:
            OSError: If it cannot be written.
        """
        with atomic_write(path) as aside:
            aside.write_text(self.text, encoding="utf-8")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Models) and bool(self._config == other._config)

    __hash__ = None  # type: ignore[assignment]

    def _copy(self) -> Models:
        copy = Models()
        copy._config.CopyFrom(self._config)
        return copy

    def _find(
        self, config: model_server_config_pb2.ModelServerConfig, name: str
    ) -> model_server_config_pb2.ModelConfig:
        for each in config.model_config_list.config:
            if each.name == name:
                return each
        raise ConfigError(
            f"`name` must be one of {list(self.names)}. Received: name={name!r}"
        )


def read_models(path: Path) -> Models:
    """Reads a `models.config`.

    Args:
        path: The file.

    Raises:
        OSError: If it cannot be read.
        ConfigError: If no server would take it.
    """
    return Models(path.read_text(encoding="utf-8"))


def write_monitoring(path: Path) -> None:
    """Writes a `monitoring.config` that turns on metrics in Prometheus's format.

    Args:
        path: The file; its folder must exist.

    Raises:
        OSError: If it cannot be written.
    """
    with atomic_write(path) as aside:
        aside.write_text(
            f'prometheus_config {{\n  enable: true\n  path: "{METRICS_PATH}"\n}}\n',
            encoding="utf-8",
        )


def _check_name(name: str) -> None:
    if not name or "/" in name:
        raise ConfigError(
            f"`name` must not be empty and have no '/'. Received: name={name!r}"
        )


def _check_base_path(path: str) -> None:
    if not re.match(r"/|[A-Za-z][A-Za-z0-9+.-]*://", path):
        raise ConfigError(
            "`base_path` must be an absolute path or a URI, as the server sees it. "
            f"Received: base_path={path!r}"
        )


def _version(version: int) -> int:
    if not 1 <= version < 2**63:
        raise ConfigError(
            f"`version` must be from 1 to 2**63 - 1. Received: version={version}"
        )
    return version
