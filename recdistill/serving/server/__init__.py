"""A server of SavedModels with TensorFlow Serving's protocol, in plain Python.

It is for development and small installations: every client of TensorFlow Serving works
with it unchanged, and mistakes fail in it as they fail there. It loads a SavedModel as
the C++ server does, and neither Keras nor the rest of this library has a part in it.

What it answers: gRPC `Predict`, `GetModelMetadata`, `GetModelStatus` and
`HandleReloadConfigRequest`; REST `:predict` in rows and columns, `/metadata`, the
status, and metrics for Prometheus. `Classify`, `Regress` and `MultiInference` it does
not.

It differs from the model server in these points, all on the safe side. With batching,
a request without rows is refused at once, where the model server lets it wait for the
next one. A configuration that comes as a request may only name folders beside those
that the server was started with. It listens on the loopback address, and a request has
a largest size. A model without any version fails at the start instead of waiting for
one.

| file | what it is about |
|---|---|
| `models.py` | one SavedModel in a session, its signatures and warm-up requests |
| `versions.py` | the folder of a model: load before unload, retries, policy |
| `catalogue.py` | models by name, version and label; reconfiguration |
| `batching.py` | requests put together |
| `requests.py` | what requests of both protocols have in common |
| `grpc_services.py`; `rest.py`, `json_tensors.py` | the two protocols |
| `metrics.py` | counters and histograms |
| `local_server.py` | all of it, started, run and drained |
"""
