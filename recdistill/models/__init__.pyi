from .ensemble import EnsembleTeacher
from .linear import LinearTeacher
from .ranker import RankingTeacher
from .two_tower import TwoTowerStudent

__all__ = ["EnsembleTeacher", "LinearTeacher", "RankingTeacher", "TwoTowerStudent"]
