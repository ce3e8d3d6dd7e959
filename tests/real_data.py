"""The data sets of the shared data folder, for tests with the mark `real_data`."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared" / "data"


def real_data(name: str) -> Path:
    """Folder of a data set; skips the test if the folder does not exist."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist")
    return folder
