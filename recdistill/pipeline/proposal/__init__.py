"""Proposal of a configuration from a folder of data, for `recdistill init`."""
