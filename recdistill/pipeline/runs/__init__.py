"""Runs that are finished: opened, listed, compared, and checked on new data."""
