"""Reads and validates a configuration."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from recdistill.atomic import refuse_pipes
from recdistill.errors import ConfigError
from recdistill.pipeline.config.pipeline_config import Config
from recdistill.pipeline.config.validation_messages import explain

_TOO_DEEP = "must not have hundreds of nested tables or lists."


def load_config(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Reads and validates a pipeline file.

    Args:
        path: The TOML file.
        overrides: `a.b=c` each; `c` is a TOML value, or else taken as a string.

    Raises:
        ConfigError: If the file cannot be read or is not TOML, or if it has an unknown
            key or an invalid value.
    """
    return parse_config(read_toml(path), overrides, source=str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The document in a TOML file.

    Raises:
        ConfigError: If the file cannot be read or is not TOML.
    """
    try:
        refuse_pipes(path)
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"Cannot read the configuration {path}: {error.strerror}."
        ) from error
    except ValueError as error:  # Not UTF-8, not TOML, or a number of 5,000 digits.
        raise ConfigError(f"{path} is not a TOML file: {error}.") from error
    except RecursionError as error:
        raise ConfigError(f"{path} {_TOO_DEEP}") from error


def parse_config(
    document: Mapping[str, Any], overrides: Iterable[str] = (), source: str = ""
) -> Config:
    """Validates a configuration.

    Args:
        document: The sections as nested dicts, as in the TOML file.
        overrides: As in `load_config`.
        source: Name of the configuration, for errors.

    Raises:
        ConfigError: If there is an unknown key or an invalid value.
    """
    changed = dict(document)
    for override in overrides:
        _override(changed, override)
    prefix = f"{source}: " if source else ""
    try:
        return Config.model_validate(changed)
    except ValidationError as error:
        raise ConfigError(f"{prefix}{explain(error, Config)}") from error
    except RecursionError as error:
        raise ConfigError(f"{prefix}The configuration {_TOO_DEEP}") from error


def _override(document: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(
            f"`--set` must look like section.key=value. Received: {override!r}"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        value = text
    except RecursionError as error:
        raise ConfigError(f"`--set` {key} {_TOO_DEEP}") from error
    *sections, last = key.strip().split(".")
    for section in sections:
        inner = document.get(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                f"`--set` must name a key of a section; {section!r} is a value. "
                f"Received: {override!r}"
            )
        document[section] = dict(inner)
        document = document[section]
    document[last] = value
