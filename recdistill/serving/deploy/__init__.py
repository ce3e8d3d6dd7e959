"""Files, flags, tuning and releases of TensorFlow Serving."""
