"""Moments kept in another dtype than the parameters: bytes, expectation, devices, checkpoints, and what learning loses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pretrainx.core import paths
from pretrainx.core.schedule import Ramp
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives.autoregressive import AutoregressiveConfig
from pretrainx.optim import moments
from pretrainx.optim.optimizer import OPTIMIZERS, AdafactorConfig, AdamWConfig, Optimizer
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from pretrainx.training import state as states
from pretrainx.training.checkpoint import Checkpoints
from pretrainx.training.restore import MisfitError, restore_step
from pretrainx.training.step import Options, make_train_step
from toys.leaves import AXES, LEAVES, SHAPES
from toys.line import Line
from toys.small import Small

RATE = Ramp(0.1, 0.1, 1)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def tree(seed, dtype="float32"):
    rng = np.random.default_rng(seed)
    return paths.from_leaves((path, np.asarray(rng.standard_normal(shape), dtype)) for path, shape in SHAPES.items())


def config(name, dtype):
    given = AdafactorConfig(factored_from=2, momentum=0.5) if name == "adafactor" else OPTIMIZERS[name]()
    return dataclasses.replace(given, moments=dtype)


def test_the_expectation_is_the_number():
    """Either neighbour, the nearer more often; what bfloat16 has, and what is not finite, as it is."""
    x = np.random.default_rng(0).standard_normal(500).astype("f4") * 10.0 ** np.arange(-25, 25).repeat(10)
    x = x.astype("f4")
    draw = jax.jit(jax.vmap(lambda key: moments.rounded_at_random(key, x)))
    found = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)), "f4")
    bits = x.view("u4") & np.uint32(0xFFFF0000)
    towards_zero, away = bits.view("f4"), (bits + np.uint32(0x10000)).view("f4")
    assert ((found == towards_zero) | (found == away)).all() and (found != found[0]).any(0).mean() > 0.95
    gap = np.abs(away - towards_zero)
    assert (np.abs(found.mean(0, dtype="f8") - x) < 0.04 * gap).all(), "five standard errors"
    many = jnp.full((100, 1000), 1 + 2**-10, jnp.float32)  # an eighth of the way up
    up = np.asarray(moments.rounded_at_random(jax.random.key(1), many), "f4") > 1
    assert abs(up.mean() - 0.125) < 0.005 and abs(up.mean(0) - 0.125).max() < 0.17 and up.mean(1).std() < 0.02
    special = np.array([0, 1, -2.5, np.inf, -np.inf, np.nan], "f4")
    np.testing.assert_array_equal(np.asarray(moments.rounded_at_random(jax.random.key(1), special), "f4"), special)


def test_a_slow_average_does_not_stall():
    """Squares of a constant gradient, 3,000 updates with b2 = 0.999: to the nearest they stop at a half."""
    params = {"layers": jnp.ones(256)}
    chain = Optimizer(AdamWConfig(b2=0.999, moments="bfloat16"), RATE, 0.0, (("layers", ("norm",)),))
    nearest = optax.scale_by_adam(b2=0.999)

    def updated(transform, params):
        step = lambda state, _: (transform.update(params, state, params)[1], None)
        return jax.jit(lambda: jax.lax.scan(step, transform.init(params), None, 3000)[0])()

    found = updated(chain.transform, params)["adam"].nu["layers"]
    stalled = updated(nearest, {"layers": jnp.ones(256, jnp.bfloat16)}).nu["layers"]
    assert found.dtype == stalled.dtype == jnp.bfloat16
    wanted = 1 - 0.999**3000
    assert abs(np.asarray(found, "f4").mean() / wanted - 1) < 0.01
    assert np.abs(np.asarray(found, "f4") / wanted - 1).max() < 0.2
    assert np.asarray(stalled, "f4").max() <= 0.5


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_kept(name):
    """The same leaves; half the bytes of what lies like a parameter, nothing else narrower; wider than narrow parameters."""
    shapes = lambda dtype, params: jax.eval_shape(Optimizer(config(name, dtype), RATE, 1.0, AXES).init, params)
    plain, narrow = (dict(paths.leaves(paths.names_of(shapes(dtype, tree(0))))) for dtype in ("params", "bfloat16"))
    assert plain.keys() == narrow.keys()
    owner = lambda path: next((known for known in SHAPES if path.endswith("/" + known)), None)
    like = {path for path, leaf in plain.items() if owner(path) and leaf.shape == SHAPES[owner(path)]}
    assert len(like) >= len(LEAVES)
    for path, leaf in narrow.items():
        assert leaf.shape == plain[path].shape
        assert leaf.dtype == (jnp.bfloat16 if path in like else plain[path].dtype), path
    wide = dict(paths.leaves(paths.names_of(shapes("float32", tree(0, jnp.bfloat16)))))
    assert all(wide[path].dtype == jnp.float32 for path in like)


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize("name", ["adamw", "muon", "lion", "sgd"])
def test_rounding_does_not_see_devices(name, float64):
    """Two updates on eight devices are those of one, and narrow moments lie like their parameters."""
    rules = Rules(make_mesh(MeshConfig(2, 2, 2), jax.devices()[:8]))
    chain = Optimizer(config(name, "bfloat16"), RATE, 1.0, AXES)
    placed = paths.from_leaves((path, rules.sharding(names, LEAVES[path][1])) for path, names in AXES)
    params, *gradients = (tree(seed, "float64") for seed in range(3))
    shardings = chain.shardings(jax.eval_shape(chain.init, params), params, placed, rules.replicated())
    of_kernel = next(path for path, names in AXES if "embed" in names and "mlp" in names)

    def updated(place, state_place):
        now = jax.device_put(params, place)
        state = jax.jit(chain.init, out_shardings=state_place)(now)
        for gradient in gradients:
            now, state = jax.jit(chain.update, out_shardings=(place, state_place))(gradient, state, now)
        return now, dict(paths.leaves(paths.names_of(state)))

    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    (alone, kept), (split, spread) = updated(one, one), updated(placed, shardings)
    for path, leaf in paths.leaves(alone):
        np.testing.assert_allclose(dict(paths.leaves(split))[path], leaf, rtol=1e-9, atol=1e-9, err_msg=path)
    narrow = [path for path, leaf in kept.items() if leaf.dtype == jnp.bfloat16]
    for path in narrow:
        np.testing.assert_array_equal(np.asarray(spread[path], "f4"), np.asarray(kept[path], "f4"), err_msg=path)
    lies = [spread[path].sharding.spec for path in narrow if path.endswith("/" + of_kernel)]
    assert lies and all(spec == dict(paths.leaves(placed))[of_kernel].spec for spec in lies)


def test_another_dtype_is_not_cast_in_passing(tmp_path, float64):
    """Orbax would restore moments into bfloat16 without a word."""
    run = Small(Line(), optimizer=AdamWConfig())
    state, _ = run.step()
    checkpoints = Checkpoints(tmp_path, 1)
    assert checkpoints.save(run.state, {"config": {}, "data": {}, "wall": 1.0})
    checkpoints.close()
    other = Small(Line(), optimizer=AdamWConfig(moments="bfloat16"))
    like = states.abstract(other.objective, other.optimizer, other.options, other.found)
    with pytest.raises(MisfitError, match="does not fit the configuration") as caught:
        restore_step(tmp_path, 1, like, jax.jit(other.optimizer.init))
    assert "optimizer/adam/mu/slope" in caught.value.where
    assert "checkpoint float64[2], configuration bfloat16[2]" in caught.value.why


def curve(dtype, seed=0, steps=400):
    """Losses of a small decoder on text from a chain of 64 letters, each of which follows two letters before it."""
    rows, length, letters = 16, 64, 64
    vocabulary = Vocabulary(letters + 2, (("pad", 0), ("eos", 1)))
    model = DecoderConfig(width=32, depth=2, heads=2, unroll=0)
    objective = AutoregressiveConfig().build(model, vocabulary, length, Precision())
    options = Options(Rules(make_mesh(MeshConfig(), jax.devices()[:1])), seed=seed)
    found = states.layout(objective, rows)
    optimizer = Optimizer(AdamWConfig(b2=0.999, moments=dtype), Ramp(1e-4, 3e-3, 30), 1.0, found.params_axes)
    state = states.create(objective, optimizer, options, found, rows)
    step = make_train_step(objective, optimizer, options, state)
    odds = np.random.default_rng(1).dirichlet(np.full(letters, 0.1), letters).cumsum(1)
    rng, losses = np.random.default_rng(2), []
    for _ in range(steps):
        text = np.zeros((rows, length + 1), np.int32)
        text[:, 0] = rng.integers(0, letters, rows)
        for place in range(1, length + 1):
            text[:, place] = (rng.uniform(size=(rows, 1)) > odds[text[:, place - 1]]).sum(1).clip(max=letters - 1)
        state, metrics = step(state, {"tokens": text + 2, "valid": np.ones(rows, bool)})
        losses.append(float(metrics["loss"]))
    return np.array(losses)


@pytest.mark.slow
@pytest.mark.rotated
def test_learning_with_narrow_moments():
    """400 steps on the same batches: the mean loss of the last 50 is within a hundredth of float32's, as another start is."""
    found = {name: curve(*given) for name, given in {"params": ("params",), "bfloat16": ("bfloat16",)}.items()}
    found["another start"] = curve("params", seed=1)
    ends = {name: losses[-50:].mean() for name, losses in found.items()}
    print("\n" + "\n".join(f"{name:<14} loss {found[name][0]:.3f} -> {end:.4f}" for name, end in ends.items()))
    assert ends["params"] < 0.75 * found["params"][0]
    assert abs(ends["bfloat16"] / ends["params"] - 1) < 0.01
