"""model_process: writing and reading of frames."""

import io
import zipfile

import numpy as np
import pytest

from recdistill.teachers.model_process import read_frame, write_frame

pytestmark = pytest.mark.slow


def test_arrays_of_any_name_are_restored():
    sent = {
        "file": np.array([1.5, 2.0]),
        "allow_pickle": np.array([[1], [2]]),
        "=": np.array([b"caf\xc3\xa9"]),
    }
    stream = io.BytesIO()
    write_frame(stream, sent)
    stream.seek(0)
    got = read_frame(stream)
    assert got.keys() == sent.keys()
    for name, values in sent.items():
        np.testing.assert_array_equal(got[name], values)
    assert read_frame(stream) is None


def test_arrays_that_numpy_adds_are_left_out(monkeypatch):
    def old(file, **arrays):
        """As in NumPy before 2.2, all keywords are arrays."""
        with zipfile.ZipFile(file, "w") as archive:
            for name, value in arrays.items():
                with archive.open(f"{name}.npy", "w") as entry:
                    np.lib.format.write_array(entry, np.asarray(value))

    stream = io.BytesIO()
    monkeypatch.setattr(np, "savez", old)
    write_frame(stream, {"scores": np.arange(3)})
    stream.seek(0)
    assert list(read_frame(stream)) == ["scores"]


def test_a_truncated_frame_is_the_end():
    stream = io.BytesIO()
    write_frame(stream, {"scores": np.arange(3)})
    assert read_frame(io.BytesIO(stream.getvalue()[:-1])) is None
