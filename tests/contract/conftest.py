"""Contract tests run in float64, where an equality to 1e-9 means something; the matrix is printed at the end."""

import jax
import pytest

from pretrainx.objectives import cross_entropy


@pytest.fixture(autouse=True)
def float64(monkeypatch):
    monkeypatch.setattr(cross_entropy, "WORTHWHILE_TOKENS", 1)  # the loss of tiny rows is made in chunks too
    with jax.enable_x64(True):
        yield
