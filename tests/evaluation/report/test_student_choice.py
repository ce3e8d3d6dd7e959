"""Pareto front and knee, against values worked out by hand."""

import pytest

from recdistill.evaluation.report.student_choice import Cost, knee_place, pareto_places


def test_the_front_leaves_out_students_that_another_one_beats():
    students = [
        Cost(0.10, 1.0, 10),  # the cheapest
        Cost(0.12, 2.0, 20),
        Cost(0.12, 2.0, 21),  # as the one before, but larger
        Cost(0.11, 1.0, 30),  # as fast as the first and better, but larger
        Cost(0.09, 0.5, 40),  # the fastest
        Cost(0.12, 2.0, 20),  # equal to the second: neither beats the other
        Cost(0.05, 9.0, 99),
    ]
    assert pareto_places(students) == [0, 1, 3, 4, 5]
    assert pareto_places([]) == []


@pytest.mark.parametrize(
    ("students", "knee"),
    [
        # Scaled to (0, 0), (1/3, 0.9), (1, 1): 0.57 above the line.
        ([(0.10, 1, 1), (0.19, 2, 2), (0.20, 8, 8)], 1),
        # Scaled to (0, 0), (1/3, 0.1), (1, 1): below the line; the best of the ends.
        ([(0.10, 1, 1), (0.11, 2, 2), (0.20, 8, 8)], 2),
        ([(0.10, 1, 1), (0.20, 8, 8)], 1),
        ([(0.10, 1, 1)], 0),
        # The second one is beaten, however close to the front.
        ([(0.10, 1, 1), (0.099, 2, 2), (0.20, 8, 8)], 2),
        ([(0.0, 1, 1), (0.0, 1, 1)], 0),
    ],
)
def test_the_knee_is_farthest_above_the_line_from_cheapest_to_best(students, knee):
    assert knee_place([Cost(*each) for each in students]) == knee
