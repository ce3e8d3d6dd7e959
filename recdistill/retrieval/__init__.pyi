from .catalogue import Catalogue
from .exact import ExactIndex, Index
from .indexing import BuiltIndex, IndexSettings, build_index
from .ivf import IVFIndex

__all__ = [
    "BuiltIndex",
    "Catalogue",
    "ExactIndex",
    "IVFIndex",
    "Index",
    "IndexSettings",
    "build_index",
]
