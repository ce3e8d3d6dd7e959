"""Energy used by the processor, where the machine has an energy counter.

Linux exposes the counters of Intel and AMD processors (RAPL) as files. Virtual machines
rarely have them, and often only root may read them.
"""

from __future__ import annotations

from pathlib import Path

ZONES = Path("/sys/class/powercap")
"""Folder in which Linux lists the RAPL zones; `intel-rapl:0` is a whole processor."""


def energy_joules() -> float | None:
    """Sum of the energy counters of all processors, in joules.

    Only the difference between two readings is meaningful. A counter restarts at 0 from
    time to time (about once an hour under load).

    Returns:
        None if the machine has no counter or it cannot be read.
    """
    try:
        counters = [int(path.read_text()) for path in _counters()]
    except (OSError, ValueError):
        return None
    return sum(counters) / 1e6 if counters else None


def why_no_energy() -> str | None:
    """Reason why energy cannot be measured; None if it can."""
    if energy_joules() is not None:
        return None
    if not _counters():
        return f"this machine has no energy counter ({ZONES}/*-rapl:*/energy_uj)"
    return f"the energy counters ({ZONES}/*-rapl:*/energy_uj) cannot be read"


def _counters() -> list[Path]:
    """Counter file of each processor; parts of one have a second colon in the name."""
    found = ZONES.glob("*-rapl:*/energy_uj")
    return [path for path in found if path.parent.name.count(":") == 1]
