"""The TPU's kernel: interpreted on a CPU it computes what the plain one does, and for a described TPU it is compiled."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pretrainx.core import axes
from pretrainx.core.errors import ConfigError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models import context
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.encoder_decoder import EncoderDecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives.autoregressive import AutoregressiveConfig
from pretrainx.parallel import machines
from pretrainx.parallel.compilation import uncached
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from pretrainx.parallel.sharding import ShardingConfig
from toys.steps import QUICK

LENGTH = 256
SEGMENTS = np.sort(np.random.default_rng(3).integers(0, 4, (2, LENGTH)), axis=1).astype(np.int32)
CASES = {
    "packed": ({}, dict(segments=SEGMENTS)),
    "window, shared heads on a mesh": (dict(data=2, tensor=2, context=2), dict(window=100)),
    "bidirectional, packed": (dict(context=2), dict(causal=False, segments=SEGMENTS)),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_as_the_plain_kernel(case):
    """Values and gradients in float32, on one device and where rows, heads and tokens are split."""
    mesh, options = CASES[case]
    rng = np.random.default_rng(0)
    draw = lambda heads: jnp.asarray(rng.standard_normal((2, LENGTH, heads, 64)), jnp.float32)
    arrays, weight = (draw(4), draw(2), draw(2)), draw(4)
    rules = Rules(make_mesh(MeshConfig(**{"data": 1} | mesh), jax.devices()[: math.prod(mesh.values())]))

    def both(kernel):
        def loss(arrays):
            with rules.bound():
                return (context.attention(*arrays, kernel=kernel, **options) * weight).sum()

        return jax.jit(jax.value_and_grad(loss))(arrays)

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)
    jax.tree.map(close, both("splash"), both("blocks"))


@pytest.mark.parametrize(
    "config, length, dtype",
    [
        (DecoderConfig(width=96, heads=2), 128, "bfloat16"),
        (DecoderConfig(width=128, heads=2), 100, "bfloat16"),
        (DecoderConfig(width=128, heads=2), 128, "float64"),
    ],
    ids=["heads", "length", "dtype"],
)
def test_a_model_that_it_does_not_take(config, length, dtype):
    with pytest.raises(ConfigError, match="splash attention does not take this model"):
        replace(config, attention="splash").build(64, length, Precision("float32", dtype))


def test_a_bias_is_refused():
    model = EncoderDecoderConfig(width=128, heads=2, depth=1, attention="splash", positions="relative")
    built = model.build(64, 128, 128, Precision())
    with pytest.raises(ConfigError, match="an array 'bias'"):
        jax.eval_shape(lambda: built.init(jax.random.key(0), *[jnp.zeros((1, 128), jnp.int32)] * 2))


TPU = {
    "packed": (dict(data=2, tensor=2), "gather", True, {}),
    "window": (dict(fsdp=4), "gather", False, dict(window=300)),
    "gather": (dict(tensor=2, context=2), "gather", True, dict(heads=2, kv_heads=1)),
    "ring": (dict(data=2, context=2), "ring", True, {}),
}


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.xdist_group("libtpu")
@pytest.mark.parametrize("case", TPU)
@uncached()
def test_compiled_for_a_tpu(case):
    """A decoder's loss and gradient for four v5e chips: four calls of the kernel, or keys that travel."""
    pytest.importorskip("libtpu", reason="a TPU's compiler: pip install 'pretrainx[tpu]'")
    chips = machines.described(machines.parse("v5e:2x2"))
    mesh, form, packed, model = TPU[case]
    rules = Rules(make_mesh(MeshConfig(**{"data": 1} | mesh), chips), config=ShardingConfig(context=form))
    config = DecoderConfig(**dict(width=256, depth=2, heads=4, kv_heads=2, positions="rotary", remat="full") | model)
    length = 2 * LENGTH
    vocabulary = Vocabulary(512, (("pad", 0), ("eos", 1)))
    objective = AutoregressiveConfig().build(config, vocabulary, length, Precision("float32", "bfloat16"), packed)
    batch = {"tokens": np.ones((4, length + 1), np.int32), "valid": np.ones(4, bool)}
    batch |= {"segments": np.ones((4, length + 1), np.int32)} if packed else {}

    def loss(params, batch):
        with rules.bound():
            keys = objective.row_keys(jax.random.key(0), batch)
            seen = objective.observe_rows(keys, batch, 0)
            return objective.encode(params, {}, seen, keys, 0, train=True).totals["nll"]

    params = jax.eval_shape(lambda: axes.unbox(objective.init(jax.random.key(0), batch)))
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rules.replicated())
    lowered = jax.jit(jax.grad(loss)).lower(*jax.tree.map(place, (params, batch)))
    text = lowered.compile(compiler_options=QUICK).as_text()
    calls, travels = text.count('custom_call_target="tpu_custom_call"'), "collective-permute" in text
    assert (calls == 0 and travels) if form == "ring" else calls == 4
