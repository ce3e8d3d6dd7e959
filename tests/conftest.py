"""Fixtures that several folders of tests share."""

import gc
from dataclasses import dataclass
from pathlib import Path

import pytest

from recdistill.evaluation.report.run_report import Report
from recdistill.pipeline.artefacts.artefact import Artefact
from tests import small_pipelines


def pytest_collection_modifyitems(items):
    """Puts modules with slow tests first, so that workers end at a similar time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_visit():
    """Keeps garbage collection fast: it does not visit what outlives a module."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Folder of a small exported model with version 1; tests must not change it."""
    from tests.small_models import export_films, films_schema, films_student

    folder = tmp_path_factory.mktemp("exported") / "export"
    done = export_films(folder, films_student(films_schema()))
    return done.path.parent


@dataclass(frozen=True)
class TinyRun:
    """An undisturbed run; tests must not change its folder."""

    folder: Path
    artefacts: dict[str, Artefact]
    progress: list[tuple[object, ...]]

    @property
    def root(self) -> Path:
        return self.folder / "runs" / "tiny"

    @property
    def report(self) -> Report:
        return Report.load(self.root / "report.json")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    from recdistill.pipeline.runner import Pipeline
    from recdistill.pipeline.scores import score_parts

    folder = tmp_path_factory.mktemp("tiny")
    artefacts, calls = {}, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_parts, "FILE_LISTS", small_pipelines.FILE_LISTS)
        pipeline = Pipeline(
            small_pipelines.load(folder),
            progress=lambda *call: calls.append(call),
            announce=artefacts.__setitem__,
        )
        assert pipeline.run() == artefacts["export"]
    return TinyRun(folder, artefacts, calls)
