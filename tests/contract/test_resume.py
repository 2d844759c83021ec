"""Resume is bit-identical with every kind of extras, and what may change between two runs changes cleanly."""

import dataclasses

import jax
import numpy as np
import pytest

from contract.cases import BASES, CASES, bits, host, make_batch, prepare, trace
from pretrainx.core import paths
from pretrainx.core.errors import CheckpointError
from pretrainx.optim.optimizer import AdamWConfig, MuonConfig
from pretrainx.parallel.mesh import MeshConfig
from pretrainx.runs.recipe import InitConfig
from pretrainx.runs.starting_point import taken
from pretrainx.training import base, verify
from pretrainx.training import state as states
from pretrainx.training.checkpoint import Checkpoints
from pretrainx.training.restore import newest_whole, read_meta, restore_step

KINDS = ["queue", "toy clip", "codebook", "lora(toy coca)", "ewc(clip)", "mixture(autoregressive, queue)", "nnx guest"]
ADAPTED = ["dora(clip)", "adapter(autoregressive)", "prompt(autoregressive)", "prompts(autoregressive)"]
ADAPTED += ["prefix(masked_lm)", "ia3(span_corruption)", "linear_probe(classification)"]
PRESERVED = ["l2_sp(mixture_of_denoisers)", "distill(autoregressive)"]
KINDS += ADAPTED + PRESERVED
KINDS += ["moco", "moco, shuffled groups", "simclr, batch norm", "beit", "vq_vae", "dino"]
KINDS += ["moco_v3, batch norm", "byol, batch norm", "simsiam, batch norm"]
ONLY_CI = (
    *ADAPTED,
    *PRESERVED,
    "lora(toy coca)",
    "ewc(clip)",
    "mixture(autoregressive, queue)",
    "vq_vae",
    "moco, shuffled groups",
    "simclr, batch norm",
    "beit",
    "dino",
    "moco_v3, batch norm",
    "byol, batch norm",
    "simsiam, batch norm",
)
marks = lambda case: [pytest.mark.xdist_group(case)] + [pytest.mark.slow] * (case in ONLY_CI)
each_kind = pytest.mark.parametrize("case", [pytest.param(case, marks=marks(case)) for case in KINDS])


def started(run, directory):
    """What a run takes from the newest step in the directory."""
    wanted, axes = like(run), dict(run.found.params_axes)
    read = lambda step, meta: taken(directory, step, meta, wanted.full_params(), wanted.extras, axes, InitConfig())
    return newest_whole(directory, read)


def like(run):
    return states.abstract(run.objective, run.optimizer, run.options, run.found)


def placed(tree, run):
    return jax.tree.map(lambda leaf, to: jax.device_put(leaf, to.sharding), tree, like(run))


def save(run, state, directory, event=lambda kind, **facts: None, first=None):
    """Saves a state, without what DIR/base has where `first`, a state that the run began with, is given."""
    checkpoints = Checkpoints(directory, 2, event)
    if first is not None:
        checkpoints.keep_base(placed(first, run), run.objective.constants, {})
    assert checkpoints.save(placed(state, run), {"config": {}, "data": {}, "wall": 1.0})
    checkpoints.close()
    return checkpoints


def restore(run, directory, step=3):
    return restore_step(directory, step, like(run), jax.jit(run.optimizer.init))


def of_base(directory, step):
    """The paths of the leaves that a step leaves to DIR/base."""
    return {path for path, entry in read_meta(directory, step)["leaves"].items() if entry.get("base")}


@each_kind
def test_resume_is_bit_identical(case, tmp_path):
    """Saved after step 3 and restored, steps 4 to 6 are those of the unbroken run, in every leaf; what it never changes comes
    from DIR/base, which was stored before the first."""
    unbroken = trace(case)
    run, directory = unbroken.run, tmp_path / "checkpoints"
    save(run, unbroken.states[3], directory, first=unbroken.states[0])
    constant = base.constant_paths(run.state, run.objective.constants)
    assert of_base(directory, 3) == constant and (tmp_path / "base").exists() == bool(constant)
    restored = restore(run, directory)
    assert not restored.lines
    state = restored.state
    assert bits(host(state)) == bits(unbroken.states[3])
    for step in range(3, 6):
        state, _ = run.step(state, run.place(make_batch(run.objective, seed=step)))
    assert bits(host(state)) == bits(unbroken.states[6])


@pytest.mark.xdist_group("queue")
def test_another_mesh(tmp_path):
    """Saved on one device, restored bit-equal on eight: the checksum proves the resharding."""
    unbroken = trace("queue")
    save(unbroken.run, unbroken.states[3], tmp_path)
    cube = prepare("queue", MeshConfig(2, 2, 2), 2)
    state = restore(cube, tmp_path).state
    assert bits(host(state)) == bits(unbroken.states[3])
    kernel = state.params["layers"]["mlp"]["up"]["kernel"]
    assert kernel.sharding.spec == jax.sharding.PartitionSpec(None, "fsdp", "tensor")


@pytest.mark.xdist_group("autoregressive")
class TestWhatMayChange:
    """Freezing, averaging and clipping may change on resume; the model may not."""

    def test_averaging_switched_off_and_on(self, tmp_path):
        unbroken = trace("autoregressive")
        run = unbroken.run
        save(run, unbroken.states[3], tmp_path)
        without = dataclasses.replace(run, options=dataclasses.replace(run.options, ema=0.0))
        restored = restore(without, tmp_path)
        assert restored.state.ema == {} and any("ema/" in line and "dropped" in line for line in restored.lines)
        assert bits(host(restored.state.params)) == bits(unbroken.states[3].params)
        save(without, host(restored.state), tmp_path / "off")
        again = restore(run, tmp_path / "off")
        assert bits(host(again.state.ema)) == bits(unbroken.states[3].params)  # the average starts from the parameters
        assert any("ema/" in line and "afresh" in line for line in again.lines)

    def test_clipping_switched_off(self, tmp_path):
        unbroken = trace("autoregressive")
        run = unbroken.run
        save(run, unbroken.states[3], tmp_path)
        unclipped = dataclasses.replace(run, optimizer=dataclasses.replace(run.optimizer, clip=0.0))
        state = restore(unclipped, tmp_path).state
        assert bits(host(state.opt_state["adam"])) == bits(unbroken.states[3].opt_state["adam"])

    def test_freezing_narrowed(self, tmp_path):
        unbroken = trace("autoregressive")
        save(unbroken.run, unbroken.states[3], tmp_path)

        class Narrow(type(unbroken.run.objective)):
            def trains(self, path):
                return path.startswith("layers/mlp/")

        inner = unbroken.run.objective
        narrow = Narrow(inner.model, inner.vocabulary, inner.length)
        restored = restore(dataclasses.replace(unbroken.run, objective=narrow), tmp_path)
        assert {path.split("/")[1] for path, _ in paths.leaves(restored.state.params)} == {"mlp"}
        both = paths.merge(host(restored.state.frozen), host(restored.state.params))
        assert bits(both) == bits(unbroken.states[3].params)
        moments = host(restored.state.opt_state["adam"].mu)
        assert bits(moments) == bits(paths.restrict(unbroken.states[3].opt_state["adam"].mu, like=moments))

    def test_another_model_is_refused(self, tmp_path):
        unbroken = trace("autoregressive")
        save(unbroken.run, unbroken.states[3], tmp_path)
        inner = unbroken.run.objective
        config = dataclasses.replace(inner.model.config, width=48)
        wider = dataclasses.replace(inner, model=inner.model.clone(config=config))
        with pytest.raises(CheckpointError, match="does not fit") as caught:
            restore(prepare(None, objective=wider), tmp_path)
        assert "leaf " in str(caught.value) and "32" in caught.value.why and "48" in caught.value.why

    def test_another_optimizer_starts_afresh(self, tmp_path):
        unbroken = trace("autoregressive")
        save(unbroken.run, unbroken.states[3], tmp_path)
        from pretrainx.optim.optimizer import SGDConfig

        run = dataclasses.replace(
            unbroken.run, optimizer=dataclasses.replace(unbroken.run.optimizer, config=SGDConfig())
        )
        restored = restore(run, tmp_path)
        assert any("optimizer/momentum" in line and "afresh" in line for line in restored.lines)
        assert any("optimizer/adam" in line and "dropped" in line for line in restored.lines)
        assert int(restored.state.opt_state["rate"].count) == 3  # the schedule goes on
        assert isinstance(unbroken.run.optimizer.config, AdamWConfig)


@pytest.mark.xdist_group("autoregressive")
def test_another_optimizer_on_a_mesh(tmp_path):
    """What starts afresh lies where the rest of the state lies, and the step takes it."""
    unbroken = trace("autoregressive")
    save(unbroken.run, unbroken.states[3], tmp_path)
    run = prepare("autoregressive", MeshConfig(2, 2, 2), 2, optimizer=MuonConfig())
    state = restore(run, tmp_path).state
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == run.step.shardings
    state, metrics = run.step(state, run.place(make_batch(run.objective, seed=3)))
    assert np.isfinite(metrics["loss"]) and int(state.step) == 4


@pytest.mark.slow
@pytest.mark.xdist_group("linear_probe(classification)")
def test_frozen_trained_and_frozen_again(tmp_path):
    """A probe, the whole network, a probe again: what the second has moved is never taken from the first one's base."""
    probed, directory, told = trace("linear_probe(classification)"), tmp_path / "checkpoints", []
    run, event = probed.run, lambda kind, **facts: told.append(facts["text"]) if kind == "warning" else None
    save(run, probed.states[3], directory, first=probed.states[0])
    frozen = {f"params/{path}" for path, _ in paths.leaves(run.state.frozen)}
    assert frozen and of_base(directory, 3) == frozen

    full = prepare(None, objective=BASES["classification of patches"]())
    state = restore(full, directory).state
    assert not state.frozen and bits(host(state.params)) == bits(probed.states[3].full_params())
    state, _ = full.step(state, full.place(make_batch(full.objective, seed=3)))
    moved = host(state)
    save(full, moved, directory, event, first=moved)
    assert not of_base(directory, 4) and not told

    state = restore(run, directory, 4).state
    assert bits(host(state.full_params())) == bits(moved.full_params())
    begun = host(state)
    state, _ = run.step(state, run.place(make_batch(run.objective, seed=4)))
    save(run, host(state), directory, event, first=begun)
    still = dict(paths.leaves(probed.states[0].frozen))
    unmoved = {f"params/{path}" for path, leaf in paths.leaves(begun.frozen) if np.array_equal(leaf, still[path])}
    assert of_base(directory, 5) == unmoved < frozen and len(told) == 1
    assert bits(host(restore(run, directory, 5).state)) == bits(host(state))
    for step in (4, 5):  # the manager keeps two
        assert {path for path, _ in verify.verify(directory, step)} == set(read_meta(directory, step)["leaves"])


@pytest.mark.xdist_group("ewc(clip)")
def test_anchor_is_taken_after_init_from(tmp_path):
    """A run started from another: its averaged parameters are taken over, and EWC's anchor is those, not the initial ones."""
    source = trace("toy clip")
    save(source.run, source.states[3], tmp_path)
    run = prepare("ewc(clip)", noise=False)
    start = started(run, tmp_path)
    assert start.step == 3 and not start.lines
    state = states.create(run.objective, run.optimizer, run.options, run.found, 16, start.params)
    assert bits(host(state.full_params())) == bits(source.states[3].ema) != bits(source.states[3].params)
    assert bits(host(state.extras["anchor"])) == bits(source.states[3].ema)
    assert bits(host(state.extras["anchor"])) != bits(host(run.state.extras["anchor"]))


@pytest.mark.xdist_group("lora(toy coca)")
def test_init_from_lists_what_is_missing(tmp_path):
    source = trace("toy clip")
    save(source.run, source.states[3], tmp_path)
    run = prepare("lora(toy coca)", noise=False)
    start = started(run, tmp_path)
    assert start.lines and all("lora_" in line and "initialised" in line for line in start.lines)
    assert len(start.params) + len(start.lines) == len(run.found.params_axes)


@pytest.mark.xdist_group("autoregressive")
def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    unbroken = trace("autoregressive")
    state = unbroken.states[3]
    poisoned = state.replace(params=paths.map_leaves(lambda _, leaf: leaf * np.nan, state.params))
    told = []
    checkpoints = Checkpoints(tmp_path, 2, lambda kind, **facts: told.append((kind, facts)))
    assert not checkpoints.save(placed(poisoned, unbroken.run), {})
    assert told[0][0] == "warning" and "not finite" in told[0][1]["text"]
    checkpoints.close()
    assert not list(tmp_path.glob("[0-9]*"))


def test_all_kinds_are_covered():
    """Every case with extras of its own kind is in some resumed run."""
    assert set(KINDS) <= set(CASES)
