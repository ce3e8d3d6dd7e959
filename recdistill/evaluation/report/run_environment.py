"""Package versions and machine of a run, for the report."""

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from pydantic import JsonValue

_PACKAGES = (
    "recdistill",
    "tensorflow",
    "keras",
    "keras-rs",
    "numpy",
    "pyarrow",
    "pandas",
)


def describe_environment(packages: Iterable[str] = _PACKAGES) -> dict[str, JsonValue]:
    """Package versions and machine that the numbers of a report depend on.

    Args:
        packages: Names of distributions; those that are not installed are left out.

    Returns:
        `python`, `platform`, `cpu`, `cores` (the cores this process may use) and
        `packages`. The names of the host and the user are not included.
    """
    versions: dict[str, JsonValue] = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": _usable_cores(),
        "packages": versions,
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
