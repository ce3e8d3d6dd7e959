"""Memory allocation of a process that trains or scores."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
from collections.abc import Mapping

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
"""Parameters of `mallopt` (malloc.h of glibc)."""

_KEPT = 2**31 - 1
"""Bytes of free memory at the end of the heap from which it is returned."""

_GROWTH = 2**26
"""Bytes by which the heap grows at least."""

_LARGE = 2**23
"""Bytes from which `return_large_arrays` returns an array."""

MANY_ITEMS = 2**15
"""Above this number of items large arrays are returned: with 200,000 items training of
the baseline needed 6.2 GiB when they were kept, and 2.9 GiB when they were not."""

_MAPPINGS = 65_536
"""Default of `M_MMAP_MAX`."""

_keeps = False
"""Whether `keep_freed_memory` has made its setting in this process."""


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Lets the process keep freed memory for its next arrays.

    By default the GNU C library maps each array of more than 32 MiB anew and unmaps it
    when it is freed, so that the kernel has to clear all of its pages in each training
    step. With this setting the largest memory of the process can be a little higher,
    and freed memory stays with the process until `return_freed_memory`.

    Nothing changes with another C library, or if the environment sets up the allocator
    (`MALLOC_…`, `GLIBC_TUNABLES`, `LD_PRELOAD`).

    Args:
        environment: The environment variables.

    Returns:
        Whether the setting was made.
    """
    global _keeps
    given = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    if platform.libc_ver()[0] != "glibc" or any(
        k.startswith(given) for k in environment
    ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _KEPT, _TOP_PAD: _GROWTH}
    _keeps = all([mallopt(name, value) == 1 for name, value in settings.items()])
    return _keeps


def return_large_arrays(items: int) -> None:
    """Makes the process return each array of more than 8 MiB as soon as it is freed.

    This is for large catalogues, for which the kept memory filled gigabytes. It has no
    effect for other catalogues, or if `keep_freed_memory` has not made its setting.

    Args:
        items: Number of items of the catalogue.
    """
    if _keeps and items > MANY_ITEMS:
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM_THRESHOLD, _GROWTH)
        mallopt(_MMAP_THRESHOLD, _LARGE)
        mallopt(_MMAP_MAX, _MAPPINGS)


def return_freed_memory() -> None:
    """Returns freed memory to the operating system, if the C library supports it."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
