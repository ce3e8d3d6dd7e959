"""alignment: FitNets hints and CRD by hand, projections and temperatures."""

from math import e, log

import numpy as np
import pytest

from recdistill import losses
from recdistill.losses import ContrastiveAlignment, HintMSE


def test_hint_mse_by_hand():
    teacher, mask = np.eye(2, dtype="float32")[None], np.ones((1, 2), bool)
    assert float(losses.hint_mse(teacher, 0 * teacher, mask)[0]) == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("temperature", "want"), [(1.0, log((e + 1) / e)), (0.5, log(1 + e**-2))]
)
def test_contrastive_alignment_by_hand(temperature, want):
    rows, mask = np.eye(2, dtype="float32")[None], np.ones((1, 2), bool)
    got = losses.contrastive_alignment(rows, rows, mask, temperature=temperature)
    assert float(got[0]) == pytest.approx(want, rel=1e-5)


def test_contrastive_alignment_ignores_lengths(rows):
    teacher, student, mask, weight = rows
    long = student * np.arange(1, 6, dtype="float32")[:, None]
    np.testing.assert_allclose(
        losses.contrastive_alignment(teacher, long, mask, weight),
        losses.contrastive_alignment(*rows),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("cls", [HintMSE, ContrastiveAlignment])
def test_different_widths_raise_an_error_that_suggests_a_projection(cls):
    with pytest.raises(ValueError, match=r"projection=True.* 2 for the student and 3"):
        cls()(np.ones((4, 3), "float32"), np.ones((4, 2), "float32"))


def test_an_invalid_temperature_raises_an_error():
    with pytest.raises(ValueError, match="temperature=-1"):
        ContrastiveAlignment(temperature=-1.0)
    assert ContrastiveAlignment(temperature=0.3).get_config()["temperature"] == 0.3
