"""Warm start: new values get the row of unknown values, all other weights stay."""

from pathlib import Path

import keras
import numpy as np
import pytest

from recdistill.errors import ConfigError
from recdistill.pipeline.warm_start import EarlierRun, start_from


def student(rows, width=2, extra=False):
    model = keras.Sequential(
        [
            keras.layers.Embedding(rows, width, name="items"),
            keras.layers.Dense(1, name="dense"),
            *([keras.layers.Dense(1, name="extra")] if extra else []),
        ],
        name="student",
    )
    model.build((None, 1))
    return model


def test_rows_of_new_values_start_as_the_row_of_unknown_values():
    earlier, today = student(3), student(5)
    earlier.layers[0].set_weights([np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]])])
    assert start_from(today, earlier, "runs/monday") == {"new_rows": 2}
    table = [[0, 0], [1, 2], [3, 4], [1, 2], [1, 2]]
    np.testing.assert_array_equal(today.layers[0].get_weights()[0], table)
    for new, old in zip(
        today.layers[1].weights, earlier.layers[1].weights, strict=True
    ):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize(
    ("earlier", "part"),
    [
        (student(3, extra=True), "'extra/"),
        (student(3, width=4), "shape"),
        (student(7), "shape"),
    ],
)
def test_a_student_with_other_features_or_widths_is_refused(earlier, part):
    with pytest.raises(ConfigError, match=r"warm_start`.*runs/monday") as error:
        start_from(student(5), earlier, "runs/monday")
    assert part in str(error.value)


def test_a_folder_without_a_finished_student_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="finished step `distill`"):
        EarlierRun.open(tmp_path, tmp_path / "own")
    with pytest.raises(ConfigError, match="another run"):
        EarlierRun.open(tmp_path, Path(tmp_path))
