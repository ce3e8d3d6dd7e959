"""Evaluation of a run: the gate, the comparison of the models, and the report."""
