"""Embedded server: SavedModels behind TensorFlow Serving's protocol, in Python.

The embedded server is for development and small installations. Clients of TensorFlow
Serving work with it unchanged, and an invalid request fails with the same code. It
loads a SavedModel as the C++ server does, without Keras.

It answers gRPC `Predict`, `GetModelMetadata`, `GetModelStatus` and
`HandleReloadConfigRequest`, and REST `:predict` in rows and columns, `/metadata`, the
status and metrics for Prometheus. It does not answer `Classify`, `Regress` and
`MultiInference`.

It differs from TensorFlow Serving in the following points, which make it safer:

* With batching, a request without rows is rejected at once. TensorFlow Serving lets it
  wait for the next request.
* A configuration that is sent as a request may only use folders next to those of the
  initial configuration.
* It listens on the loopback address by default, and limits the size of a request.
* It does not start if a model does not have a version. TensorFlow Serving waits.

| file | content |
|---|---|
| `loaded_model.py` | a SavedModel in a session, its signatures and warm-up requests |
| `versions.py` | versions of a model: load before unload, retries, version policy |
| `served_models.py` | models by name, version and label; reconfiguration |
| `batcher.py` | server-side batching |
| `requests.py` | requests of both protocols |
| `grpc_services.py`; `rest.py`, `json_tensors.py` | the two protocols |
| `wire_tensors.py` | arrays and `TensorProto` |
| `server_metrics.py` | counters and histograms |
| `local_server.py`, `options.py` | start, shutdown and settings of the server |
"""
