"""Tracking of a run: TensorBoard, a file of events, and MLflow."""
