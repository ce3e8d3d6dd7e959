"""Runs a pipeline from Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recdistill.data.dataset import Progress, no_progress
from recdistill.evaluation.report.run_report import Report
from recdistill.pipeline.config import Config, DatasetConfig, parse_config
from recdistill.pipeline.config.config_loading import read_toml
from recdistill.pipeline.config.dataset_section import TABLES
from recdistill.pipeline.runner import Pipeline
from recdistill.pipeline.variants.budgeted_run import run_to_export

if TYPE_CHECKING:
    import pandas as pd


def run(
    config: Config | Mapping[str, Any] | Path | str,
    *,
    tables: Mapping[str, pd.DataFrame] | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Runs all steps of a pipeline and returns its report.

    Steps whose inputs did not change are skipped, as on the command line. With
    `export.budget` the students of the section `sweep` are compared, and the best one
    within the budget is exported; the report is that of this student. The artefacts
    are in `workdir/name` and the SavedModel is in `export.path/name/version`.

    Args:
        config: Path of a TOML file, the same document as nested dicts, or a `Config`.
        tables: DataFrames in place of files, as for `recdistill.data.read_frames`:
            `interactions` and optionally `unlabelled` (see there), `items` and
            `queries`, or `lists` with one row per candidate of a list. The keys of the
            section `dataset` that describe files are not used then, and the section
            can be left out; `columns`, `keep`, `time_format`, `licence` and the types
            of columns apply.
        progress: Callback for progress: the activity, the amount done, the total amount
            (None if unknown), and a note such as the latest validation metric ("" if
            there is none; it is only passed if there is one).

    Returns:
        The report, the same as in `report.json`.

    Raises:
        ConfigError: If the configuration has an unknown key or an invalid value.
        DataError: If the data is invalid.
        TeacherError: If the teacher cannot be used.
        GateError: If the teacher is not good enough to distil.
        ExportError: If the export does not answer as the student does.
        BudgetError: If no student is within `export.budget`.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> size = {"queries": 200, "items": 40, "interactions": 2_000}
        >>> report = run(
        ...     {
        ...         "name": "example",
        ...         "workdir": f"{folder}/runs",
        ...         "dataset": {"reader": "synthetic", "synthetic": size},
        ...         "query": {"history": {"kind": "history", "length": 8}},
        ...         "candidate": {"item_id": {"kind": "id"}},
        ...         "teacher": {"kind": "linear", "l2": 20.0},
        ...         "student": {"dim": 4, "steps": 20, "learning_rates": [0.01]},
        ...         "distill": {"gate": "warn"},
        ...         "evaluate": {"bootstrap": 20, "latency_candidates": [10]},
        ...         "export": {"path": f"{folder}/export", "top_k": 5},
        ...     }
        ... )
        >>> sorted(report.models)
        ['baseline', 'distilled', 'popularity', 'teacher']
        >>> report.dataset.items
        40
    """
    if isinstance(config, str | Path):
        source = str(config)
        document: Mapping[str, Any] = read_toml(Path(config))
    elif isinstance(config, Mapping):
        source, document = "", config
    else:
        if tables is not None:
            given = config.dataset.model_dump(exclude_defaults=True)
            dataset = DatasetConfig.model_validate(_of_frames(given))
            config = config.model_copy(update={"dataset": dataset})
        return _run(config, tables, progress)
    if tables is not None:
        section = document.get("dataset", {})
        if isinstance(section, Mapping):  # Else the configuration is refused below.
            document = {**document, "dataset": _of_frames(section)}
    return _run(parse_config(document, source=source), tables, progress)


_OF_FILES = frozenset({"reader", "path", "fetch", "delimiter", "synthetic"})
_OF_ONE_FILE = frozenset({"file", "columns"})


def _of_frames(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """The section `dataset` for DataFrames: without the keys that describe files."""
    kept = {key: value for key, value in dataset.items() if key not in _OF_FILES}
    for key in kept.keys() & set(TABLES):
        if isinstance(kept[key], Mapping):
            options = kept[key].items()
            kept[key] = {k: v for k, v in options if k not in _OF_ONE_FILE}
    return {**kept, "reader": "frames"}


def _run(
    config: Config, tables: Mapping[str, pd.DataFrame] | None, progress: Progress
) -> Report:
    pipeline = Pipeline(config, progress, tables=tables)
    pipeline, _ = run_to_export(pipeline)
    return Report.load(pipeline.workspace.root / "report.json")
