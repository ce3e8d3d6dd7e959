"""recdistill: from a heavy ranking model to a light two-tower student.

The public names load on first use, so that `import recdistill` and the command line's
`--help` do not wait for TensorFlow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recdistill.distiller import Distiller
    from recdistill.linear import LinearTeacher
    from recdistill.losses import ListwiseCrossEntropy, ListwiseKLDivergence
    from recdistill.ranker import RankingTeacher
    from recdistill.report import Report
    from recdistill.student import TwoTowerStudent
    from recdistill.teachers import EnsembleTeacher

__version__ = "0.1.0"

__all__ = [
    "Distiller",
    "EnsembleTeacher",
    "LinearTeacher",
    "ListwiseCrossEntropy",
    "ListwiseKLDivergence",
    "RankingTeacher",
    "Report",
    "TwoTowerStudent",
    "__version__",
]

_HOME = {
    "Distiller": "distiller",
    "EnsembleTeacher": "teachers",
    "LinearTeacher": "linear",
    "ListwiseCrossEntropy": "losses",
    "ListwiseKLDivergence": "losses",
    "RankingTeacher": "ranker",
    "Report": "report",
    "TwoTowerStudent": "student",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'recdistill' has no attribute {name!r}")
    return getattr(import_module(f"recdistill.{_HOME[name]}"), name)
