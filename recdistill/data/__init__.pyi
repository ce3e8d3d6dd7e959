from .dataset import Columns, Dataset
from .downloads import SOURCES, fetch
from .frames import read_frames
from .listwise_tables import read_listwise, read_scores
from .movielens import read_movielens
from .recbole import read_recbole
from .synthetic_data import EffectStrengths, synthetic
from .tables import read_tables

__all__ = [
    "SOURCES",
    "Columns",
    "Dataset",
    "EffectStrengths",
    "fetch",
    "read_frames",
    "read_listwise",
    "read_movielens",
    "read_recbole",
    "read_scores",
    "read_tables",
    "synthetic",
]
