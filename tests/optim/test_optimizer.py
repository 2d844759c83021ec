"""What each leaf of the decoder is, what decays, what a group changes, and the numbers of clipping and schedules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import axes, paths
from pretrainx.core.errors import ConfigError
from pretrainx.core.schedule import Cosine, Ramp, WarmupCosine
from pretrainx.models.decoder import Decoder, DecoderConfig
from pretrainx.optim.optimizer import AdamWConfig, Group, MuonConfig, Optimizer, SGDConfig
from pretrainx.optim.schedules import ConstantConfig, CosineConfig

# Three layers, width 8 in 2 heads of 4, hidden 32, 6 positions, 10 ids stored as 16 rows.
MODEL = Decoder(DecoderConfig(width=8, depth=3, heads=2, vocab_multiple=16), 10, 6)
ROLES = {
    "final_norm/bias": ("norm", (8,), 0.0),
    "final_norm/scale": ("norm", (8,), 0.0),
    "layers/attention/key/bias": ("bias", (8,), 0.0),
    "layers/attention/key/kernel": ("kernel", (8, 8), 0.1),
    "layers/attention/out/bias": ("bias", (8,), 0.0),
    "layers/attention/out/kernel": ("kernel", (8, 8), 0.1),
    "layers/attention/query/bias": ("bias", (8,), 0.0),
    "layers/attention/query/kernel": ("kernel", (8, 8), 0.1),
    "layers/attention/value/bias": ("bias", (8,), 0.0),
    "layers/attention/value/kernel": ("kernel", (8, 8), 0.1),
    "layers/attention_norm/bias": ("norm", (8,), 0.0),
    "layers/attention_norm/scale": ("norm", (8,), 0.0),
    "layers/mlp/down/bias": ("bias", (8,), 0.0),
    "layers/mlp/down/kernel": ("kernel", (32, 8), 0.1),
    "layers/mlp/up/bias": ("bias", (32,), 0.0),
    "layers/mlp/up/kernel": ("kernel", (8, 32), 0.1),
    "layers/mlp_norm/bias": ("norm", (8,), 0.0),
    "layers/mlp_norm/scale": ("norm", (8,), 0.0),
    "position/table": ("embedding", (6, 8), 0.1),
    "token/table": ("embedding", (16, 8), 0.1),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def shapes():
    boxes = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 6), jnp.int32))["params"]
    return axes.of_boxed(boxes), {path: leaf.shape for path, leaf in paths.leaves(axes.unbox(boxes))}


def optimizer(config=AdamWConfig(), schedule=Ramp(0.5, 0.5, 1), clip=0.0):
    return Optimizer(config, schedule, clip, shapes()[0])


def tree(seed=0):
    rng = np.random.default_rng(seed)
    return paths.from_leaves((path, jnp.asarray(rng.standard_normal(shape))) for path, shape in shapes()[1].items())


def moved(chain, gradients, params):
    """{path: new - old} of the first update."""
    new, _ = chain.update(gradients, chain.init(params), params)
    return {
        path: after - before for (path, after), (_, before) in zip(paths.leaves(new), paths.leaves(params), strict=True)
    }


@pytest.mark.parametrize("config", [AdamWConfig(), MuonConfig()], ids=["adamw", "muon"])
def test_roles(config):
    """The whole table. By rank, the stacked norms and biases (rank 2 and 3) would be matrices."""
    found = {path: rest for path, *rest in optimizer(config).table(shapes()[1])}
    assert found == {path: [role, shape, 1.0, decay] for path, (role, shape, decay) in ROLES.items()}
    assert shapes()[1]["layers/attention/query/kernel"] == (3, 8, 2, 4)
    assert shapes()[1]["layers/attention/out/kernel"] == (3, 2, 4, 8)


def test_roles_of_other_leaves():
    assert axes.role(()) == axes.role(("layers",)) == "scalar"
    assert axes.role(("embed", "vocab")) == axes.role(("mlp", "classes")) == "head"
    assert axes.role(("vocab", "embed")) == axes.role(("type", "embed")) == "embedding"
    assert axes.role(("bucket", "heads")) == "bias"
    assert axes.role(("layers", "embed", "rank")) == "kernel"
    assert axes.matrix_shape(("layers", "heads", "head_dim"), (3, 2, 4)) == (8,)
    assert axes.matrix_shape(("embed", "mlp"), (8, 32)) == (8, 32)


@pytest.mark.parametrize(
    "config", [AdamWConfig(), MuonConfig(), SGDConfig(weight_decay=0.1)], ids=["adamw", "muon", "sgd"]
)
def test_decay_only_step(config):
    """With zero gradients, kernels and embeddings shrink by rate * decay; norms and biases stay bit for bit."""
    params = tree()
    zero = jax.tree.map(jnp.zeros_like, params)
    leaf = dict(paths.leaves(params))
    for path, change in moved(optimizer(config), zero, params).items():
        if ROLES[path][0] in ("kernel", "embedding"):
            np.testing.assert_allclose(change, -0.5 * 0.1 * leaf[path], rtol=1e-6, err_msg=path)
        else:
            assert not change.any(), path


def test_group_matching_nothing_refused():
    with pytest.raises(ConfigError, match="'query/kernel' matches no parameter") as caught:
        optimizer(AdamWConfig(groups=(Group("query/kernel", rate=0.1),)))
    assert caught.value.where == "config.optimizer.groups" and caught.value.exit_code == 2
    with pytest.raises(ConfigError, match="is not a regular expression"):
        optimizer(AdamWConfig(groups=(Group("(query"),)))


def test_group_multiplies_rate_and_decay():
    """On a leaf that several groups match they multiply; the others do as before."""
    groups = (
        Group(".*/query/kernel", rate=0.5, decay=3.0),
        Group("layers/.*", rate=0.25),
        Group("token/table", decay=0.0),
    )
    usual, grouped = optimizer(SGDConfig(0.0, 0.1)), optimizer(SGDConfig(0.0, 0.1, groups=groups))
    params, gradients = tree(0), tree(1)
    leaf, gradient = dict(paths.leaves(params)), dict(paths.leaves(gradients))
    before, after = (moved(chain, gradients, params) for chain in (usual, grouped))
    for path in ROLES:
        rate, decay = {"layers/attention/query/kernel": (0.125, 3), "token/table": (1, 0)}.get(
            path, (0.25 if path.startswith("layers/") else 1, 1)
        )
        decay *= 0.1 if ROLES[path][0] in ("kernel", "embedding") else 0
        np.testing.assert_allclose(
            after[path], -0.5 * rate * (gradient[path] + decay * leaf[path]), rtol=1e-9, err_msg=path
        )
    changed = {path for path in ROLES if not np.array_equal(before[path], after[path])}
    assert changed == {path for path in ROLES if path.startswith("layers/") or path == "token/table"}


def test_equal_configs_are_equal():
    """Schedules and groups are compared by their numbers: a second construction must find the first one's program."""

    def build(peak=3e-4, b2=0.95):
        config = AdamWConfig(b2=b2, groups=(Group(".*bias", decay=0.0),))
        return Optimizer(config, CosineConfig(peak, 10).over(100), 1.0, shapes()[0])

    assert build() == build() and hash(build()) == hash(build())
    assert build() != build(peak=1e-3) and build() != build(b2=0.99)
    assert ConstantConfig(1e-3, 5).over(10) == ConstantConfig(1e-3, 5).over(10)


def test_clipping_by_global_norm():
    """One factor for all leaves, so that the norm of the whole tree is the limit; smaller gradients are left alone."""
    params, gradients = tree(0), tree(1)
    norm = np.sqrt(sum((np.asarray(x) ** 2).sum() for x in jax.tree.leaves(gradients)))
    leaf = dict(paths.leaves(gradients))
    for limit, factor in ((norm / 4, 0.25), (norm * 2, 1.0), (0.0, 1.0)):
        for path, change in moved(optimizer(SGDConfig(0.0), clip=float(limit)), gradients, params).items():
            np.testing.assert_allclose(change, -0.5 * factor * leaf[path], rtol=1e-9, err_msg=path)


def test_adamw_first_update():
    """Adam's first direction is the gradient's sign; decay is added beside it, not to the gradient."""
    params, gradients = tree(0), tree(1)
    leaf, gradient = dict(paths.leaves(params)), dict(paths.leaves(gradients))
    for path, change in moved(optimizer(AdamWConfig(epsilon=1e-12)), gradients, params).items():
        wanted = -0.5 * (np.sign(gradient[path]) + ROLES[path][2] * leaf[path])
        np.testing.assert_allclose(change, wanted, rtol=1e-6, atol=1e-7, err_msg=path)


def test_warmup_and_cosine():
    rate = CosineConfig(peak=2.0, warmup=4, floor=0.1).over(24)
    assert rate == WarmupCosine(2.0, 4, 24, 0.1)
    np.testing.assert_allclose([rate(step) for step in range(5)], [0.5, 1.0, 1.5, 2.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose([rate(14), rate(24), rate(99)], [1.1, 0.2, 0.2], rtol=1e-6)
    np.testing.assert_allclose(rate(9), 0.2 + 1.8 * 0.5 * (1 + np.cos(np.pi / 4)), rtol=1e-6)
    with pytest.raises(ConfigError, match="warm-up is as long as the run"):
        CosineConfig(warmup=24).over(24)


def test_other_schedules():
    constant = ConstantConfig(peak=2.0, warmup=4).over(10)
    np.testing.assert_allclose([constant(step) for step in (0, 1, 2, 3, 4, 9)], [0.5, 1, 1.5, 2, 2, 2])
    np.testing.assert_allclose([ConstantConfig(peak=2.0).over(10)(step) for step in (0, 9)], [2.0, 2.0])
    np.testing.assert_allclose([Ramp(1.0, 3.0, 4)(step) for step in (0, 1, 4, 9)], [1.0, 1.5, 3.0, 3.0])
    np.testing.assert_allclose([Cosine(1.0, 3.0, 4)(step) for step in (0, 2, 4, 9)], [1.0, 2.0, 3.0, 3.0], rtol=1e-6)
