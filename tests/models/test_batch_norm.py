"""Batch normalisation by hand: whose statistics, what is kept of them, groups, devices. Equality with torch: tests/parity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from pretrainx.models.batch_norm import BatchNorm
from pretrainx.models.layers import Precision
from pretrainx.models.siamese import run
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules

WIDE = Precision("float64", "float64")
draw = lambda *shape, seed=0: np.random.default_rng(seed).standard_normal(shape)
PARAMS = {"scale": 1 + 0.2 * draw(5, seed=1), "bias": draw(5, seed=2)}
STATS = {"mean": draw(5, seed=3), "var": 1 + draw(5, seed=4) ** 2}
X = 3 * draw(8, 2, 3, 5, seed=5) + 1


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.partial(jax.jit, static_argnums=(0, 4))
def applied(norm, x, params=PARAMS, valid=None, train=True):
    return run(norm, params, STATS, x, valid, train=train)


def by_hand(rows, every):
    """What `every` becomes by the statistics of `rows`, and these with the unbiased variance."""
    flat = rows.reshape(-1, rows.shape[-1])
    y = (every - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5) * PARAMS["scale"] + PARAMS["bias"]
    return y, {"mean": flat.mean(0), "var": flat.var(0, ddof=1)}


def moved(new, momentum=0.9):
    return {name: momentum * STATS[name] + (1 - momentum) * new[name] for name in STATS}


def same(found, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), found, wanted)


def test_training():
    y, stats = by_hand(X, X)
    same(applied(BatchNorm(precision=WIDE), X), (y, moved(stats)))
    same(applied(BatchNorm(0.99, precision=WIDE), X)[1], moved(stats, 0.99))


def test_inference():
    y, stats = applied(BatchNorm(precision=WIDE), X, train=False)
    wanted = (X - STATS["mean"]) / np.sqrt(STATS["var"] + 1e-5) * PARAMS["scale"] + PARAMS["bias"]
    same((y, stats), (wanted, STATS))


def test_invalid_rows_are_not_in_the_statistics():
    valid = np.arange(8) % 3 != 1
    broken = np.where(valid[:, None, None, None], X, np.nan)
    y, stats = applied(BatchNorm(precision=WIDE), broken, valid=valid)
    wanted, measured = by_hand(X[valid], X[valid])
    same((y[valid], stats), (wanted, moved(measured)))
    same(applied(BatchNorm(precision=WIDE), X, valid=np.zeros(8, bool))[1], STATS)


def test_groups():
    """Neighbours share statistics; what is kept is the mean over groups that have rows."""
    found, stats = applied(BatchNorm(group=4, precision=WIDE), X)
    halves = [by_hand(part, part) for part in (X[:4], X[4:])]
    same(found, np.concatenate([y for y, _ in halves]))
    same(stats, moved({name: (halves[0][1][name] + halves[1][1][name]) / 2 for name in STATS}))
    valid = np.arange(8) < 4
    same(applied(BatchNorm(group=4, precision=WIDE), X, valid=valid)[1], moved(halves[0][1]))
    with pytest.raises(ValueError, match="8 rows are no whole groups of 3"):
        applied(BatchNorm(group=3, precision=WIDE), X)


@pytest.mark.parametrize("scale, bias", [(False, False), (True, False)])
def test_forms(scale, bias):
    norm = BatchNorm(scale=scale, bias=bias, precision=WIDE)
    variables = norm.init(jax.random.key(0), X)
    assert sorted(variables.get("params", {})) == ["scale"] * scale
    assert {leaf.names for leaf in variables["batch_stats"].values()} == {("norm",)}
    same(meta.unbox(variables["batch_stats"]), {"mean": np.zeros(5), "var": np.ones(5)})
    params = {"scale": PARAMS["scale"]} if scale else {}
    flat = X.reshape(-1, 5)
    wanted = (X - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5) * (PARAMS["scale"] if scale else 1)
    same(applied(norm, X, params)[0], wanted)


def test_devices_share_statistics():
    """Rows on eight devices: the statistics, and the gradients through them, of all of them."""
    norm, rules = BatchNorm(precision=WIDE), Rules(make_mesh(MeshConfig(8), jax.devices()[:8]))
    weigh = draw(*X.shape, seed=6)

    @jax.jit
    def gradients(x, params):
        loss = lambda x, params: (run(norm, params, STATS, x, train=True)[0] * weigh).sum()
        return jax.grad(loss, (0, 1))(x, params), applied(norm, x, params)

    spread = jax.device_put(X, rules.rows(X.shape))
    assert len(spread.sharding.device_set) == 8
    same(gradients(spread, PARAMS), gradients(X, PARAMS))


def test_dtypes():
    """Statistics of bfloat16 rows are float32 sums, and stay float32 where parameters are bfloat16."""
    with jax.enable_x64(False):
        norm, x = BatchNorm(precision=Precision("bfloat16", "bfloat16")), jnp.asarray(100 + draw(512, 4), jnp.bfloat16)
        variables = meta.unbox(norm.init(jax.random.key(0), x))
        y, stats = run(norm, variables["params"], variables["batch_stats"], x, train=True)
        assert y.dtype == jnp.bfloat16 and stats["mean"].dtype == stats["var"].dtype == jnp.float32
        np.testing.assert_allclose(stats["mean"], 0.1 * np.asarray(x, np.float64).mean(0), rtol=1e-6)
