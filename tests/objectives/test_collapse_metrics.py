"""The monitors of collapse on embeddings whose figures are known, and beside float64 formulas of their own."""

import jax
import numpy as np
import pytest

from pretrainx.objectives.collapse import RANK_ALARM, STD_ALARM, embedding_metrics

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


def figures(z1, z2=None, valid=None):
    valid = np.ones(len(z1), bool) if valid is None else valid
    found = jax.jit(embedding_metrics)(z1, z1 if z2 is None else z2, valid)
    assert all(float(mean.weight) == valid.sum() for mean in found.values())
    return {name: float(mean.total / mean.weight) for name, mean in found.items()}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_constant_is_a_collapse(dtype):
    found = figures(np.tile(RNG.standard_normal(16), (32, 1)).astype(dtype))
    np.testing.assert_allclose([found[name] for name in sorted(found)], [0, 0, 0, 0], atol=1e-5)
    assert found["embedding_std"] < STD_ALARM and found["embedding_rank"] < RANK_ALARM


def test_all_directions():
    """Normal vectors: spread 1, all directions used, uniformity of a sphere."""
    found = figures(RNG.standard_normal((4096, 16)), RNG.standard_normal((4096, 16)))
    np.testing.assert_allclose(found["embedding_std"], 1, atol=0.01)
    np.testing.assert_allclose(found["embedding_rank"], 1, atol=0.02)
    np.testing.assert_allclose(found["alignment"], 2, atol=0.05)
    assert -4 < found["uniformity"] < -3.3
    few = figures(RNG.standard_normal((16, 512)))  # as many directions as 16 rows can have, not 15 of 512
    assert few["embedding_rank"] > 0.9


def test_one_line():
    """Two opposite points: full spread in one direction of eight, which the rank tells."""
    sign = np.where(np.arange(64) % 2, 1.0, -1.0)
    found = figures(sign[:, None] * np.eye(8)[0])
    np.testing.assert_allclose(found["embedding_std"], 1 / 8**0.5)
    np.testing.assert_allclose(found["embedding_rank"], 1 / 8)


def test_formulas():
    """Each figure from its definition, with rows that do not count."""
    z1, z2 = RNG.standard_normal((2, 20, 6)) * [5, 3, 1, 1, 0.1, 0]
    valid = np.arange(20) % 3 > 0
    found = figures(np.where(valid[:, None], z1, 1e6), z2, valid)
    x, y = (z[valid] / np.linalg.norm(z[valid], axis=1, keepdims=True) for z in (z1, z2))
    covariance = np.cov(x, rowvar=False)
    pairs = [np.exp(-2 * ((a - b) ** 2).sum()) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    wanted = {
        "embedding_std": x.std(0).mean() * 6**0.5,
        "embedding_rank": np.trace(covariance) ** 2 / (covariance**2).sum() / 6,
        "alignment": ((x - y) ** 2).sum(1).mean(),
        "uniformity": np.log(np.mean(pairs)),
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("count", [0, 1])
def test_no_pairs(count):
    found = jax.jit(embedding_metrics)(*np.ones((2, 4, 3)), np.arange(4) < count)
    assert all(np.isfinite(mean.total) for mean in found.values())


@pytest.mark.parametrize("rows", [3, 9])
def test_products_are_not_rounded_on_accelerators(rows):
    """Their default would take bfloat16 or TF32 factors."""
    z = np.ones((rows, 5), np.float32)
    products = [
        line
        for line in jax.jit(embedding_metrics).lower(z, z, np.ones(rows, bool)).as_text().splitlines()
        if "dot_general" in line
    ]
    assert len(products) == 2 and all("HIGHEST, HIGHEST" in line for line in products)
