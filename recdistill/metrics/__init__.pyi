from .keras_metrics import (
    NDCG,
    AveragePrecision,
    HitRate,
    RankingMetric,
    Recall,
    ReciprocalRank,
)
from .ranking import (
    average_precision,
    hit_rate,
    kendall_tau,
    ndcg,
    overlap,
    rank_biased_overlap,
    recall,
    reciprocal_rank,
    survival,
)

__all__ = [
    "NDCG",
    "AveragePrecision",
    "HitRate",
    "RankingMetric",
    "Recall",
    "ReciprocalRank",
    "average_precision",
    "hit_rate",
    "kendall_tau",
    "ndcg",
    "overlap",
    "rank_biased_overlap",
    "recall",
    "reciprocal_rank",
    "survival",
]
