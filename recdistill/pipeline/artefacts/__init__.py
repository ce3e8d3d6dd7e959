"""Artefacts: the folders that steps write, their workspace, and copies in storage."""
