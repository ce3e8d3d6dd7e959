"""Files of external models: existence, size, content hash; import of functions."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from recdistill.atomic import refuse_pipes
from recdistill.errors import TeacherError


def existing(path: Path, kind: str) -> Path:
    """Returns the path if it exists.

    Raises:
        TeacherError: If it does not exist.
    """
    if not path.exists():
        raise TeacherError(
            f"`teacher.path` must be a {kind}. Received: {path}, which does not exist"
        )
    return path


def size_of(path: Path) -> int:
    """Size in bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in _files(path))


def digest(path: Path) -> str:
    """SHA-256 (hex) of a file, or of the names and contents of a folder's files.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "model.txt").write_text("tree")
        >>> digest(folder / "model.txt")[:8], digest(folder)[:8]
        ('dc9c5edb', '6ec8708f')
    """
    total = hashlib.sha256()
    for file in _files(path):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        if file == path:
            return content
        name = file.relative_to(path).as_posix()
        total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()


def _files(path: Path) -> list[Path]:
    refuse_pipes(path)
    if path.is_file():
        return [path]
    files, visited = [], set()
    for folder, inside, names in os.walk(path, followlinks=True):
        place = os.path.realpath(folder)
        if place in visited:  # A link to a folder above it.
            inside.clear()
            continue
        visited.add(place)
        files += [Path(folder, name) for name in names]
    return sorted(file for file in files if file.is_file())


def source_digest(name: str) -> str | None:
    """SHA-256 (hex) of the file that defines a function.

    Args:
        name: Import path, "package.module:function", or a module.

    Returns:
        None if the module cannot be found or has no file.
    """
    module = name.partition(":")[0]
    with _current_folder():
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            return None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    return digest(Path(spec.origin))


def imported_module(name: str) -> ModuleType:
    """Imports a module.

    The current folder is added to the module search path.

    Raises:
        TeacherError: If the module cannot be imported.
    """
    with _current_folder():
        try:
            return importlib.import_module(name)
        except (Exception, SystemExit) as error:
            raise TeacherError(
                f"The module `{name}` must be importable from the current folder. "
                f"Received: {type(error).__name__}: {error}"
            ) from error


def imported(name: str) -> Any:
    """Imports a function by its path, "package.module:function".

    The current folder is added to the module search path.

    Raises:
        TeacherError: If the module cannot be imported or does not have the function.
    """
    module, _, attribute = name.partition(":")
    function = getattr(imported_module(module), attribute, None)
    if not callable(function):
        raise TeacherError(
            f"`{name}` must be a function in its module. Received: {function!r}"
        )
    return function


@contextlib.contextmanager
def _current_folder() -> Iterator[None]:
    """Adds the current folder to the module search path, as `python -m` does."""
    before, here = list(sys.path), str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before
