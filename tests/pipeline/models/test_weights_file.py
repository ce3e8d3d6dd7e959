"""weights_file: Keras reads what was written, and a full disk is an ordinary error."""

from pathlib import Path

import keras
import numpy as np
import pytest

from recdistill.errors import ArtefactError
from recdistill.pipeline.models.weights_file import (
    WEIGHTS,
    load_weights,
    save_weights,
)


def model(seed=1):
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])


def test_keras_reads_the_weights_and_equal_models_have_equal_files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_weights(model(), tmp_path / name)
    one, two = (tmp_path / name / WEIGHTS for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    again = model(seed=2)
    load_weights(again, one.parent)
    for got, want in zip(again.get_weights(), model().get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("width", [4, 5])
def test_weights_of_another_model_are_an_error_that_names_the_file(tmp_path, width):
    save_weights(model(), tmp_path)
    layers = [keras.layers.Dense(width) for _ in range(6 - width)]
    other = keras.Sequential([keras.Input((3,)), *layers])
    with pytest.raises(ArtefactError, match=r"model\.weights\.h5 do not fit"):
        load_weights(other, tmp_path)


def test_a_full_disk_leaves_no_file(tmp_path, monkeypatch):
    def fail(path, content):
        with path.open("wb") as file:
            file.write(bytes(content)[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left"):
        save_weights(model(), tmp_path)
    assert list(tmp_path.iterdir()) == []
