"""recdistill: from a heavy ranking model to a light two-tower student.

The public names load on first use, so that `import recdistill` and the command line's
`--help` do not wait for TensorFlow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recdistill.distiller import Distiller
    from recdistill.linear import LinearTeacher
    from recdistill.losses import (
        ContrastiveAlignment,
        HintMSE,
        InBatchSoftmax,
        ListwiseCrossEntropy,
        ListwiseJensenShannon,
        ListwiseKLDivergence,
        ListwiseLambdaNDCG,
        ListwisePlackettLuce,
        ListwiseSoftCrossEntropy,
        ListwiseSoftLambdaNDCG,
        PairwiseMarginMSE,
        PairwiseRankNet,
        PointwiseBinaryCrossEntropy,
        PointwiseMSE,
        RelationalAngle,
        RelationalDistance,
        TopKDualCorrection,
        TopKPositionWeighted,
        TopKRankDistil,
        TopKRelaxedRanking,
    )
    from recdistill.ranker import RankingTeacher
    from recdistill.report import Report
    from recdistill.student import TwoTowerStudent
    from recdistill.teachers import EnsembleTeacher, ExternalTeacher

__version__ = "0.1.0"

__all__ = [
    "ContrastiveAlignment",
    "Distiller",
    "EnsembleTeacher",
    "ExternalTeacher",
    "HintMSE",
    "InBatchSoftmax",
    "LinearTeacher",
    "ListwiseCrossEntropy",
    "ListwiseJensenShannon",
    "ListwiseKLDivergence",
    "ListwiseLambdaNDCG",
    "ListwisePlackettLuce",
    "ListwiseSoftCrossEntropy",
    "ListwiseSoftLambdaNDCG",
    "PairwiseMarginMSE",
    "PairwiseRankNet",
    "PointwiseBinaryCrossEntropy",
    "PointwiseMSE",
    "RankingTeacher",
    "RelationalAngle",
    "RelationalDistance",
    "Report",
    "TopKDualCorrection",
    "TopKPositionWeighted",
    "TopKRankDistil",
    "TopKRelaxedRanking",
    "TwoTowerStudent",
    "__version__",
]

_HOME = {
    "ContrastiveAlignment": "losses",
    "Distiller": "distiller",
    "EnsembleTeacher": "teachers",
    "ExternalTeacher": "teachers",
    "HintMSE": "losses",
    "InBatchSoftmax": "losses",
    "LinearTeacher": "linear",
    "ListwiseCrossEntropy": "losses",
    "ListwiseJensenShannon": "losses",
    "ListwiseKLDivergence": "losses",
    "ListwiseLambdaNDCG": "losses",
    "ListwisePlackettLuce": "losses",
    "ListwiseSoftCrossEntropy": "losses",
    "ListwiseSoftLambdaNDCG": "losses",
    "PairwiseMarginMSE": "losses",
    "PairwiseRankNet": "losses",
    "PointwiseBinaryCrossEntropy": "losses",
    "PointwiseMSE": "losses",
    "RankingTeacher": "ranker",
    "RelationalAngle": "losses",
    "RelationalDistance": "losses",
    "Report": "report",
    "TopKDualCorrection": "losses",
    "TopKPositionWeighted": "losses",
    "TopKRankDistil": "losses",
    "TopKRelaxedRanking": "losses",
    "TwoTowerStudent": "student",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'recdistill' has no attribute {name!r}")
    return getattr(import_module(f"recdistill.{_HOME[name]}"), name)
