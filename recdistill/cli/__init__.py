"""The command line: one file for each command, and `common.py` for the shared parts."""
