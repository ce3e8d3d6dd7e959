"""Load test of a served model: latency at a given rate, or the highest rate in budget."""
