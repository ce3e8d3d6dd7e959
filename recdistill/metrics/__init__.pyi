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
