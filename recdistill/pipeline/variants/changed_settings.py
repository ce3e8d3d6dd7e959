"""A configuration with some settings changed, and the files of such a choice."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from recdistill.atomic import atomic_write
from recdistill.errors import ConfigError
from recdistill.evaluation.report.terminal_tables import setting_text
from recdistill.pipeline.config import Config
from recdistill.pipeline.config.search_space import Choices, SearchSpace
from recdistill.pipeline.config.validation_messages import explain
from recdistill.toml_text import as_toml

Settings = Mapping[str, Any]
"""Values of the configuration by dotted key, such as {"student.dim": 16}."""


def with_settings(config: Config, settings: Settings) -> Config:
    """The configuration with other values of some keys.

    Args:
        config: The configuration.
        settings: The values. A key that holds several values, such as
            `student.learning_rates`, may have a single one. "none" stands for no value,
            which TOML does not have.

    Raises:
        ConfigError: If a key does not exist, or a value is not valid.
    """
    # With all defaults it would not be valid: some keys exclude each other.
    document = config.model_dump(exclude_unset=True)
    for key, value in settings.items():
        section, _, name = key.partition(".")
        if value == "none" and _may_be_none(config, key):
            value = None
        several = isinstance(configured(config, key), tuple)
        if several and not isinstance(value, list | tuple | str):
            value = [value]
        document[section] = {**document.get(section, {}), name: value}
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise ConfigError(explain(error, Config)) from error


def _may_be_none(config: Config, key: str) -> bool:
    section, _, name = key.partition(".")
    field = type(getattr(config, section)).model_fields.get(name)
    return field is not None and field.default is None


def configured(config: Config, key: str) -> Any:
    """The value of a key in a configuration; None if there is no such key."""
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name, None)


def check_space(config: Config, space: SearchSpace, place: str) -> None:
    """Checks that the configuration accepts each choice and both ends of each range.

    Args:
        config: The configuration.
        space: The search space.
        place: The key of the search space, for errors.

    Raises:
        ConfigError: If a key does not exist, or a value is not valid.
    """
    for key, each in space.items():
        values = each.values if isinstance(each, Choices) else (each.low, each.high)
        for value in values:
            try:
                with_settings(config, {key: value})
            except ConfigError as error:
                raise ConfigError(f"`{place}`: {error}") from error


def shown_settings(settings: Settings) -> str:
    """The settings in one line, numbers with three digits.

    Examples:
        >>> shown_settings({"student.dim": 16, "distill.weight": 0.51234})
        'student.dim=16, distill.weight=0.512'
    """
    return ", ".join(f"{key}={setting_text(value)}" for key, value in settings.items())


def write_config(config: Config, path: Path, comment: str) -> None:
    """Writes a configuration as a TOML file, with the keys that are set.

    With a budget, the section `sweep` has this configuration's student only.

    Args:
        config: The configuration.
        path: The file.
        comment: A paragraph at its top.
    """
    document = config.model_dump(mode="json", exclude_unset=True)
    for section in ("sweep", "tune"):
        document.pop(section, None)
    if config.export.budget is not None:
        # Otherwise `run` would compare other students and could export one of them.
        own: dict[str, Any] = {"export": {"storage": [config.export.storage]}}
        if config.student.factory is None:
            own["student"] = {"dim": [config.student.dim]}
        document["sweep"] = {"vary": own}
    head = textwrap.fill(comment, initial_indent="# ", subsequent_indent="# ", width=88)
    text = f"{head}\n\n{as_toml(document)}\n"
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_result(
    files: Mapping[str, Path], page: str, document: Mapping[str, Any]
) -> None:
    """Writes the page and the JSON document of a search or a sweep.

    Args:
        files: The files "page" and "document".
        page: The page.
        document: The document.
    """
    text = json.dumps(document, indent=1, ensure_ascii=False)
    for name, content in (("page", page), ("document", text)):
        with atomic_write(files[name]) as temporary:
            temporary.write_text(content, encoding="utf-8")
