"""Embedded server: SavedModels behind TensorFlow Serving's protocol, in Python.

The embedded server is for development and small installations. Clients of TensorFlow
Serving work with it unchanged, and an invalid request fails with the same code. It
loads a SavedModel as the C++ server does, without Keras.

It answers gRPC `Predict`, `GetModelMetadata`, `GetModelStatus` and
`HandleReloadConfigRequest`, and REST `:predict` in rows and columns, `/metadata`, the
status and metrics for Prometheus. `Classify`, `Regress` and `MultiInference` fail as
they do in TensorFlow Serving for signatures like ours.

It differs from TensorFlow Serving in the following points, which make it safer:

* With batching, a request of a wrong shape, without rows or with an empty list is
  rejected at once, and if a batch fails, its requests run one by one. In TensorFlow
  Serving such a request can fail others or end the server.
* A `k` below 1, or a length that is larger than its list, is an error. An export that
  TensorFlow Serving runs clamps it.
* A configuration that is sent as a request may only use folders next to those of the
  initial configuration.
* It listens on the loopback address by default.
* It limits the size of a request (16 MiB by default) and the memory that requests need
  while they are read and decoded. A tensor has at most eight axes, and at most 1,024
  values or as many as were sent. A request has at most 4,096 rows.
* Requests that it has no capacity for wait in a bounded queue. A request is refused at
  once (RESOURCE_EXHAUSTED, or status 503) if the queue is full or its deadline would
  probably pass.
* It does not start if a model does not have a version. TensorFlow Serving waits.

| file | content |
|---|---|
| `loaded_model.py` | a SavedModel in a session, its signatures and warm-up requests |
| `versions.py` | versions of a model: load before unload, retries, version policy |
| `served_models.py` | models by name, version and label; reconfiguration |
| `batcher.py` | server-side batching |
| `requests.py` | requests of both protocols |
| `admission.py` | concurrency, waiting time and memory of requests |
| `grpc_services.py`, `wire_tensors.py` | gRPC; arrays and `TensorProto` |
| `rest.py`, `json_tensors.py` | paths of the REST API; arrays and JSON |
| `http_connections.py`, `http_bodies.py` | connections and bodies of HTTP requests |
| `server_metrics.py` | counters and histograms |
| `local_server.py`, `options.py` | start, shutdown and settings of the server |
"""
