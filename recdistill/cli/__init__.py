"""The command line: one file for each command, and `common.py` for what they share."""
