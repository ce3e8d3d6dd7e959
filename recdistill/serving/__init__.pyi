from .client.client import AsyncClient, Client
from .client.histogram import LatencyHistogram
from .client.recommendations import Embeddings, Ranking, Recommendation, Results
from .client.retries import RetryPolicy
from .client.serving_errors import (
    DeadlineError,
    InvalidRequestError,
    NotFoundError,
    QueryError,
    ServingError,
    UnavailableError,
)
from .deploy.models_config import Models, read_models

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
    "Results",
    "RetryPolicy",
    "ServingError",
    "UnavailableError",
    "read_models",
]
