"""Contract tests run in float64, where an equality to 1e-9 means something; the matrix is printed at the end."""

import jax
import pytest


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield
