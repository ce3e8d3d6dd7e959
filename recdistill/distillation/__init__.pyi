from .distiller import Distiller
from .score_doctor import Examination, examine
from .score_transforms import TRANSFORMS, effective_candidates, transformed
from .temperatures import (
    ConstantSchedule,
    CosineSchedule,
    LearnedTemperature,
    LinearSchedule,
    StepSchedule,
)

__all__ = [
    "TRANSFORMS",
    "ConstantSchedule",
    "CosineSchedule",
    "Distiller",
    "Examination",
    "LearnedTemperature",
    "LinearSchedule",
    "StepSchedule",
    "effective_candidates",
    "examine",
    "transformed",
]
