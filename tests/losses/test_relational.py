"""relational: RKD distances and angles by hand, invariances and shared candidates."""

from math import sqrt

import numpy as np
import pytest

from recdistill import losses
from recdistill.losses import RelationalAngle, RelationalDistance


def test_distances_and_angles_by_hand():
    mask = np.ones((1, 3), bool)
    line = np.array([[[0.0], [1.0], [3.0]]], "float32")
    even = np.array([[[0.0], [10.0], [20.0]]], "float32")
    # Distances over their means: (1/2, 1, 3/2) and (3/4, 3/4, 3/2).
    assert float(losses.relational_distance(line, even, mask)[0]) == pytest.approx(
        2 * (1 / 4) ** 2 / 2 / 3
    )
    corner = np.array([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]], "float32")
    flat = np.array([[[0.0], [1.0], [-1.0]]], "float32")
    # Cosines 0, sqrt(1/2), sqrt(1/2) against -1, 1, 1.
    assert float(losses.relational_angle(corner, flat, mask)[0]) == pytest.approx(
        (1 / 2 + 2 * (1 - sqrt(1 / 2)) ** 2 / 2) / 3
    )
    # Differences above 1 count linearly: cosines 1 and -1.
    turned = np.array([[[0.0], [1.0], [2.0]]], "float32")
    assert float(losses.relational_angle(turned, flat, mask)[0]) == pytest.approx(
        (2 - 1 / 2 + 2 - 1 / 2 + 0) / 3
    )


@pytest.mark.parametrize(
    "function", [losses.relational_distance, losses.relational_angle]
)
def test_relations_are_invariant_to_rotation_scale_origin_and_width(function, rows):
    teacher, student, mask, weight = rows
    want = function(*rows)
    turn, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(6, 4)))
    moved = (5.0 * student @ turn.T + 3.0).astype("float32")
    np.testing.assert_allclose(
        function(teacher, moved, mask, weight), want, rtol=1e-3, atol=1e-5
    )


def test_shared_candidates_are_compared_as_one_list(rows):
    teacher, student, _, _ = rows
    mask = np.array(
        [[True, True, True, False, False], [False, True, True, True, False]]
    )
    got = RelationalDistance()({"labels": teacher[:1], "mask": mask}, student[:1])
    count = np.array([[1 / 3, 2 / 3, 2 / 3, 1 / 3, 0.0]], "float32")
    real = np.array([[True, True, True, True, False]])
    want = losses.relational_distance(teacher[:1], student[:1], real, count)[0]
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("cls", [RelationalDistance, RelationalAngle])
def test_only_the_first_rows_are_compared(cls, rows):
    teacher, student, mask, _ = rows
    got = cls(rows=3)({"labels": teacher, "mask": mask}, student)
    want = cls()({"labels": teacher[:, :3], "mask": mask[:, :3]}, student[:, :3])
    np.testing.assert_allclose(got, want, rtol=1e-6)
    with pytest.raises(
        ValueError, match=r"`rows` must be at least 2\. Received: rows=1"
    ):
        cls(rows=1)


@pytest.mark.parametrize("function", ["relational_angle", "relational_distance"])
@pytest.mark.parametrize("weight", [1e-13, 1e13, 1e20])
def test_only_ratios_of_the_weights_matter(function, weight):
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=(2, 1, 4, 3)).astype("float32")
    mask = np.ones((1, 4), bool)
    loss = getattr(losses, function)
    got = loss(teacher, student, mask, np.full((1, 4), weight, "float32"))
    np.testing.assert_allclose(got, loss(teacher, student, mask), rtol=1e-5)
