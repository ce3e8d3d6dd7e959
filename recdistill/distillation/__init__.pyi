from .distiller import Distiller
from .ensemble_scores import ensemble_scores
from .score_doctor import Examination, examine
from .score_transforms import TRANSFORMS, effective_candidates, transformed
from .temperatures import LearnedTemperature

__all__ = [
    "TRANSFORMS",
    "Distiller",
    "Examination",
    "LearnedTemperature",
    "effective_candidates",
    "ensemble_scores",
    "examine",
    "transformed",
]
