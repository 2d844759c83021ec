"""Collapse measures where their values are known."""

import numpy as np
import pytest

from pretrainx.evals import collapse

RNG = np.random.default_rng(0)


def test_constant_rows_have_collapsed():
    z = np.tile(RNG.standard_normal(16), (100, 1))
    assert collapse.rankme(z) == pytest.approx(1, abs=1e-3)
    assert collapse.effective_rank(z) == pytest.approx(1, abs=1e-6)
    assert collapse.embedding_std(z) == pytest.approx(0, abs=1e-6)
    assert collapse.uniformity(z) == pytest.approx(0, abs=1e-9)
    assert collapse.top_variance_share(z) == 1
    assert collapse.rankme(np.zeros((5, 3))) == pytest.approx(1, abs=1e-4)


def test_isotropic_rows_use_every_dimension():
    z = RNG.standard_normal((20_000, 16))
    assert 15.9 < collapse.rankme(z) <= 16.001 and 15.9 < collapse.effective_rank(z) <= 16
    assert collapse.embedding_std(z) == pytest.approx(1, abs=0.01)
    assert collapse.top_variance_share(z) == pytest.approx(1 / 16, rel=0.1)


def test_ranks_of_known_spectra():
    """Two singular values 3 : 1, not centred; RankMe adds 1e-7 to each share."""
    z = np.array([[3.0, 0, 0], [0, 1.0, 0]])
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert collapse.effective_rank(z) == pytest.approx(np.exp(entropy), abs=1e-12)
    p = np.array([0.75, 0.25]) + 1e-7
    assert collapse.rankme(z) == pytest.approx(np.exp(-(p * np.log(p)).sum()), abs=1e-12)
    assert collapse.effective_rank(z + 100) < 1.2  # an offset is a direction of its own


def test_uniformity_of_orthogonal_and_opposite_rows():
    assert collapse.uniformity(7 * np.eye(40)) == pytest.approx(-4, abs=1e-12)  # |x - y|^2 = 2
    assert collapse.uniformity(np.array([[2.0, 0], [-5.0, 0]])) == pytest.approx(-8, abs=1e-12)


def test_uniformity_in_parts(monkeypatch):
    z = RNG.standard_normal((50, 3))
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    pairs = [np.exp(-2 * ((a - b) ** 2).sum()) for i, a in enumerate(unit) for j, b in enumerate(unit) if i != j]
    monkeypatch.setattr(collapse, "_ROWS", 7)
    assert collapse.uniformity(z) == pytest.approx(np.log(np.mean(pairs)), abs=1e-12)


def test_spread_by_hand():
    assert collapse.embedding_std(np.array([[9.0, 0], [0, 1.0]])) == pytest.approx(0.5 * 2**0.5)
    assert collapse.top_variance_share(np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]])) == pytest.approx(0.9)


def test_all_by_name():
    z = RNG.standard_normal((9, 3))
    names = "rankme", "effective_rank", "embedding_std", "uniformity", "top_variance_share"
    assert collapse.measures(z) == {name: getattr(collapse, name)(z) for name in names}
