"""The command line: one file for each command, and `common.py` for the shared parts."""

import os

# The command line has a process of its own, so the user's setting for other programs
# does not matter.
os.environ["KERAS_BACKEND"] = "tensorflow"
