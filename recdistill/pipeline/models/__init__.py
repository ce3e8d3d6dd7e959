"""The models of a run: built, opened, loaded, and as scorers."""
