"""`models.config` and `monitoring.config`: models, versions, labels and metrics.

`models.config` is a `tensorflow.serving.ModelServerConfig` message in text format. It
is parsed and written with the server's own message, so that other settings in it are
kept. Comments are lost.

A server that reloads `models.config` moves labels first and loads versions afterwards.
If the version of one label is not loaded, the server rejects the whole file and loads
nothing, and it does so again at every reload. `Models` therefore follows these rules:

* a label moves only to a version that the previous file already loads: add it with
  `with_versions`, wait until the server has loaded it, then move the label. A new label
  may name any version, with `--allow_version_labels_for_unavailable_models`;
* a model with labels loads only the versions that the file names. If it loaded "the
  latest version", the second export would unload `stable`;
* the version that a label leaves stays loaded, so that a rollback is immediate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from recdistill.atomic import READABLE, atomic_write
from recdistill.errors import ConfigError

__all__ = [
    "STABLE",
    "Models",
    "ServedModel",
    "read_models",
    "write_monitoring",
]

STABLE = "stable"
"""Default label of `recdistill release`."""

METRICS_PATH = "/monitoring/prometheus/metrics"
"""Path of the metrics page, on the REST port."""

_HEADER = (
    "# Written by recdistill. `recdistill release` rewrites it without comments.\n"
)


@dataclass(frozen=True)
class ServedModel:
    """Configuration of one model.

    Attributes:
        name: Name of the model in requests.
        base_path: Folder of its versions in the server's file system: an absolute path,
            or a URI such as `gs://bucket/films`.
        versions: Versions to load, ascending; if empty, the `latest` highest.
        latest: Number of highest versions to load if `versions` is empty.
        labels: Versions by label; each is in `versions`.
        every: Whether all versions are loaded, whatever the other fields say.
    """

    name: str
    base_path: str
    versions: tuple[int, ...] = ()
    latest: int = 1
    labels: Mapping[str, int] = field(default_factory=dict)
    every: bool = False

    @property
    def standby(self) -> tuple[int, ...]:
        """Loaded versions without a label, ascending: candidates for a rollback.

        Examples:
            >>> ServedModel("films", "/m", (3, 4), labels={"stable": 4}).standby
            (3,)
        """
        labelled = set(self.labels.values())
        return tuple(v for v in self.versions if v not in labelled)


class Models:
    """Content of a `models.config`. It is immutable: changes return a new object.

    Args:
        text: Content of the file; empty for no models.

    Raises:
        ConfigError: If the text is not a `ModelServerConfig`, or the server would
            reject it: a model without a name or with a relative path, or two models of
            one name.

    Examples:
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
                "`models.config` must be a ModelServerConfig in text format. "
                f"Received: {error}"
            ) from error
        if self._config.HasField("custom_model_config"):
            raise ConfigError(
                "`models.config` must have a model_config_list. "
                "Received: custom_model_config"
            )
        names = [each.name for each in self._config.model_config_list.config]
        for each in self._config.model_config_list.config:
            if not each.name or "/" in each.name:
                raise ConfigError(
                    "`name` must not be empty or contain '/'. "
                    f"Received: name={each.name!r}"
                )
            if not re.match(r"/|[A-Za-z][A-Za-z0-9+.-]*://", each.base_path):
                raise ConfigError(
                    "`base_path` must be an absolute path or a URI. "
                    f"Received: base_path={each.base_path!r}"
                )
            if names.count(each.name) > 1:
                raise ConfigError(
                    "`models.config` must have each model once. Received: "
                    f"{each.name!r} {names.count(each.name)} times"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models, in the order of the file."""
        return tuple(each.name for each in self._config.model_config_list.config)

    @property
    def text(self) -> str:
        """Content of the file."""
        return _HEADER + str(text_format.MessageToString(self._config))

    def __getitem__(self, name: str) -> ServedModel:
        """Configuration of one model.

        Raises:
            ConfigError: If the model does not exist.
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
            policy.HasField("all"),
        )

    def in_folder(self, folder: str) -> list[ServedModel]:
        """The models whose versions are in a folder of this name, or that have it.

        The server may see the folder under another path.
        """
        found = [self[name] for name in self.names]
        return [
            each
            for each in found
            if folder in (each.name, each.base_path.rstrip("/").rpartition("/")[2])
        ]

    def with_model(self, name: str, base_path: str) -> Models:
        """Adds or replaces a model that loads its highest version and has no labels.

        Args:
            name: Name of the model in requests.
            base_path: Folder of its versions in the server's file system.

        Raises:
            ConfigError: If an argument is invalid.
        """
        changed = self._copy()
        models = changed._config.model_config_list.config
        config = next((m for m in models if m.name == name), None) or models.add()
        config.Clear()
        config.name, config.base_path = name, base_path
        config.model_platform = "tensorflow"
        return Models(changed.text)

    def with_versions(self, name: str, versions: Iterable[int]) -> Models:
        """Loads these versions of a model, and the versions that have a label.

        Args:
            name: Name of the model.
            versions: Version numbers, each at least 1.

        Raises:
            ConfigError: If the model does not exist, no version is left to load, or a
                version is out of range.
        """
        labelled = self[name].labels.values()
        wanted = sorted({*(_version(v) for v in versions), *labelled})
        if not wanted:
            raise ConfigError(
                f"`versions` must have at least one version of {name!r}. Received: none"
            )
        changed = self._copy()
        policy = self._find(changed._config, name).model_version_policy
        policy.Clear()
        policy.specific.versions.extend(wanted)
        return changed

    def with_label(self, name: str, label: str, version: int) -> Models:
        """Moves a label to a version, or adds the label.

        The versions to load are then those that have a label, the one that this label
        left, and for each other label the highest lower version without a label, to
        which it can be moved back.

        Args:
            name: Name of the model.
            label: Label, for example `STABLE`.
            version: Version that gets the label. If the label exists, the version must
                be among those that are loaded; see the docstring of this module.

        Raises:
            ConfigError: If the model does not exist or an argument is invalid.
        """
        if not label:
            raise ConfigError(f"`label` must not be empty. Received: label={label!r}")
        before = self[name]
        left = before.labels.get(label)
        if left == version:
            return self
        if left is not None and version not in before.versions:
            raise ConfigError(
                f"`version` must be one of the loaded versions "
                f"{list(before.versions)}, because a server moves the label {label!r} "
                f"to no other; load it first. Received: version={version}"
            )
        changed = self._copy()
        self._find(changed._config, name).version_labels[label] = _version(version)
        kept = set() if left is None else {left}
        for other, number in before.labels.items():
            lower = [v for v in before.standby if v < number]
            if other != label and lower:
                kept.add(max(lower))
        return changed.with_versions(name, kept)

    def write(self, path: Path) -> None:
        """Writes the file atomically, because a server may read it at any time.

        Args:
            path: Output file; its folder must exist.

        Raises:
            OSError: If the file cannot be written.
        """
        with atomic_write(path) as aside:
            aside.write_text(self.text, encoding="utf-8")
            aside.chmod(READABLE)

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
        OSError: If the file cannot be read.
        ConfigError: If the server would reject it.
    """
    return Models(configuration_text(path, "models.config"))


def write_monitoring(path: Path) -> None:
    """Writes a `monitoring.config` that enables the Prometheus metrics page.

    Args:
        path: Output file; its folder must exist.

    Raises:
        OSError: If the file cannot be written.
    """
    with atomic_write(path) as aside:
        aside.write_text(
            f'prometheus_config {{\n  enable: true\n  path: "{METRICS_PATH}"\n}}\n',
            encoding="utf-8",
        )
        aside.chmod(READABLE)


def _version(version: int) -> int:
    if not 1 <= version < 2**63:
        raise ConfigError(
            f"`version` must be from 1 to 2**63 - 1. Received: version={version}"
        )
    return version


def configuration_text(path: Path, name: str) -> str:
    """Content of a configuration file.

    Args:
        path: The file.
        name: What it is, such as "batching.config", for error messages.

    Raises:
        ConfigError: If it is not a file or not text. A pipe has no end.
        OSError: If it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(
            f"`{name}` must be a file. Received: {path}, which is a folder, a pipe or "
            "a device"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"`{name}` must be text in UTF-8. Received: {path}, {error}"
        ) from error
