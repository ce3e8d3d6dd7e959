from .publishing import Export
from .reindexing import reindex
from .student_export import export_student

__all__ = ["Export", "export_student", "reindex"]
