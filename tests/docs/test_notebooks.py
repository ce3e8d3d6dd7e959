"""Documentation: the notebooks run from the first cell to the last.

Each is executed in a kernel of its own. The outputs that are stored for readers come
from such a run.
"""

import asyncio
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PRESENT = [pytest.param(path, id=path.stem) for path in NOTEBOOKS]


def code_cells(path):
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def test_there_are_two_notebooks():
    assert [path.stem for path in NOTEBOOKS] == [
        "from_tfrs_to_serving",
        "what_the_report_shows",
    ]


@pytest.mark.parametrize("path", PRESENT)
def test_the_stored_outputs_come_from_one_run_without_paths_of_a_machine(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    cells = code_cells(path)
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1))
    text = path.read_text(encoding="utf-8")
    assert "/root/" not in text and "/tmp/" not in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*TCP without encryption:RuntimeWarning")
@pytest.mark.parametrize("path", PRESENT)
def test_a_notebook_runs(path, tmp_path):
    pytest.importorskip("tf_keras")
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources=resources
    )
    # `execute` would leave its event loop open.
    asyncio.run(client.async_execute())
    shown = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum(bool(cell.outputs) for cell in shown) > len(shown) / 2
