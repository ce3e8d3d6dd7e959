"""Runs with other settings of the student: the search of `tune`, and `sweep`."""
