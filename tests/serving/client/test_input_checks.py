"""input_checks: the first problem of a request, in a sentence."""

import numpy as np
import pytest

from recdistill.serving.client.input_checks import shape_problem, value_problem

SHAPES = {
    "age": (None,),
    "taste": (None, 2),
    "past": (None, None),
    "past_length": (None,),
    "k": (None,),
    "exclude_ids": (None, None),
    "any": None,
}


def inputs(**changes):
    plain = {
        "age": np.float32([1, 2]),
        "taste": np.zeros((2, 2), "float32"),
        "past": np.array([["a", "b"], ["c", ""]], object),
        "past_length": np.int32([2, 1]),
        "k": np.int32([1, 5]),
        "exclude_ids": np.array([[""], ["a"]], object),
        "any": np.zeros((2, 1, 3)),
    }
    return {**plain, **changes}


def test_a_good_request_has_no_problem():
    assert shape_problem(SHAPES, inputs()) is None
    assert value_problem(SHAPES, inputs()) is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"age": np.float32([[1.0]])},
            "`age` must have the shape (n). Received: [1, 1]",
        ),
        ({"past": np.array([[["a"]]])}, "`past` must have the shape (n, n). Received"),
        ({"taste": np.zeros((2, 3))}, "`taste` must have the shape (n, 2). Received"),
        ({"any": np.float32(3)}, "`any` must have an axis for the rows. Received"),
        ({"age": np.zeros(0)}, "`age` must have at least one row: a server that"),
        ({"past": np.zeros((2, 0), object)}, "`past` must have at least one entry in"),
        ({"k": np.int32([1])}, "`k` must have as many rows as the other inputs, 2. "),
    ],
)
def test_a_wrong_shape_is_named(changes, problem):
    assert shape_problem(SHAPES, inputs(**changes)).startswith(problem)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"k": np.int32([3, 0])}, "`k` must be at least 1. Received: 0 in row 1"),
        (
            {"past_length": np.int32([-1, 0])},
            "`past_length` must be from 0 to 2, the width of `past`. "
            "Received: -1 in row 0",
        ),
        (
            {"past_length": np.int32([0, 3])},
            "`past_length` must be from 0 to 2, the width of `past`. "
            "Received: 3 in row 1",
        ),
    ],
)
def test_a_wrong_value_is_named(changes, problem):
    assert value_problem(SHAPES, inputs(**changes)) == problem


def test_inputs_of_other_models_may_have_any_values():
    shapes = {"k": (None,), "walk_length": (None,)}
    values = {"k": np.int32([0]), "walk_length": np.float32([-3])}
    assert value_problem(shapes, values) is None
