"""Client, embedded server, deployment and load test for TensorFlow Serving.

| folder | content |
|---|---|
| `client/` | typed clients for gRPC and REST, synchronous and asynchronous |
| `server/` | the embedded server, which speaks TensorFlow Serving's protocol |
| `deploy/` | the real server's files, flags, batching parameters and releases |
| `load_test/` | the load test |

The public names load on first use, so a service that needs only the client does not
wait for TensorFlow.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
