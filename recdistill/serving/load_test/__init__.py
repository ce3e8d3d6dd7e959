"""Load test of a served model."""
