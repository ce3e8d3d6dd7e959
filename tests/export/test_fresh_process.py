"""fresh_process: the script that answers requests runs without Keras and recdistill."""

import subprocess
import sys

import pytest

from recdistill.export import fresh_process

pytestmark = pytest.mark.slow


def test_the_script_can_import_neither_keras_nor_the_library():
    program = f"""
import importlib, runpy, sys
sys.argv = ["fresh_process.py"]
try:
    runpy.run_path({fresh_process.__file__!r}, run_name="__main__")
except TypeError:
    pass  # It was given no files.
print("tensorflow" in sys.modules)
for name in ("keras", "tf_keras", "recdistill", "recdistill.models.two_tower"):
    try:
        importlib.import_module(name)
    except ImportError:
        print("no", name)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    lines = done.stdout.split("\n")
    assert lines[0] == "True"
    assert lines[1:5] == [
        "no keras",
        "no tf_keras",
        "no recdistill",
        "no recdistill.models.two_tower",
    ]
