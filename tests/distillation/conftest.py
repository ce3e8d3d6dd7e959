"""Fixtures of the tests of distillation."""

import keras
import pytest


@pytest.fixture(autouse=True)
def seeded():
    """Seeds everything that Keras draws, for each test alike."""
    keras.utils.set_random_seed(3)
