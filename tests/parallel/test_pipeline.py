"""A stack of layers in a pipeline: what a plain scan makes of it, to rounding, and the traffic that it was made for."""

import functools
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contract.cases import (
    BERT,
    CASES,
    CONFIG,
    LLAMA,
    ROWS,
    T5,
    VOCABULARY,
    bits,
    built,
    difference,
    host,
    make_batch,
    prepare,
    text,
)
from pretrainx.adapt.lora import LoraConfig
from pretrainx.adapt.prefix import PrefixConfig
from pretrainx.core import paths
from pretrainx.models.decoder import Decoder
from pretrainx.models.experts import ExpertsConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.autoregressive import Autoregressive
from pretrainx.objectives.masked_lm import MaskedLmConfig
from pretrainx.objectives.span_corruption import SpanCorruptionConfig
from pretrainx.parallel import machines
from pretrainx.parallel.compilation import uncached
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.pipeline import bubble, through_stages
from pretrainx.parallel.rules import Rules
from pretrainx.parallel.sharding import ShardingConfig
from pretrainx.training import state as states
from pretrainx.training.checkpoint import Checkpoints
from pretrainx.training.restore import restore_step
from toys.steps import QUICK, lowered

TOLERANCE = 1e-9
slow = [pytest.mark.slow, pytest.mark.rotated]


@pytest.fixture(autouse=True)
def float64(monkeypatch):
    monkeypatch.setattr(cross_entropy, "WORTHWHILE_TOKENS", 1)  # the loss of tiny rows is made in chunks too
    with jax.enable_x64(True):
        yield


# The schedule by itself.

LAYERS, ROWS_ALONE, WIDTH = 8, 8, 3


def layers(params, x, numbers, around):
    """Layers that read their number, what each row has of its own, what pairs of rows share and what all do."""

    def layer(x, given):
        kernel, number = given
        shared = jnp.repeat(around["pairs"], x.shape[0] // around["pairs"].shape[0], 0)
        noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, number), (WIDTH,)))(around["keys"])
        x = jnp.sin(x @ kernel + around["own"] + shared + around["all"] + noise)
        return x, x.sum(-1) * number

    return jax.lax.scan(layer, x, (params["kernel"], numbers))


def alone(key=0):
    keys = jax.random.split(jax.random.key(key), 6)
    draw = lambda key, *shape: jax.random.normal(key, shape, float)
    around = {"own": draw(keys[2], ROWS_ALONE, WIDTH), "pairs": draw(keys[3], ROWS_ALONE // 2, WIDTH)}
    around |= {"all": draw(keys[4], 1, WIDTH)}
    return {"kernel": draw(keys[0], LAYERS, WIDTH, WIDTH)}, draw(keys[1], ROWS_ALONE, WIDTH), around


def loss_of(run):
    """(loss, what layers say) of (params, x, around), and its gradients."""

    def loss(params, x, around):
        keys = jax.random.split(jax.random.key(9), ROWS_ALONE)
        y, said = run(params, x, jnp.arange(LAYERS), around | {"keys": keys})
        return jnp.sin(3 * y).sum() + jnp.cos(said).sum(), (y, said)

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))


def rules_of(sharding=ShardingConfig(), **sizes):
    mesh = MeshConfig(**{"data": 1, **sizes})
    return Rules(make_mesh(mesh, jax.devices()[: np.prod(list(sizes.values()))]), config=sharding)


def assert_schedule(sharding, **sizes):
    given = alone()
    with rules_of(sharding, **sizes).bound():
        piped = loss_of(functools.partial(through_stages, layers))(*given)
    gap, where = difference(piped, loss_of(layers)(*given))
    assert gap < 1e-12, f"{gap} at {where}"


def test_schedule():
    """Two stages, two rounds, four pieces: values and every gradient are those of the plain scan."""
    assert_schedule(ShardingConfig(microbatches=4, rounds=2), stage=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stages", "microbatches", "rounds"),
    [(2, 0, 1), (4, 2, 1), (4, 8, 1), (8, 1, 1), (2, 2, 4), (4, 0, 2), (4, 8, 2), (2, 8, 2)],
)
def test_schedules(stages, microbatches, rounds):
    assert_schedule(ShardingConfig(microbatches=microbatches, rounds=rounds), stage=stages)


@pytest.mark.slow
def test_schedule_beside_data():
    assert_schedule(ShardingConfig(), data=2, stage=2)
    assert_schedule(ShardingConfig(rounds=2), fsdp=2, stage=4)


def test_bubble():
    assert bubble(4, 4) == 3 / 7 and bubble(4, 4, rounds=2) == 3 / 11 and bubble(1, 4) == 0


# Models in it.

OBJECTIVES = {
    "decoder": lambda: text(Autoregressive, replace(CONFIG, depth=8)),
    "packed": lambda: text(Autoregressive, replace(LLAMA, depth=4, remat="none"), segmented=True),
    "experts": lambda: text(Autoregressive, replace(LLAMA, depth=4, experts=ExpertsConfig(count=4))),
    "encoder": lambda: built(MaskedLmConfig(selection="exact", gather=False), replace(BERT, depth=4), length=16),
    "encoder-decoder": lambda: built(SpanCorruptionConfig(), replace(T5, depth=4)),
    "mae": CASES["mae"],
    "clip": CASES["clip"],
    "lora": lambda: LoraConfig(dropout=0.2, dora=True).wrap(OBJECTIVES["decoder"]()),
    "prefix": lambda: PrefixConfig(length=3).wrap(OBJECTIVES["decoder"]()),
}


@functools.lru_cache(maxsize=2)
def stepped(name, mesh=MeshConfig(1), sharding=ShardingConfig(), microbatches=1, steps=2):
    """(the run, its states on the host, its metrics)"""
    run = prepare(name, mesh, microbatches, objective=OBJECTIVES[name](), sharding=sharding)
    seen, metrics = [host(run.state)], []
    for seed in range(steps):
        run.state, measured = run.step(run.state, run.place(make_batch(run.objective, seed=seed)))
        seen.append(host(run.state))
        metrics.append(host(measured))
    return run, seen, metrics


def assert_equal_steps(name, mesh, sharding=ShardingConfig(), microbatches=1):
    (_, plain, metrics), (run, piped, measured) = stepped(name), stepped(name, mesh, sharding, microbatches)
    for step, (one, other) in enumerate(zip(metrics, measured, strict=True)):
        gap, where = difference(one, other)
        assert gap < TOLERANCE, f"metrics of step {step}: {gap} at {where}"
    gap, where = difference(plain, piped)
    assert gap < TOLERANCE, f"states: {gap} at {where}"
    assert " collective-permute(" in compiled(run)
    return run


def compiled(run):
    return run.step.lower(run.state, run.place(make_batch(run.objective))).compile().as_text()


FOUR = MeshConfig(1, stage=4)
TWO = MeshConfig(1, stage=2)
CASES_OF_MODELS = {
    "decoder": ("decoder", FOUR),
    "decoder, data 2 x tensor 2": ("decoder", MeshConfig(2, 1, 2, stage=2)),
    "decoder, fsdp 2": ("decoder", MeshConfig(1, 2, stage=4)),
    "decoder, circular": ("decoder", FOUR, ShardingConfig(rounds=2)),
    "decoder, accumulated": ("decoder", TWO, ShardingConfig(microbatches=4), 2),
    "packed": ("packed", TWO),
    "packed, context 2": ("packed", MeshConfig(1, context=2, stage=2)),
    "packed, ring 2": ("packed", MeshConfig(1, context=2, stage=2), ShardingConfig(context="ring")),
    "experts": ("experts", FOUR),
    "experts, expert 2": ("experts", MeshConfig(1, expert=2, stage=2), ShardingConfig(rounds=2)),
    "encoder": ("encoder", TWO, ShardingConfig(rounds=2)),
    "encoder-decoder": ("encoder-decoder", MeshConfig(2, stage=2)),
    "mae": ("mae", TWO),
    "clip": ("clip", MeshConfig(2, stage=2)),
    "lora": ("lora", TWO, ShardingConfig(rounds=2)),
    "prefix": ("prefix", TWO),
}


@pytest.mark.parametrize("case", [pytest.param(name, marks=slow) for name in CASES_OF_MODELS])
def test_steps(case):
    """Loss, gradients and two updates, dropout and drop path on, equal those of one device."""
    assert_equal_steps(*CASES_OF_MODELS[case])


def gathered(text):
    """Shapes of what the program's all-gathers return."""
    returned = re.findall(r"= (.*?) all-gather(?:-start)?\(", text)
    return {tuple(map(int, shape.split(","))) for each in returned for shape in re.findall(r"\w+\[([\d,]+)\]", each)}


def shapes_of_layers(state):
    """Shapes of the stacks' leaves, and of one layer's share of them."""
    found = {leaf.shape for path, leaf in paths.leaves(state.full_params()) if path.split("/")[0] == "layers"}
    return found | {shape[1:] for shape in found} | {(1, *shape[1:]) for shape in found}


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1, 2])
def test_layers_stay_apart(rounds):
    """Parameters and moments lie over the stages, and no program gathers the layers; circular, each travels once a step."""
    run = prepare("decoder", FOUR, objective=OBJECTIVES["decoder"](), sharding=ShardingConfig(rounds=rounds))
    kernel = run.state.params["layers"]["mlp"]["up"]["kernel"]
    assert tuple(kernel.sharding.spec) == ("stage", None, None) and kernel.addressable_shards[0].data.shape[0] == 2
    of_layers = [
        leaf
        for tree in (run.state.params, run.state.opt_state["adam"].mu, run.state.opt_state["adam"].nu, run.state.ema)
        for leaf in jax.tree.leaves(tree["layers"])
    ]
    total = sum(leaf.nbytes for leaf in of_layers)
    assert sum(leaf.addressable_shards[0].data.nbytes for leaf in of_layers) == total // 4 > 0
    text = compiled(run)
    assert gathered(text) and not gathered(text) & shapes_of_layers(run.state), "layers are gathered over the stages"
    moved = len(re.findall(r" collective-permute(?:-start)?\(", text))
    # Of pieces two, there and back; of each leaf and the layers' numbers one for each (round, place) that has groups.
    leaves = len(jax.tree.leaves(run.state.params["layers"]))
    assert moved <= (2 if rounds == 1 else 2 + 4 * (2 * leaves + 1)), f"{moved} permutes"


@pytest.mark.slow
@pytest.mark.rotated
def test_goes_on_without_stages(tmp_path):
    """A checkpoint of four stages restored on one device: the same state to the bit, and the next step is that of one."""
    run, seen, _ = stepped("decoder", FOUR)
    checkpoints = Checkpoints(tmp_path, 2)
    assert checkpoints.save(run.state, {"config": {}, "data": {}, "wall": 1.0})
    checkpoints.close()
    one = prepare("decoder", objective=OBJECTIVES["decoder"]())
    wanted = states.abstract(one.objective, one.optimizer, one.options, one.found)
    restored = restore_step(tmp_path, 2, wanted, jax.jit(one.optimizer.init))
    assert bits(host(restored.state)) == bits(seen[-1])
    state, _ = one.step(restored.state, one.place(make_batch(one.objective, seed=2)))
    gap, where = difference(host(state), stepped("decoder", steps=3)[1][-1])
    assert gap < TOLERANCE, f"{gap} at {where}"


@pytest.mark.slow
@pytest.mark.xdist_group("libtpu")
@pytest.mark.parametrize("rounds", [1, 2])
@uncached()
def test_a_tpu_takes_it(rounds):
    """The train step in bfloat16 compiles for four TPU chips that are not here; pieces travel and layers are not gathered."""
    pytest.importorskip("libtpu")
    machine = machines.parse("v5e:2x2")
    machines.prepare(machine)
    rules = Rules(make_mesh(MeshConfig(2, stage=2), machines.described(machine)), config=ShardingConfig(rounds=rounds))
    with jax.enable_x64(False):
        config = replace(LLAMA, depth=4, width=128, head_dim=64, mlp_width=256, attention="xla", remat="full")
        objective = Autoregressive(
            Decoder(config, VOCABULARY.size, 256, Precision("float32", "bfloat16")), VOCABULARY, 256
        )
        state, step = lowered(objective, rules, ROWS)
        text = step.compile(compiler_options=QUICK).as_text()
    assert "collective-permute" in text
    assert not gathered(text) & shapes_of_layers(state), "layers are gathered over the stages"
