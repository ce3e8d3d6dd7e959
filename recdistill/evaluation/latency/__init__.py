"""Latency and cost of a model: percentiles, floating-point operations, energy."""
