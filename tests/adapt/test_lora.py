"""LoRA and DoRA: where they stand, what they start as, how they are merged, and what dropout does to them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapt.subjects import (
    BERT,
    GPT2,
    LENGTH,
    LLAMA,
    ROWS,
    T5,
    TOKENS,
    WIDTH,
    built,
    initial,
    logits,
    noisy,
    shapes,
    trained,
)

from pretrainx.adapt.adapter import AdapterConfig
from pretrainx.adapt.lora import LoraConfig
from pretrainx.core import axes, paths
from pretrainx.core.errors import ConfigError
from pretrainx.models.layers import Precision
from pretrainx.objectives.autoregressive import AutoregressiveConfig
from pretrainx.training import state as states

ALL = LoraConfig(rank=3, targets=".*")
close = lambda a, b, tolerance=1e-11: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def test_count_and_place():
    """Rank x (inputs + outputs) for each target; the base's own leaves are frozen."""
    objective = LoraConfig(rank=3, targets=".*attention/(query|out)|.*/up").wrap(built(GPT2))
    count, found = trained(objective)
    assert count == 2 * 3 * ((WIDTH + WIDTH) * 2 + WIDTH + 4 * WIDTH)
    assert shapes(objective)["layers/attention/out/lora_a"] == (2, 3, 4, 3)
    assert found == {
        f"layers/{place}/lora_{side}" for place in ("attention/query", "attention/out", "mlp/up") for side in "ab"
    }


@pytest.mark.parametrize("config", [GPT2, *(pytest.param(c, marks=pytest.mark.slow) for c in (LLAMA, BERT))])
@pytest.mark.parametrize("dora", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["lora", "dora"])
def test_identity_then_merged(config, dora):
    """At first the base exactly; with updates the same as the merged kernels in the base; unmerged again as before."""
    inner = built(config)
    objective = replace(ALL, dora=dora).wrap(inner)
    params = initial(objective)
    _, base = paths.split(params, objective.owns)
    close(logits(objective, params), logits(inner, base), 1e-13 if dora else 0)
    params = noisy(params)
    unwrapped, merged = objective.merged(params)
    assert unwrapped == inner and {path for path, _ in paths.leaves(merged)} == set(shapes(inner))
    wanted = logits(objective, params)
    close(logits(inner, merged), wanted)
    assert np.abs(wanted - logits(inner, paths.split(params, objective.owns)[1])).max() > 1e-2
    if dora:
        with pytest.raises(ValueError, match="DoRA cannot be unmerged"):
            objective.unmerged(merged, params)
    else:
        jax.tree.map(close, objective.unmerged(merged, params), params)


@pytest.mark.slow
@pytest.mark.rotated
def test_effective_is_merged_through_wrappers_and_has_a_gradient():
    objective = AdapterConfig("pfeiffer", 2).wrap(ALL.wrap(built(GPT2)))
    params = noisy(initial(objective))
    effective = objective.effective(params)
    own, _ = paths.split(params, lambda path: "adapter_" in path)
    merged = objective.inner.merged(paths.split(params, lambda path: "adapter_" not in path)[0])[1]
    assert own and jax.tree.structure(effective) == jax.tree.structure(merged)
    jax.tree.map(np.testing.assert_array_equal, effective, merged)
    total = lambda params: objective.effective(params)["layers"]["mlp"]["up"]["kernel"].sum()
    found = jax.grad(total)(params)["layers"]["mlp"]["up"]
    a = params["layers"]["mlp"]["up"]["lora_a"]
    close(found["lora_b"], np.broadcast_to(16 / 3 * a.sum(1)[..., None], found["lora_b"].shape))
    assert np.abs(found["lora_a"]).max() > 0 and (found["kernel"] == 1).all()


@pytest.mark.slow
@pytest.mark.rotated
def test_merging_rounds_once():
    """Into bfloat16 kernels from a float32 sum: the nearest number to W + A B."""
    inner = AutoregressiveConfig().build(GPT2, built(GPT2).vocabulary, LENGTH, Precision("bfloat16", "bfloat16"))
    objective = ALL.wrap(inner)
    params = noisy(initial(objective))
    params = paths.map_leaves(lambda path, x: x.astype("float32" if objective.owns(path) else "bfloat16"), params)
    one, merged = params["layers"]["mlp"]["up"], objective.merged(params)[1]["layers"]["mlp"]["up"]["kernel"]
    wanted = np.asarray(one["kernel"], np.float64) + 16 / 3 * np.asarray(one["lora_a"], np.float64) @ one["lora_b"]
    assert merged.dtype == jnp.bfloat16
    np.testing.assert_array_equal(merged, jnp.asarray(wanted, jnp.float32).astype(jnp.bfloat16))


def test_a_frozen_base_may_be_narrow():
    """What is trained is stored in float32 beside kernels in bfloat16."""
    inner = AutoregressiveConfig().build(GPT2, built(GPT2).vocabulary, LENGTH, Precision("bfloat16", "bfloat16"))
    for path, leaf in paths.leaves(states.layout(LoraConfig(dora=True).wrap(inner), 2).params):
        assert leaf.dtype == (jnp.float32 if "lora_" in path else jnp.bfloat16), path


def test_scale():
    assert LoraConfig(4, 16).scale == 4 and LoraConfig(4, 16, rslora=True).scale == 8


def test_magnitudes_are_those_of_what_was_restored():
    """|W| of each output's column after init_from; those of an earlier run with DoRA stay."""
    objective = replace(ALL, dora=True).wrap(built(GPT2))
    batch, key = states.example_batch(objective, 2), jax.random.key(0)
    params = jax.jit(lambda key: objective.init(key, batch))(key)
    scaled = lambda path, leaf: leaf.replace_boxed(leaf.value * 3) if path.endswith("kernel") else leaf
    restored = paths.map_leaves(scaled, params)
    found = axes.unbox(objective.start(key, restored, batch)[0])["layers"]["attention"]["out"]
    close(found["lora_magnitude"], np.sqrt(np.square(found["kernel"]).sum((1, 2))))
    close(found["kernel"], 3 * axes.unbox(params)["layers"]["attention"]["out"]["kernel"])
    moved = paths.map_leaves(
        lambda path, leaf: leaf.replace_boxed(leaf.value + 7.0) if path.endswith("magnitude") else leaf, restored
    )
    kept = axes.unbox(objective.start(key, moved, batch)[0])["layers"]["attention"]["out"]
    assert (kept["lora_magnitude"] == 7.0).all()


@pytest.mark.slow
@pytest.mark.rotated
def test_dropout_is_of_the_update_and_of_the_row():
    """In training only; a row's draws do not depend on the rows beside it."""
    objective = LoraConfig(rank=3, targets=".*", dropout=0.5).wrap(built(GPT2))
    params = noisy(initial(objective))
    batch = {"tokens": np.pad(TOKENS, [(0, 0), (1, 0)], constant_values=3), "valid": np.ones(ROWS, bool)}
    keys = objective.row_keys(jax.random.key(5), batch)

    def losses(train, rows=ROWS):
        part = {name: jnp.asarray(array[:rows]) for name, array in batch.items()}
        observation = objective.observe_rows(keys[:rows], part, 0)
        return np.asarray(objective.encode(params, {}, observation, keys[:rows], 0, train=train).per_row["nll"])

    seen, whole = losses(True), losses(False)
    close(losses(True, 1), seen[:1])
    assert np.abs(seen - whole).min() > 1e-3
    _, base = paths.split(params, objective.owns)
    close(
        whole,
        objective.inner.encode(
            objective.merged(params)[1], {}, objective.observe_rows(keys, batch, 0), keys, 0, train=False
        ).per_row["nll"],
    )


def test_what_matches_nothing_is_refused():
    objective = LoraConfig(targets="query").wrap(built(T5))
    with pytest.raises(ConfigError, match="no dense layer of the model matches 'query'") as caught:
        states.layout(objective, 2)
    assert caught.value.where == "config.adapt.targets" and "attention/query" in caught.value.why
    with pytest.raises(ConfigError, match="not a regular expression"):
        LoraConfig(targets="(query")


def test_one_inside_another_is_refused():
    twice = ALL.wrap(ALL.wrap(built(GPT2)))
    with pytest.raises(ConfigError, match="Lora stands around another one"):
        states.layout(twice, 2)
