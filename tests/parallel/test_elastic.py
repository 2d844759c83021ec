"""A checkpoint written on any mesh and process count goes on on any other: the same state, batches and losses."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from chaos.gangs import Gang, write_recipe
from chaos.runs import write_corpus
from pretrainx.runs.data import prepare
from pretrainx.runs.parts import assemble
from pretrainx.runs.recipe import parse
from pretrainx.training import state as states
from pretrainx.training.checkpoint import Checkpoints
from pretrainx.training.restore import restore_step
from pretrainx.training.step import make_train_step

MESHES = (
    dict(data=1),
    dict(data=2),
    dict(fsdp=2),
    dict(tensor=4),
    dict(data=2, context=2),
    dict(data=2, stage=2),
    dict(data=8),
    dict(data=2, fsdp=2, tensor=2),
    dict(fsdp=2, tensor=2, context=2),
)
BEGUN, SAVED, STEPS = 2, 3, 5  # steps behind the first state, behind each saved one, and in all


def name_of(mesh):
    """As in d2.f2.t2."""
    return ".".join(f"{axis[0]}{size}" for axis, size in mesh.items())


class Placed:
    """The run on one mesh: one compiled step, which all states that come to this mesh take."""

    def __init__(self, values, mesh, data):
        recipe = parse(values | {"mesh": dict(data=1) | mesh})
        self.parts = assemble(recipe, data.about, jax.devices()[: math.prod(mesh.values())])
        self.rows = data.training_rows(self.parts.objective.reads, recipe.train.batch_size, recipe.seed)
        parts = self.parts
        self.like = states.abstract(parts.objective, parts.optimizer, parts.options, parts.found)
        self.fresh_optimizer = jax.jit(parts.optimizer.init)
        self.step = make_train_step(parts.objective, parts.optimizer, parts.options, self.like)

    def restore(self, directory, step):
        restored = restore_step(directory, step, self.like, self.fresh_optimizer)
        assert restored.lines == []
        at = jax.tree.map(
            lambda leaf, like: leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim), restored.state, self.like
        )
        assert all(jax.tree.leaves(at))
        return restored.state

    def go_on(self, state, steps):
        """(the state after these steps, [loss of each])."""
        losses = []
        for step in steps:
            batch = self.rows.batch(step)
            placed = jax.tree.map(lambda leaf: jax.device_put(leaf, self.parts.rules.rows(leaf.shape)), batch)
            assert all(np.array_equal(placed[name], batch[name]) for name in batch)
            state, metrics = self.step(state, placed)
            losses.append(float(metrics["loss"]))
        return state, losses


def save(directory, state):
    checkpoints = Checkpoints(directory, 1)
    assert checkpoints.save(state, {"config": {}, "data": {}, "wall": 0.0})
    checkpoints.close()
    return host(state)


def host(state):
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def differing(left, right):
    """The leaves of two states that are not the same bits."""
    assert left.keys() == right.keys()
    return [path for path in left if left[path].tobytes() != right[path].tobytes()]


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
def test_every_mesh_goes_on_from_every_other(tmp_path):
    """All ordered pairs. States are equal to the bit; losses are those of an unbroken run on one device, to rounding."""
    with jax.enable_x64(True):
        corpus = write_corpus(tmp_path / "corpus.txt", characters=20_000)
        values = {
            "model": dict(name="decoder", width=16, depth=2, heads=4, dropout=0.1),
            "data": dict(name="text", source="text", paths=(str(corpus),), tokenizer="bytes", length=16, held_out=0.05),
            "optimizer": dict(
                name="adamw", epsilon=1e-4
            ),  # at 1e-8 gradients of rounding alone would become whole steps
            "schedule": dict(name="constant", peak=3e-3, warmup=2),
            "precision": dict(params="float64", compute="float64"),
            "train": dict(steps=STEPS, batch_size=8),
            "ema": dict(decay=0.9),
        }
        data = prepare(parse(values).data, tmp_path / "data", lambda text: None)
        runs = {name_of(mesh): Placed(values, mesh, data) for mesh in MESHES}
        one = next(iter(runs.values()))
        parts = one.parts
        state = states.create(parts.objective, parts.optimizer, parts.options, parts.found, 8)
        state, _ = one.go_on(state, range(BEGUN))
        begun = save(tmp_path / "begun", state)
        _, unbroken = one.go_on(state, range(BEGUN, STEPS))
        saved, gaps = {}, {}
        for source, run in runs.items():
            state = run.restore(tmp_path / "begun", BEGUN)
            assert not differing(host(state), begun), source
            state, losses = run.go_on(state, range(BEGUN, SAVED))
            assert abs(losses[0] - unbroken[0]) < 1e-12, source
            saved[source] = save(tmp_path / source, state)
        for source in runs:
            for target, run in runs.items():
                if source != target:
                    state = run.restore(tmp_path / source, SAVED)
                    assert not differing(host(state), saved[source]), (source, target)
                    _, losses = run.go_on(state, range(SAVED, STEPS))
                    gaps[source, target] = max(
                        abs(a - b) for a, b in zip(losses, unbroken[SAVED - BEGUN :], strict=True)
                    )
        print(
            f"\nlargest difference of the losses of steps {SAVED + 1} to {STEPS}; saved on a row's mesh, gone on on a column's"
        )
        print(f"{'':>10}" + "".join(f"{target:>10}" for target in runs))
        for source in runs:
            print(f"{source:>10}" + "".join(f"{gaps.get((source, target), math.nan):>10.1e}" for target in runs))
        assert len(gaps) == len(MESHES) * (len(MESHES) - 1) and max(gaps.values()) < 1e-12
        assert all(run.step.traces == 1 for run in runs.values())


# Steps of the unbroken run; (processes, devices of each, mesh) of the legs of a run that moves.
LENGTH = 40
SAME = ((1, 1, {}), (2, 2, {}), (4, 2, {}), (1, 2, {}))  # config.mesh.data=-1 takes the devices that there are
MIXED = ((1, 1, {}), (2, 2, dict(data=1, tensor=4)), (4, 2, dict(data=1, fsdp=8)), (1, 4, dict(data=2, fsdp=2)))
processes = [
    pytest.mark.slow,
    pytest.mark.rotated(alone=True),
    pytest.mark.xdist_group("processes"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """One process with one device."""
    directory = tmp_path_factory.mktemp("elastic")
    gang = Gang(write_recipe(directory, LENGTH, LENGTH), directory / "one", tmp_path_factory.mktemp("compiled"))
    gang.finish(1, 1)
    assert sorted(gang.losses()) == list(range(1, LENGTH + 1))
    return gang


@pytest.mark.parametrize(
    "legs", [pytest.param(SAME, id="same command", marks=processes), pytest.param(MIXED, id="meshes", marks=processes)]
)
def test_any_number_of_processes_goes_on(legs, unbroken, tmp_path):
    """1, 2, 4 processes, then 1 again, on other numbers of devices, by the launcher; nothing has to be allowed."""
    gang = dataclasses.replace(unbroken, workdir=tmp_path / "run")
    print(f"\n{'processes':>9} {'devices':>8}  {'steps':<9} {'batches':<8} {'losses differ by':>16}")
    expected, begun = unbroken.losses(), 0
    for number, (count, devices, mesh) in enumerate(legs, 1):
        ends = LENGTH * number // len(legs)
        words = [f"--config.mesh.{axis}={size}" for axis, size in mesh.items()]
        gang.finish(count, devices, *words, *([f"--config.train.steps={ends}"] if ends < LENGTH else []))
        found = gang.losses()
        assert sorted(found) == list(range(1, ends + 1))
        assert gang.hashes() == {step: unbroken.hashes()[step] for step in found}
        gap = max(abs(found[step] - expected[step]) for step in range(begun + 1, ends + 1))
        print(f"{count:>9} {count * devices:>8}  {begun + 1:>3} to {ends:<3} {'the same':<8} {gap:>16.1e}")
        assert gap < 1e-9
        begun = ends
    assert [event["step"] for event in gang.events("resumed")] == [10, 20, 30]
    assert [event["devices"] for event in gang.events("start")] == [count * devices for count, devices, _ in legs]
    assert {event["change"].split(":")[0] for event in gang.events("config")} == {"safe"}
    assert not gang.events("warning")


@pytest.mark.slow
@pytest.mark.rotated
@pytest.mark.xdist_group("processes")
def test_replicas_in_two_processes_are_those_in_one(unbroken, tmp_path):
    """Local SGD over processes: losses of one process, and on from there in two, in the middle of a round."""
    words = [
        "--config.local_sgd.every=4",
        "--config.local_sgd.replicas=4",
        "--config.ema.decay=0",
        "--config.evals.tokens=64",
    ]
    one, two = (dataclasses.replace(unbroken, workdir=tmp_path / name) for name in ("one", "two"))
    words += ["--config.checkpoint.every=6", "--config.checkpoint.keep=1"]
    one.finish(1, 2, *words, "--config.train.steps=12")
    two.finish(2, 2, *words, "--config.train.steps=12")
    assert two.hashes() == one.hashes() and sorted(two.losses()) == list(range(1, 13))
    gap = max(abs(loss - one.losses()[step]) for step, loss in two.losses().items())
    print(f"\nreplicas in two processes: losses differ by {gap:.1e}")
    assert gap < 1e-9
