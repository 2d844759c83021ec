"""A mixture of experts on meshes whose axis `expert` divides the experts, and rows for all else: as on one device."""

import functools
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from contract.cases import CONFIG, EXPERTS, LLAMA, VOCABULARY, difference, host, make_batch, prepare, text
from pretrainx.core import axes, paths
from pretrainx.models.decoder import Decoder
from pretrainx.models.experts import Experts
from pretrainx.models.layers import Precision, Spread
from pretrainx.objectives.autoregressive import Autoregressive
from pretrainx.parallel import machines
from pretrainx.parallel.compilation import uncached
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from toys.steps import QUICK, compiled

STEPS = 2
SMALL = replace(LLAMA, dropout=0.0, mlp_width=64)
FORMS = {
    "capacity": replace(SMALL, experts=EXPERTS),
    "ragged": replace(SMALL, experts=replace(EXPERTS, dispatch="ragged")),
    # more devices than choices, and none to spare: a device sends the token of a row to one place at most
    "ragged, one": replace(SMALL, experts=replace(EXPERTS, dispatch="ragged", chosen=1, normalised=False)),
    "plain": CONFIG,
}
MESHES = {
    "data-2-expert-4": MeshConfig(2, expert=4),
    "fsdp-2-tensor-2-expert-2": MeshConfig(1, 2, 2, expert=2),
    "tensor-2-context-2-expert-2": MeshConfig(1, 1, 2, context=2, expert=2),
    "data-2-fsdp-2-tensor-2": MeshConfig(2, 2, 2),
    "data-2-expert-2-stage-2": MeshConfig(2, expert=2, stage=2),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.lru_cache(maxsize=8)
def trained(form, mesh=MeshConfig(1), microbatches=1):
    """(run, states, metrics) of a few steps."""
    run = prepare(form, mesh, microbatches, objective=text(Autoregressive, FORMS[form], segmented=True))
    state, seen, metrics = run.state, [host(run.state)], []
    for step in range(STEPS):
        state, measured = run.step(state, run.place(make_batch(run.objective, seed=step)))
        seen.append(host(state))
        metrics.append(host(measured))
    return replace(run, state=state), seen, metrics


def check(form, mesh, microbatches=1):
    _, one, told = trained(form)
    run, other, measured = trained(form, MESHES[mesh], microbatches)
    for step in range(STEPS):
        gap, where = difference(told[step], measured[step])
        assert gap < 1e-9, f"metrics of step {step}: {gap} at {where}"
        gap, where = difference(one[step + 1], other[step + 1])
        assert gap < 1e-9, f"state after step {step}: {gap} at {where}"
    return run, told[0]


def test_a_layer_on_a_mesh():
    """Values and gradients of one device, split over experts and their inner width; tokens travel to their experts."""
    module = Experts(FORMS["capacity"], Spread(*[0.3] * 5), Precision("float64", "float64"))
    x = jax.random.normal(jax.random.key(0), (4, 12, SMALL.width), float)
    params = axes.unbox(jax.jit(module.init)(jax.random.key(1), x)["params"])
    rules = Rules(make_mesh(MeshConfig(1, tensor=2, expert=2), jax.devices()[:4]))

    def loss(params, x):
        y, routing = module.apply({"params": params}, x)
        return jnp.sin(y).sum() + routing.balance.sum(), (y, routing)

    def on_the_mesh(params, x):
        with rules.bound():
            return loss(params, jax.lax.with_sharding_constraint(x, rules.rows(x.shape)))

    one, program = (
        jax.jit(jax.value_and_grad(each, (0, 1), has_aux=True)).lower(params, x) for each in (loss, on_the_mesh)
    )
    one, program = one.compile(), program.compile()
    expected = one(params, x)
    gap, where = difference(expected, program(params, x))
    assert gap < 1e-12 and expected[0][1][1].dropped.max() > 0, f"{gap} at {where}"
    assert " all-to-all(" in program.as_text() and " all-to-all(" not in one.as_text()


@pytest.mark.slow
@pytest.mark.rotated
def test_experts_on_a_mesh():
    """Tokens are dropped, both further terms count, kernels lie by expert, and rows change places for them only."""
    run, told = check("capacity", "fsdp-2-tensor-2-expert-2")
    assert told["metric/dropped"] > 0.05 and told["term/balance"] > 0.1 and told["term/router_z"] > 0.01
    kernel = dict(paths.leaves(run.state.params))["layers/mlp/up/kernel"]
    assert kernel.shape == (2, 4, 32, 64) and tuple(kernel.sharding.spec) == (None, "expert", "fsdp", "tensor")
    with jax.enable_x64(True):
        text = run.step.lower(run.state, run.place(make_batch(run.objective))).compile().as_text()
    assert " all-to-all(" in text, "what is split by row comes to be split by expert"
    assert not re.search(r"\[16,12,.*all-gather\(", text), "no batch of 16 rows is gathered"


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("form", ["capacity", "ragged", "ragged, one"])
def test_experts_on_every_mesh(form, mesh):
    """With two microbatches."""
    _, told = check(form, mesh, 2)
    assert (told["metric/dropped"] > 0) == (form == "capacity")


@pytest.mark.slow
@pytest.mark.rotated
def test_the_axis_divides_rows_of_other_models():
    """A model without experts takes the axis as one more of data (a run refuses it, since it is never meant)."""
    run = prepare("plain", MeshConfig(2, expert=4), objective=text(Autoregressive, CONFIG))
    one = prepare("plain", objective=text(Autoregressive, CONFIG))
    found = []
    for each in (one, run):
        batch = each.place(make_batch(each.objective))
        assert batch["tokens"].addressable_shards[0].data.shape[0] == (16 if each is one else 2)
        found.append(host(each.step(each.state, batch)[1]))
    assert difference(*found)[0] < 1e-9


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.xdist_group("libtpu")
@pytest.mark.parametrize("form", ["capacity", "ragged"])
@uncached()
def test_a_tpu_exchanges_tokens(form):
    """The train step compiles for eight TPU chips that are not here; ragged, tokens travel in ragged all-to-alls."""
    pytest.importorskip("libtpu")
    devices = machines.described(machines.parse("v5e:2x4"))
    rules = Rules(make_mesh(MeshConfig(1, 2, 1, expert=4), devices))
    with jax.enable_x64(False):
        config = replace(SMALL, width=128, head_dim=64, mlp_width=256, attention="xla", experts=FORMS[form].experts)
        model = Decoder(config, VOCABULARY.size, 256, Precision("float32", "bfloat16"))
        objective = Autoregressive(model, VOCABULARY, 256)
        text = compiled(objective, rules, 16, QUICK).as_text()
    assert ("ragged-all-to-all" in text) == (form == "ragged")
    assert " all-to-all" in text or form == "ragged"
