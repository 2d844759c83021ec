"""Shared by evaluations that compute with NumPy."""

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="module")
def one_thread():
    """For NumPy's products: on matrices this small, beside other tests, two threads mostly wait for each other."""
    with threadpool_limits(1):
        yield
