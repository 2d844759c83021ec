"""Rows whose length is laid over devices: loss and every gradient as on one device, and memory that falls with their number."""

import functools
import math
import re
from dataclasses import replace

import jax
import numpy as np
import pytest

from contract import cases
from pretrainx.core import axes, paths
from pretrainx.core.errors import ConfigError
from pretrainx.models import context
from pretrainx.models.decoder import DecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives.autoregressive import AutoregressiveConfig
from pretrainx.objectives.masked_lm import MaskedLmConfig
from pretrainx.objectives.prefix_lm import PrefixLmConfig
from pretrainx.objectives.span_corruption import SpanCorruptionConfig
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from pretrainx.parallel.sharding import ShardingConfig
from pretrainx.runs import parts
from pretrainx.training import state as states

ROWS, LENGTH, TOLERANCE = 4, 64, 1e-9
MODERN = replace(cases.MODERN, positions="rotary")
SPANS = SpanCorruptionConfig(density=0.25, mean_span=6.0)  # 64 tokens of source, 24 of target
OBJECTIVES = {
    "causal": lambda: cases.built(AutoregressiveConfig(), cases.CONFIG, length=LENGTH),
    "packed": lambda: cases.built(AutoregressiveConfig(), cases.LLAMA_WHOLE, segmented=True, length=LENGTH),
    "window": lambda: cases.built(AutoregressiveConfig(), replace(cases.LLAMA, window=11), length=LENGTH),
    "packed, window": lambda: cases.built(AutoregressiveConfig(), cases.LLAMA, segmented=True, length=LENGTH),
    "prefix": lambda: cases.built(PrefixLmConfig(), cases.CONFIG, length=LENGTH),
    "encoder": lambda: cases.built(MaskedLmConfig(special_tokens=False), MODERN, segmented=True, length=LENGTH),
    "encoder and decoder": lambda: cases.built(SPANS, cases.BART, length=LENGTH),
    "relative": lambda: cases.built(SPANS, cases.T5, length=LENGTH),
}
MESHES = {
    "context": MeshConfig(1, context=8),
    "data-tensor-context": MeshConfig(2, tensor=2, context=2),
    "fsdp-context": MeshConfig(1, fsdp=2, context=4),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def rules_of(mesh, form):
    """Strict ones: a length that is not split would prove nothing."""
    sizes = (mesh.data, mesh.fsdp, mesh.tensor, mesh.context, mesh.stage)
    config = ShardingConfig(context=form)
    return Rules(make_mesh(mesh, jax.devices()[: math.prod(sizes)]), config=config, strict=True)


def gradients(name, rules):
    """{"loss": value, path of a parameter: its gradient}"""
    objective = OBJECTIVES[name]()
    batch = cases.make_batch(objective, ROWS)
    params = axes.unbox(objective.init(jax.random.key(0), batch))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape), params)
    keys = objective.row_keys(jax.random.key(0), batch)

    def loss(params):
        with rules.bound():
            seen = objective.observe_rows(keys, batch, 0)
            return sum(objective.encode(params, {}, seen, keys, 0, train=True).totals.values())

    value, found = jax.jit(jax.value_and_grad(loss))(params)
    return {"loss": value} | dict(paths.leaves(found))


@functools.cache
def on_one_device(name):
    return gradients(name, rules_of(MeshConfig(1), "gather"))


def check(name, mesh, form):
    wanted, found = on_one_device(name), gradients(name, rules_of(mesh, form))
    scale = max(np.abs(leaf).max() for path, leaf in wanted.items() if path != "loss")
    for path, leaf in wanted.items():
        np.testing.assert_allclose(found[path], leaf, rtol=TOLERANCE, atol=TOLERANCE * scale, err_msg=path)


def test_a_ring():
    """Packed rows with shared key heads go around a ring, beside rows and heads that are split too: values and gradients."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((2, 32, heads, 8)) for heads in (4, 2, 2)]
    segments, weight = np.sort(rng.integers(0, 3, (2, 32)), axis=1), rng.standard_normal((2, 32, 4, 8))

    def both(mesh):
        def loss(arrays):
            with rules_of(mesh, "ring").bound():
                return (context.attention(*arrays, segments=segments) * weight).sum()

        made = jax.jit(jax.value_and_grad(loss)).lower(arrays).compile()
        assert ("collective-permute" in made.as_text()) == (mesh.context > 1)
        return made(arrays)

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)
    jax.tree.map(close, both(MESHES["data-tensor-context"]), both(MeshConfig(1)))


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize("form", ["gather", "ring"])
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_form(name, mesh, form):
    check(name, MESHES[mesh], form)


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize("form", ["gather", "ring"])
def test_within_the_stages_of_a_pipeline(form):
    check("packed", MeshConfig(1, fsdp=2, context=2, stage=2), form)


@pytest.mark.parametrize("devices, fits", [(4, True), (8, False)])
def test_rows_that_do_not_divide_are_refused(devices, fits):
    """Where a run is laid out, with the length and the devices: 60 tokens lie on 4 of them, not on 8."""
    objective = cases.built(AutoregressiveConfig(), cases.CONFIG, length=60)
    found = states.layout(objective, ROWS)
    rules = rules_of(MeshConfig(1, context=devices), "ring")
    if fits:
        return parts.check_lengths(objective, rules, found, ROWS)
    with pytest.raises(ConfigError, match="60 tokens, over 8 devices") as caught:
        parts.check_lengths(objective, rules, found, ROWS)
    assert "config.mesh.context=4" in str(caught.value)


def test_cudnn_does_not_take_a_piece_of_the_queries():
    arrays = [jax.ShapeDtypeStruct((2, 16, 2, 8), "bfloat16")] * 3
    attend = lambda *arrays: context.attention(*arrays, kernel="cudnn")
    with rules_of(MeshConfig(1, context=4), "gather").bound():
        with pytest.raises(ConfigError, match="16 tokens over 4 devices") as caught:
            jax.eval_shape(attend, *arrays)
    assert caught.value.where == "config.model.attention" and "attention=auto" in caught.value.do
    with rules_of(MeshConfig(1, context=4), "ring").bound():  # which has a kernel of its own
        assert jax.eval_shape(attend, *arrays).shape == (2, 16, 2, 8)


@pytest.mark.slow
def test_visible_patches_that_do_not_divide_are_refused():
    """A masked autoencoder's encoder sees some of the patches only: their number counts, not that of all."""
    objective = cases.CASES["mae"]()
    found = states.layout(objective, ROWS)
    with pytest.raises(ConfigError, match="config.mesh.context"):
        parts.check_lengths(objective, rules_of(MeshConfig(1, context=4), "gather"), found, ROWS)


def compiled(devices, form, length=1024, rows=2):
    """The compiled loss and gradient of a small decoder in float32, and what it makes of tokens, as laid out by the rules."""
    model = DecoderConfig(width=64, depth=2, heads=4, kv_heads=2, positions="rotary", remat="full")
    objective = AutoregressiveConfig().build(model, cases.VOCABULARY, length, Precision())
    rules = rules_of(MeshConfig(1, context=devices), form)
    batch = {"tokens": np.ones((rows, length + 1), np.int32), "valid": np.ones(rows, bool)}

    def loss(params):
        with rules.bound():
            keys = objective.row_keys(jax.random.key(0), batch)
            seen = objective.observe_rows(keys, batch, 0)
            return objective.encode(params, {}, seen, keys, 0, train=True).totals["nll"]

    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rules.replicated())
    params = jax.tree.map(place, jax.eval_shape(lambda: axes.unbox(objective.init(jax.random.key(0), batch))))
    return jax.jit(jax.value_and_grad(loss)).lower(params).compile()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["gather", "ring"])
def test_memory_falls_with_the_devices(form):
    """Of gathering: the keys and values of all stay; a ring has a share of everything, and of scores a share of a share."""
    with jax.enable_x64(False):
        programs = {devices: compiled(devices, form) for devices in (1, 2, 4, 8)}
    mebibytes = {devices: made.memory_analysis().temp_size_in_bytes / 2**20 for devices, made in programs.items()}
    print(
        f"{form}: MiB of temporaries on each of so many devices", {n: round(size, 2) for n, size in mebibytes.items()}
    )
    assert mebibytes[8] < 1.1 * mebibytes[1] / 8 if form == "ring" else mebibytes[8] < mebibytes[2] / 3
    text = programs[8].as_text()
    gathers = set(re.findall(r"= (\S+?)\{\S* all-gather(?:-start)?\(", text))
    assert gathers == (set() if form == "ring" else {"f32[2,1024,2,16]"})
    assert form == "gather" or " collective-permute" in text


def test_activations_are_split():
    """What comes out of the blocks lies by rows and by tokens, not whole on each device."""
    objective, rules = OBJECTIVES["causal"](), rules_of(MESHES["data-tensor-context"], "gather")
    params = axes.unbox(objective.init(jax.random.key(0), cases.make_batch(objective, ROWS)))

    def hidden(params, tokens):
        with rules.bound():
            x = objective.model.apply({"params": params}, tokens, method="embed")
            return objective.model.apply({"params": params}, x, method="blocks")

    tokens = np.ones((ROWS, LENGTH), np.int32)
    made = jax.jit(hidden).lower(params, tokens).compile()
    assert tuple(made.output_shardings.spec) == ("data", "context")
