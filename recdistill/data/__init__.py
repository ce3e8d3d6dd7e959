"""Readers for interaction data: who chose what, and when.

Each reader returns a `Dataset`: two small tables (items and queries) and a stream of
interactions that is never held in memory as a whole.
"""

from recdistill.data.dataset import Columns, Dataset
from recdistill.data.downloads import SOURCES, fetch
from recdistill.data.listwise_tables import read_listwise, read_scores
from recdistill.data.movielens import read_movielens
from recdistill.data.recbole import read_recbole
from recdistill.data.synthetic import synthetic
from recdistill.data.tables import read_tables
from recdistill.errors import DataError, FetchError

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
