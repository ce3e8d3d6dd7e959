"""The engine that does the work of steps on a Ray cluster."""
