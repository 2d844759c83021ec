"""The contract suite: every objective x every check. The matrix is printed; a blank in it needs a reason in matrix.py."""

import jax
import numpy as np
import pytest

from contract import tasks
from contract.cases import CASES, LENGTH, ROWS, STEPS, bits, difference, gradients, host, make_batch, trace
from contract.pictures import FIGURES, OF_MICROBATCHES
from pretrainx.core import paths, random
from pretrainx.parallel.mesh import MeshConfig
from pretrainx.runs.recipe import OBJECTIVES
from pretrainx.training import state as states

TOLERANCE = 1e-9
CUBE = MeshConfig(2, 2, 2)

# Of networks without transformer blocks, one that is spread both ways.
KERNELS = ("second/kernel", "convolution/kernel", "kernel")

# A field of the state that invalid rows may change.
INVALID_MAY_CHANGE = {"queue": "extras", "mixture(autoregressive, queue)": "extras"}
# True gradient zero: softmax ignores what is added to all scores of a query.
ZERO_BY_ALGEBRA = ("key/bias",)


def is_wrapper(objective):
    return hasattr(objective, "inner")


# Second wrappers and models of what others cover: only CI runs them.
ONLY_CI = ("ewc(clip)", "ewc(lora(autoregressive))", "l2_sp(mixture_of_denoisers)", "distill(autoregressive)")
ONLY_CI += ("masked_lm, modern gathered", "lora(toy coca)", "dora(clip)")
ONLY_CI += ("adapter(autoregressive)", "adapter(span_corruption)", "prompt(masked_lm)", "prompt(span_corruption)")
ONLY_CI += ("prompts(autoregressive)", "prefix(masked_lm)", "ia3(span_corruption)", "linear_probe(classification)")
ONLY_CI += ("lora(mixture(clip, codebook))", "mixture_of_denoisers", "toy coca")
ONLY_CI += ("span_corruption, decoder", "mixture_of_denoisers, decoder")
ONLY_CI += ("autoregressive, experts", "prefix_lm, experts", "prompt(prefix_lm)", "prompt(autoregressive, experts)")
# Of pictures, the relatives of SimCLR with batch norm, MoCo, MAE and BEiT.
RELATIVES = ("moco, shuffled groups", "moco_v3", "byol", "simsiam", "dino", "dvae", "vq_vae", "classification")
RELATIVES += ("moco, batch norm", "moco_v3, batch norm", "byol, batch norm", "simsiam, batch norm")
ONLY_CI += ("simclr", "simclr, batch norm", *RELATIVES)
ONLY_CI += tasks.ONLY_CI
ONLY_CI += ("clip, ring", "clip, batch norm", "siglip", "coca", "coca, shared", "coca, parallel")


# Toys and relatives whose other checks are plain; a second mesh costs the most, and CI has it.
MESH_ONLY_CI = (*ONLY_CI, "denoising", "prefix_lm", "beit", "toy clip", "queue", "mixture(autoregressive, queue)")
MESH_ONLY_CI += ("autoregressive, llama packed", "lora(autoregressive)", "sequence_classification")


def param(name, *values, only_ci=ONLY_CI):
    slow = [pytest.mark.slow] * (name in only_ci) + [pytest.mark.rotated] * (name in ONLY_CI)
    return pytest.param(name, *values, marks=[pytest.mark.xdist_group(name), *slow])


each_case = pytest.mark.parametrize("case", list(map(param, CASES)))


@each_case
def test_spec(case):
    """The batch is what batch_spec says; equal configurations are equal and hash alike; row r alone = row r in a batch."""
    objective, again = CASES[case](), CASES[case]()
    assert objective == again and hash(objective) == hash(again)
    batch = make_batch(objective)
    spec = objective.batch_spec(ROWS)
    assert jax.tree.map(lambda s: (s.shape, s.dtype), spec) == jax.tree.map(lambda x: (x.shape, x.dtype), batch)

    def observed(rows):
        part = jax.tree.map(lambda x: x[: int(len(x) * rows / ROWS)], batch)
        keys = objective.row_keys(random.stream(0, random.OBSERVE, 5), part)
        return jax.jit(objective.observe_rows)(keys, part, 5)

    whole, few = observed(ROWS), observed(4)
    gap, where = difference(jax.tree.map(lambda x, y: x[: len(y)], whole, few), few)
    assert gap < 1e-12, f"{where}: {gap}"  # what is drawn is the same; pixels are computed, in float64


@each_case
def test_one_trace(case):
    assert trace(case).compiled == 1


@each_case
def test_gradients(case):
    """Every trained leaf has a gradient that is finite and somewhere not zero."""
    for path, gradient in paths.leaves(gradients(trace(case))):
        assert np.isfinite(gradient).all(), path
        size = np.abs(gradient).max()
        assert size > 1e-7 or path.endswith(ZERO_BY_ALGEBRA), f"{path}: {size}"


@each_case
def test_frozen(case):
    """Frozen leaves do not move and have no optimizer state; the trained ones all move."""
    seen = trace(case).states
    assert bits(seen[0].frozen) == bits(seen[-1].frozen)
    moments = dict(paths.leaves(seen[-1].opt_state["adam"].mu))
    assert set(moments) == {path for path, _ in paths.leaves(seen[-1].params)}
    for (path, old), (_, new) in zip(paths.leaves(seen[0].params), paths.leaves(seen[-1].params), strict=True):
        assert not np.array_equal(old, new), path


@each_case
def test_invalid_rows(case):
    """Garbage in an invalid row changes neither loss nor gradient nor extras."""
    reference = trace(case)
    run = reference.run

    def after(garbage):
        batch = make_batch(run.objective)
        for part in [batch] if "valid" in batch else batch.values():
            for name in {"tokens", "other", "image"} & part.keys():
                row = part[name][2]
                row[:] = np.resize(garbage(row.shape[0]), row.shape)
        state = jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), reference.states[0], run.state)
        state, metrics = run.step(state, run.place(batch))
        return host(state), host(metrics)

    (one, seen), (other, also) = after(lambda width: 9), after(lambda width: np.arange(width) + 20)
    assert seen["loss"] == also["loss"]
    for field in ("params", "opt_state", "extras", "ema"):
        if field == INVALID_MAY_CHANGE.get(case):
            continue
        assert bits(getattr(one, field)) == bits(getattr(other, field)), field


@each_case
def test_skipped_step(case):
    """A NaN in the parameters: every leaf but `step` and `guard` stays bit-equal."""
    reference = trace(case)
    poisoned = reference.states[2]
    path = next(path for path, leaf in paths.leaves(poisoned.full_params()) if path.endswith("kernel"))
    poison = lambda p, leaf: np.full_like(leaf, np.nan) if p == path else leaf
    poisoned = poisoned.replace(
        params=paths.map_leaves(poison, poisoned.params), frozen=paths.map_leaves(poison, poisoned.frozen)
    )
    state = jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), poisoned, reference.run.state)
    state, metrics = reference.run.step(state, reference.run.place(make_batch(reference.run.objective)))
    state = host(state)
    for field in ("params", "frozen", "opt_state", "extras", "ema"):
        assert bits(getattr(state, field)) == bits(getattr(poisoned, field)), field
    assert state.step == poisoned.step + 1
    assert (state.guard["skipped"], state.guard["streak"], state.guard["accepted"]) == (1, 1, 2)
    assert metrics["skipped"] == 1


@pytest.mark.parametrize("case", [param(name, only_ci=MESH_ONLY_CI) for name in CASES])
def test_mesh_and_accumulation(case):
    """Mesh (2, 2, 2) with two microbatches = one device with one: losses, gradients, every leaf of six states.

    Statistics of BatchNorm are those of a microbatch: with them, both have as many.
    """
    one, cube = trace(case, microbatches=2 if case in OF_MICROBATCHES else 1), trace(case, CUBE, 2)
    for step in range(STEPS):
        gap, where = difference(without_figures(one.metrics[step]), without_figures(cube.metrics[step]))
        assert gap < TOLERANCE, f"metrics of step {step}: {gap} at {where}"
        gap, where = difference(one.states[step + 1], cube.states[step + 1])
        assert gap < TOLERANCE, f"state after step {step}: {gap} at {where}"
    assert_sharded(cube.run)


def without_figures(metrics):
    return {name: value for name, value in metrics.items() if not name.endswith(FIGURES)}


def assert_sharded(run):
    """Parameters and moments are spread, not copied: at most 1.1 x their share of the bytes on a device."""
    mesh = run.options.rules.mesh
    ways = mesh.shape["fsdp"] * mesh.shape["tensor"]
    kernels = dict(paths.leaves(run.state.full_params()))
    names = ("layers/mlp/up/kernel", "out/kernel", *KERNELS)
    kernel = next(kernels[path] for name in names for path in kernels if path.endswith(name))
    assert tuple(kernel.sharding.spec)[-2:] == ("fsdp", "tensor")
    leaves = jax.tree.leaves((run.state.full_params(), run.state.opt_state))
    total = sum(leaf.nbytes for leaf in leaves)
    on_device = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    # The toys' few small leaves (a prompt, a temperature, rank-4 factors) are no model: the bound is for the big ones.
    assert on_device <= 1.1 * total / ways + 8192, f"{on_device} bytes on a device of {total}"


@pytest.mark.parametrize("case", [param(name) for name in CASES if is_wrapper(CASES[name]())])
def test_base_leaves(case):
    """A wrapper only adds: the base's leaves have the values that the inner objective alone gives them."""
    objective = CASES[case]()
    base, key = objective.inner, jax.random.key(0)
    alone, wrapped = (dict(paths.leaves(o.init(key, states.example_batch(o, 4)))) for o in (base, objective))
    assert set(alone) <= set(wrapped)
    assert all(np.array_equal(leaf.value, wrapped[path].value) for path, leaf in alone.items())


@pytest.mark.xdist_group("autoregressive")
def test_collectives():
    """The compiled step of mesh (2, 2, 2) talks between devices, and never gathers the batch: rows stay where they are."""
    run = trace("autoregressive", CUBE, 2).run
    batch = run.place(make_batch(run.objective))
    with jax.enable_x64(True):
        lines = run.step.lower(run.state, batch).compile().as_text().splitlines()
    gathers = [line for line in lines if " all-gather(" in line]
    assert gathers and any(" all-reduce(" in line for line in lines)
    tokens = [line for line in gathers if line.split("=")[1].strip().startswith("s32[") and f",{LENGTH + 1}]" in line]
    assert not tokens, tokens


MESHES = {
    "fsdp-4-tensor-2": (MeshConfig(1, 4, 2), 2),
    "one-device-4": (MeshConfig(1), 4),
    "data-8": (MeshConfig(8), 1),
    "fsdp-2-tensor-2-context-2": (MeshConfig(1, 2, 2, context=2), 1),
}
# One of each form: causal, bidirectional, encoder and decoder, coupled rows, a queue. All lie on (2, 2, 2) in the check above.
FORMS = ("autoregressive", "masked_lm", "span_corruption", "simclr", "moco")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "mesh"),
    [param(name, mesh) for name in FORMS for mesh in MESHES],
)
def test_every_mesh_and_accumulation(case, mesh):
    """One objective of each form on all meshes."""
    layout, microbatches = MESHES[mesh]
    one = trace(case, microbatches=microbatches if case in OF_MICROBATCHES else 1)
    other = trace(case, layout, microbatches)
    for step in range(STEPS):
        gap, where = difference(without_figures(one.metrics[step]), without_figures(other.metrics[step]))
        assert gap < TOLERANCE, f"metrics of step {step}: {gap} at {where}"
    gap, where = difference(one.states[-1], other.states[-1])
    assert gap < TOLERANCE, f"{gap} at {where}"


def test_every_registered_objective_is_under_contract():
    assert set(OBJECTIVES) <= set(CASES)
