"""Preparation: from the tables of a data set to lists, out of core."""
