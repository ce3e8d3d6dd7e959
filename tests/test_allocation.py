"""Freed memory is kept by the process, so that arrays do not cause page faults."""

import platform
import subprocess
import sys

import pytest

from recdistill.allocation import keep_freed_memory

FAULTS = """
import resource, sys
import numpy as np
from recdistill.allocation import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory({})
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(2**24)
before = faults()
for _ in range(10):
    np.ones(2**24)
print(faults() - before)
"""


def faults(how):
    command = [sys.executable, "-c", FAULTS, how]
    environment = {"PATH": "", "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the setting is one of glibc"
)
def test_arrays_in_turn_use_the_same_pages():
    # Ten arrays of 128 MiB, which have 32,768 pages of 4 KiB each.
    assert faults("keep") < 1_000
    assert faults("default") > 1_000


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_an_environment_that_sets_up_the_allocator_is_respected(name):
    assert not keep_freed_memory({name: "1"})


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory({})
