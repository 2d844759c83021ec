"""What the backward pass keeps of a block, by name: the same values, less memory for more FLOPs, and the host's memory."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from contract import pairs
from contract.cases import T5, built, difference, host, make_batch, prepare
from contract.pairs import CLIP
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.experts import ExpertsConfig
from pretrainx.models.layers import Precision
from pretrainx.models.stack import REMAT
from pretrainx.objectives.clip import ClipConfig
from pretrainx.objectives.span_corruption import SpanCorruptionConfig
from pretrainx.parallel import machines
from pretrainx.parallel.compilation import uncached
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from pretrainx.runs.operations import matmul_flops
from toys.steps import QUICK

VOCABULARY, ROWS = 64, 4


def sum_of_blocks(name, dtype, width=16, depth=2, length=12, **habits):
    """(a scalar of what the blocks of a decoder return, as a function of parameters and tokens; the model)"""
    config = DecoderConfig(width=width, depth=depth, heads=2, remat=name, vocab_multiple=16, **habits)
    model = config.build(VOCABULARY, length, Precision("float32" if dtype == "bfloat16" else dtype, dtype))

    def total(params, tokens):
        run = lambda method, x: model.apply({"params": params}, x, method=method)
        return jnp.square(
            run("blocks", run("embed", tokens)).astype(jnp.float32 if dtype != "float64" else dtype)
        ).mean()

    return total, model


@pytest.mark.slow
@pytest.mark.parametrize(
    "habits", [{}, {"gated": True, "positions": "rotary", "qk_norm": True, "norm": "rms"}], ids=str
)
def test_values_and_gradients_of_all_names(habits):
    with jax.enable_x64(True):
        tokens = np.random.default_rng(0).integers(0, VOCABULARY, (ROWS, 12))
        found = {}
        for name in REMAT:
            total, model = sum_of_blocks(name, "float64", **habits)
            params = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), tokens))["params"]
            found[name] = jax.jit(jax.value_and_grad(total))(params, tokens)
        for name in REMAT:
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15), found[name], found["none"]
            )


@pytest.mark.slow
def test_memory_and_recomputed_flops_by_name():
    """Eight scanned blocks on one device: the less is kept, the more is computed again."""
    tokens, found = jax.ShapeDtypeStruct((8, 128), jnp.int32), {}
    for name in REMAT:
        total, model = sum_of_blocks(name, "float32", 64, 8, 128)
        shapes = jax.eval_shape(
            lambda model=model: nn.meta.unbox(model.init(jax.random.key(0), jnp.zeros((8, 128), int)))
        )
        gradient, params = jax.grad(total), shapes["params"]
        memory = jax.jit(gradient).lower(params, tokens).compile().memory_analysis().temp_size_in_bytes
        found[name] = memory / 2**20, matmul_flops(jax.make_jaxpr(gradient)(params, tokens))
    least = found["none"][1]
    print(f"\n{'remat':<14}{'temporaries, MiB':>18}{'FLOPs':>8}")
    for name, (memory, count) in found.items():
        print(f"{name:<14}{memory:>18.1f}{count / least:>8.3f}")
    falling = ("none", "dots", "weight_dots", "attention", "full")
    for more, less in zip(falling, falling[1:], strict=False):
        assert found[less][0] < found[more][0] and found[less][1] >= found[more][1], (more, less)
    assert found["full"][1] > found["attention"][1] > found["weight_dots"][1] > least == found["dots"][1]
    for name, like in (("offload", "full"), ("offload_dots", "weight_dots")):
        assert found[name] == pytest.approx(found[like], rel=0.05), "a CPU has one memory: nothing is gained or lost"


@pytest.mark.slow
@pytest.mark.parametrize("dispatch", ["capacity", "ragged"])
def test_products_of_experts_are_kept_by_name(dispatch):
    """As those of an MLP are: "weight_dots" makes the scores of attention again, "attention" the experts' products too."""
    tokens, found = jax.ShapeDtypeStruct((2, 16), jnp.int32), {}
    for name in REMAT:
        experts = ExpertsConfig(count=4, dispatch=dispatch)
        total, model = sum_of_blocks(name, "float32", length=16, experts=experts, gated=True)
        shapes = jax.eval_shape(
            lambda model=model: nn.meta.unbox(model.init(jax.random.key(0), jnp.zeros((2, 16), int)))
        )
        program = jax.make_jaxpr(jax.grad(total))(shapes["params"], tokens)
        found[name] = str(program).count("= ragged_dot") if dispatch == "ragged" else matmul_flops(program)
        scores = 2 * 2 * 2 * 16 * 16 * 16 * 2  # of queries and keys, and what they weigh, in two blocks
        if dispatch == "capacity" and name == "weight_dots":
            assert found[name] <= found["none"] + scores
    assert found["full"] >= found["attention"] > found["weight_dots"] == found["offload_dots"] >= found["none"]
    assert dispatch == "capacity" or found["weight_dots"] == found["none"] > 0


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.xdist_group("libtpu")
@uncached()
def test_offloaded_blocks_lie_in_the_hosts_memory():
    """Compiled for four TPU v5e: under "offload" what the scan keeps of each block is in memory space 5, the host's."""
    pytest.importorskip("libtpu", reason="compiling for a TPU needs pip install 'pretrainx[tpu]'")
    chips = machines.described(machines.parse("v5e:2x2"))
    rules, rows, length, found = Rules(make_mesh(MeshConfig(2, 2), chips)), 16, 512, {}
    for name in ("full", "offload", "attention", "weight_dots", "offload_dots"):
        total, model = sum_of_blocks(name, "bfloat16", 256, 8, length)
        boxed = jax.eval_shape(lambda model=model: model.init(jax.random.key(0), jnp.zeros((1, length), int)))["params"]
        place = lambda box: jax.ShapeDtypeStruct(
            box.value.shape, box.value.dtype, sharding=rules.sharding(box.names, box.value.shape)
        )
        params = jax.tree.map(place, boxed, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))
        tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32, sharding=rules.rows((rows, length)))

        def gradient(params, tokens, total=total):
            with rules.bound():
                return jax.grad(total)(params, tokens)

        program = jax.jit(gradient).lower(params, tokens).compile(compiler_options=QUICK)
        memory = program.memory_analysis()
        on_host = len(re.findall(r"S\(5\)", program.as_text()))
        found[name] = memory.temp_size_in_bytes / 2**20, memory.host_temp_size_in_bytes / 2**20, on_host
        print(
            f"\n{name:<12}device {found[name][0]:.1f} MiB, host {found[name][1]:.1f} MiB, {on_host} arrays there",
            end="",
        )
    inputs = 8 * rows // 4 * length * 256 * 2 / 2**20  # of eight blocks, on one chip, in bfloat16
    device, host, there = ({name: each[index] for name, each in found.items()} for index in range(3))
    assert there["full"] == there["attention"] == there["weight_dots"] == 0 < there["offload"] < there["offload_dots"]
    assert device["full"] - device["offload"] > 0.5 * inputs and host["offload"] >= inputs
    assert device["weight_dots"] > device["attention"] > device["full"] + inputs
    assert device["weight_dots"] - device["offload_dots"] > 0.5 * host["offload_dots"] > 3 * inputs


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.xdist_group("remat of others")
@pytest.mark.parametrize("family", ["span_corruption", "clip"])
def test_other_stacks(family):
    """An encoder-decoder with its cross-attention, a tower of pictures beside one of text: a step is that of "none"."""
    with jax.enable_x64(True):
        found = {}
        for name in ("none", "attention", "offload_dots"):
            if family == "clip":
                towers = {part: replace(getattr(CLIP, part), remat=name) for part in ("image", "text")}
                objective = pairs.built(ClipConfig(block=2), replace(CLIP, **towers))
            else:
                objective = built(SpanCorruptionConfig(), replace(T5, remat=name))
            run = prepare(family, objective=objective)
            state, _ = run.step(run.state, run.place(make_batch(objective)))
            found[name] = host(state.params)
        for name in found:
            assert difference(found[name], found["none"])[0] < 1e-9, name
