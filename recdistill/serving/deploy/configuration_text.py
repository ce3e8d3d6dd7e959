"""Reading of the server's configuration files, which are text."""

from __future__ import annotations

from pathlib import Path

from recdistill.errors import ConfigError


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
