from .publishing import Export, ExportSettings
from .reindexing import reindex
from .student_export import export_student
from .tower_export import EmbeddedItems, EncodedItems, TowerSource, export_towers

__all__ = [
    "EmbeddedItems",
    "EncodedItems",
    "Export",
    "ExportSettings",
    "TowerSource",
    "export_student",
    "export_towers",
    "reindex",
]
