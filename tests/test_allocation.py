"""Freed memory is kept by the process, so that arrays do not cause page faults."""

import platform
import subprocess
import sys

import pytest

from recdistill.allocation import keep_freed_memory

FAULTS = """
import resource, sys
import numpy as np
from recdistill.allocation import keep_freed_memory, return_large_arrays
how, numbers = sys.argv[1], int(sys.argv[2])
if how != "default":
    assert keep_freed_memory({})
if how != "default":
    return_large_arrays({"keep": 32_768, "large": 32_769}[how])
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(numbers)
before = faults()
for _ in range(10):
    np.ones(numbers)
print(faults() - before)
"""


RETURNED = """
import numpy as np
from recdistill.allocation import keep_freed_memory, return_freed_memory
assert keep_freed_memory({})
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) // 256
arrays = [np.ones(2**20) for _ in range(64)]
full = resident()
del arrays[:-1]
kept = resident()
return_freed_memory()
print(full, kept, resident())
"""

glibc_only = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the setting is one of glibc"
)


def printed(program, *arguments):
    """The numbers that a Python program prints."""
    command = [sys.executable, "-c", program, *arguments]
    environment = {"PATH": "", "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    )
    return [int(number) for number in done.stdout.split()]


@glibc_only
def test_arrays_in_turn_use_the_same_pages():
    # Ten arrays of 128 MiB, which have 32,768 pages of 4 KiB each.
    keep, default = (printed(FAULTS, how, str(2**24)) for how in ("keep", "default"))
    assert keep[0] < 1_000 < default[0]


@glibc_only
def test_only_large_arrays_are_returned_at_once_with_many_items():
    # Ten arrays of 128 MiB, and of 2 MiB.
    large, small = (printed(FAULTS, "large", str(2**size)) for size in (24, 18))
    assert small[0] < 1_000 < large[0]


@glibc_only
def test_freed_memory_is_returned_on_request():
    # 64 arrays of 8 MiB, of which the last one is not freed.
    full, kept, after = printed(RETURNED)
    assert full - kept < 100
    assert full - after > 450


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_an_environment_that_sets_up_the_allocator_is_respected(name):
    assert not keep_freed_memory({name: "1"})


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory({})
