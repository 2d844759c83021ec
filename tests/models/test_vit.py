"""The vision transformer: its parts, masked and visible patches, positions, layer scale, drop path, what is refused."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from pretrainx.core import paths
from pretrainx.core.errors import ConfigError
from pretrainx.core.images import Images
from pretrainx.models.layers import Precision, drop_path
from pretrainx.models.patches import patchify, sincos_table
from pretrainx.models.siamese import run
from pretrainx.models.vit import VitConfig

IMAGES, WIDE, ROWS, N = Images(12), Precision("float64", "float64"), 4, 9
PLAIN = VitConfig(width=16, depth=2, heads=2, mlp_width=20, patch=4)
BEIT = replace(PLAIN, positions="relative", layer_scale=0.1, key_bias=False, mask_token=True, drop_path=0.5)
MAE = replace(PLAIN, positions="sincos", initial="xavier", drop_path=0.0)
POOLED = replace(PLAIN, positions="none", class_token=False, pool="mean", pool_norm=True, dropout=0.1)
CONFIGS = {"plain": PLAIN, "beit": BEIT, "mae": MAE, "pooled": POOLED}
X = np.random.default_rng(0).standard_normal((ROWS, 12, 12, 3))
KEYS = functools.partial(jax.random.split, num=ROWS)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def build(config):
    return config.build(IMAGES, WIDE)


@functools.cache
def params(config):
    with jax.enable_x64(True):
        rng, model = np.random.default_rng(1), build(replace(config, drop_path=0.0))
        tree = meta.unbox(jax.jit(model.init)(jax.random.key(0), X)["params"])
        return jax.tree.map(lambda x: x + 0.2 * rng.standard_normal(x.shape), tree)


@functools.partial(jax.jit, static_argnums=(0, 2))
def applied(config, tree, method, *args, **kw):
    return build(config).apply({"params": tree}, *args, method=method, **kw)


def features(config, images=X, keys=None):
    return np.asarray(applied(config, params(config), "__call__", images, keys))


def close(a, b, gap=1e-11):
    np.testing.assert_allclose(a, b, rtol=gap, atol=gap)


@pytest.mark.parametrize("name", ["beit", "pooled"])
def test_parts_are_the_call(name):
    config = CONFIGS[name]
    part = lambda method, *args: applied(config, params(config), method, *args)
    hidden = part("hidden", part("blocks", part("embed", X)))
    assert hidden.shape == (ROWS, N + config.class_token, 16)
    close(part("pooled", hidden), features(config))
    found, stats = jax.jit(lambda tree: run(build(config), tree, {}, X, None, None, train=True))(params(config))
    close(found, features(config))
    assert stats == {} and build(config).feature_width == found.shape[1] == 16


def test_embedding_by_hand():
    """Projection, mask token, positions, and only then the choice of the visible; the class token with its own position."""
    config = replace(PLAIN, mask_token=True)
    tree, rng = params(config), np.random.default_rng(2)
    masked = rng.random((ROWS, N)) < 0.4
    visible = np.stack([rng.permutation(N)[:5] for _ in range(ROWS)])
    x = patchify(X, 4) @ tree["patches"]["kernel"] + tree["patches"]["bias"]
    x = np.where(masked[..., None], tree["mask_token"], x) + tree["position"]["table"][1:]
    first = np.broadcast_to(tree["class_token"] + tree["position"]["table"][0], (ROWS, 1, 16))
    embed = lambda *args: applied(config, tree, "embed", X, None, *args)
    close(embed(masked), np.concatenate([first, x], 1))
    close(embed(masked, visible), np.concatenate([first, np.take_along_axis(x, visible[..., None], 1)], 1))


def test_constant_positions():
    tree = params(MAE)
    assert "position" not in tree
    x = patchify(X, 4) @ tree["patches"]["kernel"] + tree["patches"]["bias"] + sincos_table(3, 16)
    close(applied(MAE, tree, "embed", X)[:, 1:], x)


def test_a_block_by_hand():
    """x + scale x branch(norm(x)), scores with the bias of the pair, keys without a bias."""
    config, tree, grid = replace(BEIT, depth=1), params(replace(BEIT, depth=1)), 3
    x = np.asarray(applied(config, tree, "embed", X))
    leaf = jax.tree.map(lambda leaf: np.asarray(leaf[0]), tree["layers"])
    assert "bias" not in leaf["attention"]["key"]
    table, bias = tree["relative"]["table"], np.zeros((2, N + 1, N + 1))
    assert table.shape == ((2 * grid - 1) ** 2 + 3, 2)
    for query in range(N + 1):
        for key in range(N + 1):
            if query and key:
                (qy, qx), (ky, kx) = divmod(query - 1, grid), divmod(key - 1, grid)
                row = (qy - ky + grid - 1) * (2 * grid - 1) + qx - kx + grid - 1
            else:
                row = (2 * grid - 1) ** 2 + (2 if query == key else 0 if key else 1)
            bias[:, query, key] = table[row]
    norm = lambda x, leaf: (
        (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * leaf["scale"] + leaf["bias"]
    )
    y, heads = norm(x, leaf["attention_norm"]), leaf["attention"]
    query, key, value = (
        np.einsum("btd,dhk->bthk", y, heads[part]["kernel"]) + heads[part].get("bias", 0)
        for part in ("query", "key", "value")
    )
    weights = jax.nn.softmax(np.einsum("bthk,bshk->bhts", query, key) / np.sqrt(8) + bias, -1)
    y = np.einsum("bhts,bshk,hkd->btd", weights, value, heads["out"]["kernel"]) + heads["out"]["bias"]
    x = x + leaf["attention_scale"]["scale"] * y
    mlp = leaf["mlp"]
    y = jax.nn.gelu(norm(x, leaf["mlp_norm"]) @ mlp["up"]["kernel"] + mlp["up"]["bias"], approximate=False)
    x = x + leaf["mlp_scale"]["scale"] * (y @ mlp["down"]["kernel"] + mlp["down"]["bias"])
    close(applied(config, tree, "blocks", applied(config, tree, "embed", X)), x, 1e-10)


@pytest.mark.parametrize("positions", ["none", "learned", "sincos", "relative"])
def test_order_of_patches(positions):
    """Only without positions is a picture the bag of its patches."""
    config = replace(PLAIN, positions=positions)
    parts = X.reshape(ROWS, 3, 4, 3, 4, 3)
    other = parts[:, [2, 0, 1]].reshape(X.shape)
    gap = np.abs(features(config, other) - features(config)).max()
    assert gap < 1e-12 if positions == "none" else gap > 1e-3


def test_pooling():
    hidden = np.random.default_rng(3).standard_normal((ROWS, N + 1, 16))
    pooled = lambda config: applied(config, params(config), "pooled", hidden)
    close(pooled(PLAIN), hidden[:, 0])
    close(pooled(replace(PLAIN, pool="mean")), hidden[:, 1:].mean(1))
    late, tree = replace(PLAIN, pool="mean", pool_norm=True), params(replace(PLAIN, pool="mean", pool_norm=True))
    mean, leaf = hidden[:, 1:].mean(1), tree["pool_norm"]
    wanted = (mean - mean.mean(1, keepdims=True)) / np.sqrt(mean.var(1, keepdims=True) + 1e-6)
    close(pooled(late), wanted * leaf["scale"] + leaf["bias"])
    assert "final_norm" not in tree
    close(applied(late, tree, "hidden", hidden), hidden)


def test_drop_path():
    """Rows lose a branch or have it scaled, by their own keys alone; the first block loses none, the last half of them."""
    dropping, rows = replace(PLAIN, drop_path=0.5), 400
    tree = params(dropping)
    embedded = jnp.broadcast_to(applied(dropping, tree, "embed", X[:1]), (rows, N + 1, 16))
    # 3 outcomes of the last block's two branches beside the whole: with rate 1/2 each has a quarter of the rows.
    keys = jax.random.split(jax.random.key(5), rows)
    found = applied(dropping, tree, "blocks", embedded, keys)
    close(applied(dropping, tree, "blocks", embedded[7:], keys[7:]), found[7:])
    kinds, counts = np.unique(np.round(np.asarray(found)[:, 1, :2], 6), axis=0, return_counts=True)
    assert len(kinds) == 4 and (np.abs(counts / rows - 0.25) < 0.08).all()


def test_expectation_of_drop_path():
    keys, x = jax.random.split(jax.random.key(0), 4000), np.ones((4000, 2, 3))
    found = np.asarray(drop_path(x, 0.3, keys, 7))
    assert {*np.unique(found.round(9))} == {0.0, round(1 / 0.7, 9)} and abs(found.mean() - 1) < 0.05
    assert (found == found[:, :1, :1]).all()
    np.testing.assert_array_equal(drop_path(x, 0.3, None, 7), x)


@pytest.mark.parametrize("name", ["plain", "beit", "mae"])
def test_start(name):
    """Standard deviations by the rule; biases and relative biases zero, factors one, layer scale its start."""
    config = replace(CONFIGS[name], width=128, heads=8, mlp_width=0, patch=4, drop_path=0.0)
    tree = meta.unbox(jax.jit(build(config).init)(jax.random.key(0), X)["params"])
    xavier = lambda inputs, outputs: (2 / (inputs + outputs)) ** 0.5
    truncated = 0.02 * 0.8796  # of a normal cut at two deviations
    for path, sizes in {"attention/query": (128, 128), "mlp/up": (128, 512), "mlp/down": (512, 128)}.items():
        kernel = functools.reduce(lambda node, part: node[part], path.split("/"), tree["layers"])["kernel"]
        wanted = xavier(*sizes) if name == "mae" else truncated
        assert abs(float(kernel.std()) / wanted - 1) < 0.03, path
        assert float(jnp.abs(kernel).max()) <= (3**0.5 * wanted if name == "mae" else 0.04) * 1.0001
    patches = float(tree["patches"]["kernel"].std())
    assert abs(patches / (xavier(48, 128) if name == "mae" else truncated) - 1) < 0.05
    if name == "beit":
        assert not tree["relative"]["table"].any()
        np.testing.assert_array_equal(tree["layers"]["mlp_scale"]["scale"], np.full((2, 128), 0.1))


def test_what_is_refused():
    for changes, message in (
        ({"pool": "class", "class_token": False}, "no class token"),
        ({"pool_norm": True}, "belongs to the mean"),
        ({"positions": "sincos", "width": 18}, "pairs of a sine and a cosine"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(PLAIN, **changes)
    with pytest.raises(ConfigError, match="do not fill the pictures"):
        PLAIN.build(Images(14), WIDE)
    assert PLAIN.build(Images(14), WIDE, size=8).count == 4
    with pytest.raises(ValueError, match=r"\(8, 8, 3\), but the model is of side 12"):
        applied(PLAIN, params(PLAIN), "embed", X[:, :8, :8])
    with pytest.raises(ValueError, match="need all patches"):
        applied(BEIT, params(BEIT), "blocks", np.zeros((1, 5, 16)))


def test_later_blocks_add_less_at_the_start():
    """The matrices out of attention and MLP of block l are divided by sqrt(2 l), and no others."""
    config = replace(PLAIN, width=64, depth=3, mlp_width=64, smaller_residual=True, initial="normal")
    for given in (config, replace(config, remat="full", unroll=0)):
        layers = meta.unbox(build(given).init(jax.random.key(0), X)["params"])["layers"]
        for path, leaf in paths.leaves(layers):
            if path.endswith("kernel"):
                divided = path in ("attention/out/kernel", "mlp/down/kernel")
                wanted = 0.02 / np.sqrt(2 * np.arange(1, 4)) if divided else np.full(3, 0.02)
                np.testing.assert_allclose(np.asarray(leaf).reshape(3, -1).std(1), wanted, rtol=0.1, err_msg=path)
    with pytest.raises(ConfigError, match="not divided"):
        replace(config, initial="xavier")
