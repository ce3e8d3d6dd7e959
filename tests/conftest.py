"""One run of the tiny pipeline, which all tests of its outcome share."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from recdistill.pipeline.artefacts import Artefact
from recdistill.report import Report
from tests import tiny


@dataclass(frozen=True)
class TinyRun:
    """An undisturbed run; nobody changes its folder."""

    folder: Path
    artefacts: dict[str, Artefact]
    progress: list[tuple[str, int, int | None]]

    @property
    def root(self) -> Path:
        return self.folder / "runs" / "tiny"

    @property
    def report(self) -> Report:
        return Report.load(self.root / "report.json")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    from recdistill.pipeline import scoring
    from recdistill.pipeline.steps import Pipeline

    folder = tmp_path_factory.mktemp("tiny")
    artefacts, calls = {}, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "FILE_LISTS", tiny.FILE_LISTS)
        pipeline = Pipeline(
            tiny.load(folder),
            progress=lambda *call: calls.append(call),
            announce=artefacts.__setitem__,
        )
        assert pipeline.run() == artefacts["export"]
    return TinyRun(folder, artefacts, calls)
