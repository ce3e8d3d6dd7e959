"""Around TensorFlow Serving: client, local server, configuration, load test.

Nothing here imports the training side. The public names load on first use, so that a
service that only wants the client waits for nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recdistill.serving.client import AsyncClient, Client
    from recdistill.serving.config import Models, read_models
    from recdistill.serving.errors import (
        DeadlineError,
        InvalidRequestError,
        NotFoundError,
        QueryError,
        ServingError,
        UnavailableError,
    )
    from recdistill.serving.histogram import LatencyHistogram
    from recdistill.serving.recommendations import Embeddings, Ranking, Recommendation

__all__ = [
    "AsyncClient",
    "Client",
    "DeadlineError",
    "Embeddings",
    "InvalidRequestError",
    "LatencyHistogram",
    "Models",
    "NotFoundError",
    "QueryError",
    "Ranking",
    "Recommendation",
    "ServingError",
    "UnavailableError",
    "read_models",
]

_HOME = {
    "AsyncClient": "client",
    "Client": "client",
    "DeadlineError": "errors",
    "Embeddings": "recommendations",
    "InvalidRequestError": "errors",
    "LatencyHistogram": "histogram",
    "Models": "config",
    "NotFoundError": "errors",
    "QueryError": "errors",
    "Ranking": "recommendations",
    "Recommendation": "recommendations",
    "ServingError": "errors",
    "UnavailableError": "errors",
    "read_models": "config",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'recdistill.serving' has no attribute {name!r}")
    return getattr(import_module(f"recdistill.serving.{_HOME[name]}"), name)
