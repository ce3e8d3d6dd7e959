"""Models: the two-tower student, rankers, the linear model, ensembles, and
row-sparse optimizers.

Importing this package registers its classes with Keras, so that
`keras.models.load_model` finds them.
"""

import recdistill.lists  # noqa: F401  Checks Keras's backend.
from recdistill.models.composite_optimizer import CompositeOptimizer
from recdistill.models.ensemble import EnsembleTeacher
from recdistill.models.linear import LinearTeacher
from recdistill.models.optimizers import LazyAdam, RowwiseAdagrad
from recdistill.models.ranker import RankingTeacher
from recdistill.models.sequence_ranker import SequenceRanker
from recdistill.models.two_tower import TwoTowers, TwoTowerStudent

__all__ = [
    "CompositeOptimizer",
    "EnsembleTeacher",
    "LazyAdam",
    "LinearTeacher",
    "RankingTeacher",
    "RowwiseAdagrad",
    "SequenceRanker",
    "TwoTowerStudent",
    "TwoTowers",
]
