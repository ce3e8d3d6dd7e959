"""Readers for interaction data: who chose what, and when.

Each reader returns a `Dataset`: two small tables (items and queries) and a stream of
interactions that is never held in memory as a whole.
"""

from recdistill.datasets.archives import FetchError
from recdistill.datasets.base import Columns, DataError, Dataset
from recdistill.datasets.fetch import SOURCES, fetch
from recdistill.datasets.listwise import read_listwise, read_scores
from recdistill.datasets.movielens import read_movielens
from recdistill.datasets.recbole import read_recbole
from recdistill.datasets.synthetic import synthetic
from recdistill.datasets.tables import read_tables

__all__ = [
    "SOURCES",
    "Columns",
    "DataError",
    "Dataset",
    "FetchError",
    "fetch",
    "read_listwise",
    "read_movielens",
    "read_recbole",
    "read_scores",
    "read_tables",
    "synthetic",
]
