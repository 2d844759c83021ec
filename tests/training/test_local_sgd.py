"""Replicas that meet now and then: what they compute, what crosses the slow link, and that a run of them resumes."""

import dataclasses
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest

import pretrainx
from chaos.runs import write_corpus
from contract import pairs
from pretrainx.adapt.lora import LoraConfig
from pretrainx.core.errors import CheckpointError, ConfigError
from pretrainx.core.json_lines import read
from pretrainx.core.schedule import Ramp
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.decoder import Decoder, DecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives.autoregressive import Autoregressive
from pretrainx.objectives.clip import ClipConfig
from pretrainx.optim.optimizer import AdamWConfig, Optimizer, SGDConfig
from pretrainx.parallel.collectives import read as read_collectives
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from pretrainx.runs.replicas import warnings
from pretrainx.runs.train import train
from pretrainx.training import restore
from pretrainx.training import state as states
from pretrainx.training.local_sgd import LocalOptimizer, LocalSgdConfig, LocalStep, check, compares
from pretrainx.training.step import Options, make_train_step
from toys.line import Line

ROWS, LENGTH, RATE = 8, 8, 0.25
PLAIN, HEAVY = SGDConfig(momentum=0.0), SGDConfig(momentum=0.9)
MEAN = LocalSgdConfig(every=1, replicas=4, rate=1.0, momentum=0.0)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@dataclasses.dataclass
class Made:
    """A tiny decoder with dropout, so that rows whose keys are not their own show; its state and step on a mesh."""

    mesh: MeshConfig
    local: LocalSgdConfig | None = None
    inner: object = PLAIN
    rows: int = ROWS

    def __post_init__(self):
        config = DecoderConfig(width=16, depth=2, heads=4, dropout=0.1, vocab_multiple=16)
        model = Decoder(config, 32, LENGTH, Precision("float64", "float64"))
        self.objective = Autoregressive(model, Vocabulary(32, (("pad", 0), ("eos", 1))), LENGTH)
        ways = np.prod(dataclasses.astuple(self.mesh))
        self.options = Options(Rules(make_mesh(self.mesh, jax.devices()[:ways])), seed=5)
        self.found = states.layout(self.objective, self.rows)
        given = self.inner, Ramp(RATE, RATE, 1), 0.0, self.found.params_axes
        self.optimizer = Optimizer(*given) if self.local is None else LocalOptimizer(*given, local=self.local)
        self.state = states.create(self.objective, self.optimizer, self.options, self.found, self.rows)
        kind = make_train_step if self.local is None else LocalStep
        self.step = kind(self.objective, self.optimizer, self.options, self.state)

    def placed(self, batch):
        return {name: jax.device_put(value, self.options.rules.rows(value.shape)) for name, value in batch.items()}

    def run(self, batches):
        """(losses, parameters after each step), on the host."""
        losses, seen = [], []
        for batch in batches:
            self.state, metrics = self.step(self.state, self.placed(batch))
            losses.append(float(metrics["loss"]))
            seen.append(jax.tree.map(np.asarray, self.state.full_params()))
        return losses, seen


def batches(count, uneven=False):
    """Random tokens; in rows of `uneven` length padding carries no weight."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        tokens = rng.integers(2, 32, (ROWS, LENGTH + 1)).astype(np.int32)
        if uneven:
            tokens[np.arange(LENGTH + 1) >= rng.integers(2, LENGTH + 2, (ROWS, 1))] = 0
        yield {"tokens": tokens, "valid": np.ones(ROWS, bool)}


def apart(left, right):
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(a - b).max()), left, right)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh",
    [MeshConfig(4), MeshConfig(1), MeshConfig(2, 2, 2), MeshConfig(2, context=2)],
    ids=["four devices", "one device", "data2-fsdp2-tensor2", "data2-context2"],
)
def test_meeting_after_each_step_is_data_parallelism(mesh):
    """SGD without momentum, H = 1, outer rate 1, no outer momentum, rows of equal weight: the same five steps."""
    losses, expected = Made(MeshConfig(1)).run(batches(5))
    made = Made(mesh, MEAN)
    found, seen = made.run(batches(5))
    np.testing.assert_allclose(found, losses, rtol=1e-12)
    gaps = [apart(*pair) for pair in zip(seen, expected, strict=True)]
    print(f"\n{mesh}: parameters differ by {max(gaps):.1e}")
    assert max(gaps) < 1e-9 and made.step.traces == 1


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
def test_uneven_weights_descend_along_the_mean_of_the_losses():
    """Each replica's update is that of a run of its rows alone; their mean is not the update of all rows together."""
    batch = next(iter(batches(1, uneven=True)))
    alone = Made(MeshConfig(1))
    start, reached = jax.tree.map(np.array, alone.state), []
    for replica in range(4):  # the rows of others are not valid, so that they have no weight
        own = alone.placed(batch | {"valid": np.arange(ROWS) // (ROWS // 4) == replica})
        reached.append(alone.step(jax.tree.map(np.array, start), own)[0].full_params())
    _, (found,) = Made(MeshConfig(4), MEAN).run([batch])
    _, (together,) = alone.run([batch])
    assert apart(found, jax.tree.map(lambda *each: sum(each) / 4, *reached)) < 1e-9
    weighed = [(batch["tokens"][rows : rows + 2, 1:] != 0).sum() for rows in range(0, ROWS, 2)]
    assert len(set(weighed)) > 1
    assert apart(found, together) > 1e-5 * apart(found, start.full_params()) > 0


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
def test_a_round_is_what_replicas_do_by_themselves():
    """Two rounds of H = 3 with Nesterov momentum, against runs of single replicas and optax between them.

    The replicas see the rows of the whole batch that are theirs, with the draws that the rows have in it.
    """
    local = LocalSgdConfig(every=3, replicas=2, rate=0.7, momentum=0.9)
    made, given = Made(MeshConfig(2), local, HEAVY), list(batches(6))
    point = jax.tree.map(np.asarray, made.state.params)
    _, seen = made.run(given)
    assert all(apart(seen[step], point) == 0 for step in (0, 1)) and apart(seen[2], seen[4]) == 0
    # One device, both replicas: the other half of its rows is not valid, so that it has no weight.
    alone, outer = Made(MeshConfig(1), inner=HEAVY), optax.sgd(0.7, 0.9, nesterov=True)
    start, momentum = jax.tree.map(np.array, alone.state), outer.init(point)
    memory = [start.opt_state] * 2
    for first in (0, 3):
        reached = []
        for replica in range(2):
            own = np.arange(ROWS) // (ROWS // 2) == replica
            state = start.replace(params=point, opt_state=memory[replica], step=np.int32(first))
            state = jax.tree.map(np.array, state)  # on the host: the step takes what it is given
            for batch in given[first : first + 3]:
                state, _ = alone.step(state, alone.placed(batch | {"valid": own}))
            reached.append(state.params)
            memory[replica] = state.opt_state
        difference = jax.tree.map(lambda old, a, b: old - (a + b) / 2, point, *reached)
        updates, momentum = outer.update(difference, momentum, point)
        point = jax.tree.map(np.asarray, optax.apply_updates(point, updates))
        gap = apart(seen[first + 2], point)
        print(f"\nafter {first + 3} steps: {gap:.1e}")
        assert gap < 1e-9


def collectives(lowered, mesh):
    """(how many collectives a program has, those that cross the mesh axis `data`)"""
    found = read_collectives(lowered.compile().as_text(), mesh)
    return len(found), [each for each in found if "data" in each.axes]


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
def test_only_the_outer_step_crosses_the_slow_link():
    """On data 2 x fsdp 2 x tensor 2: collectives of an inner step stay within a replica; data parallelism's do not."""
    mesh, local = MeshConfig(2, 2, 2), LocalSgdConfig(every=4, replicas=2)
    made, together = Made(mesh, local, AdamWConfig()), Made(mesh, inner=AdamWConfig())
    batch = made.placed(next(batches(1)))
    devices = made.options.rules.mesh
    inner = collectives(made.step.lower(made.state, batch), devices)
    outer = collectives(made.step.outer.lower(made.optimizer, made.state), devices)
    plain = collectives(together.step.lower(together.state, batch), devices)
    print(
        "\n(collectives, crossing) inner, outer, data parallel:",
        [(count, len(over)) for count, over in (inner, outer, plain)],
    )
    assert inner[0] and not inner[1], inner[1]
    assert outer[1] and all(each.kind == "all-reduce" and each.axes == ("data",) for each in outer[1])
    assert plain[1]
    parameters = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(made.state.params))
    assert sum(each.size for each in outer[1]) <= parameters + 64  # and the guard's counters


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
def test_skipped_steps_of_one_replica_are_its_own():
    """Rows of one replica whose loss is not finite: it skips the step, the others take theirs, and the state counts it."""
    made = Made(MeshConfig(4), dataclasses.replace(MEAN, every=2), AdamWConfig())
    broken = lambda tree: jax.tree.map(lambda leaf: leaf.at[1].set(np.nan), tree)
    replicas = made.state.opt_state["replicas"]
    replicas = replicas | {"params": broken(replicas["params"])}
    made.state = made.state.replace(opt_state=made.state.opt_state | {"replicas": replicas})
    state, metrics = made.step(made.state, made.placed(next(batches(1))))
    assert int(metrics["skipped"]) == 1 and int(metrics["streak"]) == 1
    counts = state.opt_state["replicas"]["optimizer"]["rate"].count
    assert counts.tolist() == [1, 0, 1, 1] and jax.tree.leaves(metrics["per_row"])[0].shape[0] == ROWS


@pytest.fixture(scope="module")
def line():
    """(objective, its layout without extras, options over two ways of data)"""
    return Line(), states.Layout({}, {}, (), ()), Options(Rules(make_mesh(MeshConfig(2), jax.devices()[:2])))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(local=LocalSgdConfig(2, 3)), "do not divide over the mesh"),
        (dict(local=LocalSgdConfig(2, 16)), "8 rows over 16 pieces"),
        (dict(local=LocalSgdConfig(3, 2)), "--config.train.steps=9"),
        (dict(eval_every=3), "--config.train.eval_every=4"),
        (dict(ema=0.9), "config.ema.decay"),
        (dict(mesh=MeshConfig(2, stage=2)), "config.mesh.stage"),
        (dict(found=states.Layout({}, {}, (("router", ("embed", "experts")),), ())), "config.model.experts.count"),
        (dict(found=states.Layout({}, {"queue": {"rows": 0}}, (), ())), "queue/rows: statistics"),
    ],
)
def test_what_replicas_cannot_do_is_refused(changed, message, line):
    objective, found, options = line
    mesh = changed.get("mesh", MeshConfig(2))
    rules = Rules(make_mesh(mesh, jax.devices()[: np.prod(dataclasses.astuple(mesh))]))
    options = dataclasses.replace(options, rules=rules, ema=changed.get("ema", 0.0))
    check(LocalSgdConfig(2, 2), objective, found, line[2], ROWS, 10, eval_every=4)
    local, found = changed.get("local", LocalSgdConfig(2, 2)), changed.get("found", found)
    with pytest.raises(ConfigError) as caught:
        check(local, objective, found, options, ROWS, 10, changed.get("eval_every", 0))
    assert message in str(caught.value)


@pytest.mark.parametrize("form, ways, fits", [("ring", 1, True), ("rows", 2, True), ("ring", 2, False)])
def test_pictures_and_captions_that_are_compared(form, ways, fits, line):
    """A replica's meet its own alone, of which a run warns. Around the devices of one replica they cannot travel."""
    objective, found, _ = line
    assert not compares(objective)
    objective = LoraConfig().wrap(pairs.built(ClipConfig(form=form), pairs.CLIP))
    options = Options(Rules(make_mesh(MeshConfig(2, ways), jax.devices()[: 2 * ways])))
    if fits:
        check(LocalSgdConfig(2, 2), objective, found, options, ROWS, 10)
    else:
        with pytest.raises(ConfigError) as caught:
            check(LocalSgdConfig(2, 2), objective, found, options, ROWS, 10)
        assert caught.value.where == "config.objective.form" and "form=rows" in caught.value.do
    optimizer = LocalOptimizer(PLAIN, Ramp(RATE, RATE, 1), 0.0, (), local=LocalSgdConfig(2, 4))
    (warning,) = warnings(SimpleNamespace(optimizer=optimizer, objective=objective))
    assert "one in 4 of the batch" in warning


def values(corpus, **more):
    made = {
        "model": dict(name="decoder", width=16, depth=1, heads=4, unroll=0),
        "data": dict(name="text", source="text", paths=(str(corpus),), tokenizer="bytes", length=16, held_out=0.05),
        "schedule": dict(name="constant", peak=3e-3, warmup=2),
        "train": dict(steps=12, batch_size=16, log_every=1, eval_every=4),
        "evals": dict(tokens=600),
        "checkpoint": dict(every=5, keep=3),
        "local_sgd": dict(every=4, replicas=8),
    }
    return made | {name: made.get(name, {}) | changes for name, changes in more.items()}


def losses(workdir):
    return {line["step"]: line["train/loss"] for line in read(workdir / "metrics.jsonl") if "train/loss" in line}


def held_out(workdir):
    return [line["eval/held_out/loss"] for line in read(workdir / "metrics.jsonl") if "eval/held_out/loss" in line]


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
def test_a_run_of_replicas_resumes_between_two_outer_steps(tmp_path):
    """Bit for bit, every leaf; with another number of replicas it does not, and says why."""
    corpus, workdir, say = write_corpus(tmp_path / "corpus.txt", characters=30_000), tmp_path / "run", lambda text: None
    train(values(corpus), workdir, say=say)
    sums = lambda: {
        path: leaf["checksum"] for path, leaf in restore.read_meta(workdir / "checkpoints", 12)["leaves"].items()
    }
    unbroken, seen = sums(), losses(workdir)
    assert sorted(seen) == list(range(1, 13)) and seen[12] < seen[1]
    for step in (12, 10):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    train(values(corpus), workdir, say=say)
    assert [event["step"] for event in read(workdir / "events.jsonl") if event["kind"] == "resumed"] == [5]
    assert sums() == unbroken and losses(workdir) == seen
    evaluated = held_out(workdir)
    # After steps 4, 8 and 12, and again 8 and 12.
    assert evaluated[1:3] == evaluated[3:] and evaluated[2] < evaluated[0]
    with pytest.raises(CheckpointError) as caught:
        train(values(corpus, train=dict(steps=16), local_sgd=dict(replicas=16)), workdir, say=say)
    assert "optimizer/replicas" in caught.value.where and "[8]" in caught.value.why
    assert "config.local_sgd.replicas: 8 before, 16 now" in caught.value.why
    assert pretrainx.load(workdir).params.keys()  # the outer ones


@pytest.mark.slow
@pytest.mark.rotated(alone=True)
@pytest.mark.parametrize(
    "more", [dict(mesh=dict(data=4, fsdp=2)), dict(mesh=dict(data=1, tensor=-1))], ids=["fsdp", "tensor"]
)
def test_replicas_go_on_on_another_mesh(more, tmp_path):
    """Saved on data 8 in the middle of a round."""
    corpus, say = write_corpus(tmp_path / "corpus.txt", characters=30_000), lambda text: None
    exact = {"precision": dict(params="float64", compute="float64")}
    train(values(corpus, **exact), tmp_path / "whole", say=say)
    train(values(corpus, **exact), tmp_path / "moved", say=say)
    for step in (12, 10):
        shutil.rmtree(tmp_path / "moved" / "checkpoints" / str(step))
    (tmp_path / "moved" / "metrics.jsonl").unlink()
    train(values(corpus, **exact, **more), tmp_path / "moved", say=say)
    expected, found = losses(tmp_path / "whole"), losses(tmp_path / "moved")
    assert sorted(found) == list(range(6, 13))
    assert max(abs(loss - expected[step]) for step, loss in found.items()) < 1e-9
