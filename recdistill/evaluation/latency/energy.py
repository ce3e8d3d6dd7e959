"""Energy that the processor has used, where the machine counts it.

Linux shows the counters of Intel and AMD processors (RAPL) as files. Virtual machines
rarely have them, and often only root may read them.
"""

from __future__ import annotations

from pathlib import Path

ZONES = Path("/sys/class/powercap")
"""Where Linux lists the zones that are counted; `intel-rapl:0` is a whole processor."""


def energy_joules() -> float | None:
    """Joules on the counters of all processors; only differences mean anything.

    A counter starts again at 0 now and then (about once an hour under load).

    Returns:
        None where there is no counter, or it may not be read.
    """
    try:
        counters = [int(path.read_text()) for path in _counters()]
    except (OSError, ValueError):
        return None
    return sum(counters) / 1e6 if counters else None


def why_no_energy() -> str | None:
    """Why there is no figure, in words; None where there is one."""
    if energy_joules() is not None:
        return None
    if not _counters():
        return f"this machine has no energy counter ({ZONES}/*-rapl:*/energy_uj)"
    return f"the energy counters ({ZONES}/*-rapl:*/energy_uj) may not be read"


def _counters() -> list[Path]:
    """One for each processor; parts of it have a second colon in their name."""
    found = ZONES.glob("*-rapl:*/energy_uj")
    return [path for path in found if path.parent.name.count(":") == 1]
