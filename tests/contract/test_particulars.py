"""What single objectives promise beyond the matrix: queues, teachers, clamps, anchors, shared leaves, LoRA's cost."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contract.cases import CONFIG, ROWS, STEPS, bits, make_batch, prepare, text, trace
from pretrainx.adapt.ewc import Ewc
from pretrainx.adapt.lora import LoraConfig
from pretrainx.adapt.mixture import Mixture
from pretrainx.core import paths, random
from pretrainx.core.errors import ConfigError
from pretrainx.core.schedule import Ramp, WarmupCosine
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.decoder import Decoder, DecoderConfig
from pretrainx.models.layers import Precision
from pretrainx.objectives.autoregressive import Autoregressive
from pretrainx.optim.optimizer import AdamWConfig, Optimizer
from pretrainx.parallel.mesh import MeshConfig, make_mesh
from pretrainx.parallel.rules import Rules
from pretrainx.training import state as states
from pretrainx.training.step import Options, make_train_step
from toys.clip import Clip
from toys.line import Line
from toys.moco import Moco
from toys.small import Small, batch
from toys.views import pooled

SEED = 3  # of the runs that `prepare` makes
queue_group = pytest.mark.xdist_group("queue")


@functools.cache
def moco_by_hand(step):
    """(queries, keys) of a step, from the states of the traced run: the model applied to the views, nothing else."""
    seen, objective, data = trace("queue").states[step], text(Moco), make_batch(text(Moco), seed=step)
    stream = lambda purpose: random.per_row(random.stream(SEED, purpose, step), ROWS)
    views = objective.observe_rows(stream(random.OBSERVE), data, step).inputs
    query = vectors(seen.params, views["query"], stream(random.ENCODE))
    return np.asarray(query), np.asarray(vectors(seen.extras["teacher"], views["key"], None))


@jax.jit
def vectors(params, tokens, keys):
    return pooled(text(Moco).model, params, tokens, keys)


@queue_group
@pytest.mark.parametrize("microbatches", [1, *(pytest.param(count, marks=pytest.mark.slow) for count in (2, 4))])
def test_queue_is_a_fifo(microbatches):
    """Three wraps: the keys of each step enter in row order, whatever the microbatches."""
    seen = trace("queue", MeshConfig(1), microbatches).states
    queue, place = seen[0].extras["queue"].copy(), 0
    assert STEPS * ROWS == 3 * len(queue)
    for step in range(STEPS):
        for row in moco_by_hand(step)[1]:
            queue[place] = row
            place = (place + 1) % len(queue)
        np.testing.assert_allclose(seen[step + 1].extras["queue"], queue, rtol=1e-9, atol=1e-10)
        assert seen[step + 1].extras["next"] == place


@queue_group
def test_queue_is_scored_as_it_was_before_the_step():
    """One positive and the queue's old keys: a key that entered early would be its own negative."""
    run = trace("queue")
    for step in range(2):
        query, key = moco_by_hand(step)
        logits = (
            np.concatenate([(query * key).sum(1, keepdims=True), query @ run.states[step].extras["queue"].T], 1) / 0.2
        )
        nll = np.log(np.exp(logits).sum(1)) - logits[:, 0]
        valid = np.arange(ROWS) != 2
        np.testing.assert_allclose(run.metrics[step]["loss"], nll[valid].mean(), rtol=1e-12)


@queue_group
def test_teacher_moves_once_with_the_next_step_s_momentum():
    """After step t: teacher' = m(t + 1) teacher + (1 - m(t + 1)) params'; m is a cosine from 0.5 to 1 over 10 steps."""
    seen = trace("queue").states
    for step in range(STEPS):
        m = 1.0 - 0.5 * 0.5 * (1 + np.cos(np.pi * (step + 1) / 10))
        formula = lambda teacher, params, m=m: m * teacher + (1 - m) * params
        wanted = jax.tree.map(formula, seen[step].extras["teacher"], seen[step + 1].params)
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
        jax.tree.map(close, seen[step + 1].extras["teacher"], wanted)


@pytest.mark.xdist_group("toy clip")
def test_temperature_is_clamped_after_the_update():
    """Started at 5, above ln 100: it has a gradient (a clamp in the forward pass has none) and lands on the cap."""
    run = prepare("toy clip", objective=text(Clip, temperature=5.0), noise=False)
    assert run.state.params["scale"] == 5.0
    state, _ = run.step(run.state, run.place(make_batch(run.objective)))
    assert abs(float(state.params["scale"]) - 4.605170185988092) < 1e-12
    assert abs(float(state.opt_state["adam"].mu["scale"])) > 1e-6


def given_to(objective):
    """Distinct values for every leaf that an earlier run would have left: {path: array}."""
    rng = np.random.default_rng(7)
    params = states.layout(objective, ROWS).params
    return {path: rng.standard_normal(leaf.shape) for path, leaf in paths.leaves(params)}


def created(objective, restored=None):
    options = Options(Rules(make_mesh(MeshConfig(1), jax.devices()[:1])), seed=SEED)
    found = states.layout(objective, ROWS)
    chain = Optimizer(AdamWConfig(), WarmupCosine(1e-2, 2, 10), 1.0, found.params_axes)
    return states.create(objective, chain, options, found, ROWS, restored=restored)


def test_anchor_is_what_was_restored():
    """EWC's anchor is the restored parameters. Taken in `init` it would be noise, and the penalty at start 0 all the same."""
    objective = Ewc(text(Autoregressive))
    given = given_to(objective)
    fresh, state = created(objective), created(objective, given)
    anchor = dict(paths.leaves(state.extras["anchor"]))
    assert set(anchor) == set(given)
    for path, leaf in paths.leaves(state.full_params()):
        np.testing.assert_array_equal(leaf, given[path], err_msg=path)
        np.testing.assert_array_equal(anchor[path], given[path], err_msg=path)
    started = dict(paths.leaves(fresh.full_params()))
    assert not any(np.array_equal(anchor[path], leaf) for path, leaf in started.items())
    assert bits(fresh.extras["anchor"]) == bits(fresh.full_params())


@pytest.mark.parametrize("microbatches", [1, 2, 4])
def test_a_regulariser_is_added_once(microbatches):
    """EWC's term is strength * |params - anchor|^2 / 2 for any number of microbatches; per row it has weight one."""
    run = Small(Ewc(Line(), strength=Ramp(0.5, 0.5, 1)), microbatches=microbatches)
    start = np.asarray(run.state.params["slope"])
    run.state = run.state.replace(params={"slope": jnp.asarray(start + [0.3, -0.4])})
    _, metrics = run.step(fit=np.zeros(8))
    np.testing.assert_allclose(metrics["term/ewc"], 0.5 * (0.09 + 0.16) / 2, rtol=1e-12)
    np.testing.assert_allclose(metrics["loss"], metrics["term/ewc"], rtol=1e-12)
    np.testing.assert_allclose(run.after.params["slope"], start + np.array([0.3, -0.4]) * (1 - 0.125 * 0.5), rtol=1e-12)
    np.testing.assert_allclose(metrics["per_row"]["ewc"], np.full(8, 0.125), rtol=1e-12)


def lora_pair(precision="float32"):
    """(full, adapted): the decoder on which LoRA's cost is measured, blocks unrolled since a scan's body is counted once."""
    vocabulary = Vocabulary(512, (("pad", 0), ("eos", 1)))
    config = DecoderConfig(width=256, depth=4, heads=4, remat="full", unroll=0)
    full = Autoregressive(Decoder(config, 512, 128, Precision(precision, precision)), vocabulary, 128)
    return full, LoraConfig(rank=4).wrap(full)


def placed(objective, rows):
    rules = Rules(make_mesh(MeshConfig(1), jax.devices()[:1]))
    options, found = Options(rules, seed=SEED), states.layout(objective, rows)
    chain = Optimizer(AdamWConfig(), Ramp(1e-3, 1e-3, 1), 1.0, found.params_axes)
    return chain, options, states.abstract(objective, chain, options, found)


def test_lora_saves_the_weight_gradients():
    """Inside the modules the base's weight gradients are never formed: at most 0.8 of the full step's FLOPs."""
    flops = []
    for objective in lora_pair():
        chain, options, state = placed(objective, 8)
        step = make_train_step(objective, chain, options, state)
        compiled = step.lower(state, objective.batch_spec(8)).compile()
        flops.append(compiled.cost_analysis()["flops"])
    full, adapted = flops
    print(f"full step {full / 1e9:.2f} GFLOP, LoRA {adapted / 1e9:.2f} GFLOP, ratio {adapted / full:.3f}")
    assert full > 4e9, "the loop over layers was not counted"
    assert adapted <= 0.8 * full


def count(tree):
    return sum(leaf.size for _, leaf in paths.leaves(tree))


def test_lora_keeps_no_optimizer_state_for_the_base():
    objective = lora_pair()[1]
    _, _, state = placed(objective, 8)
    trained = {path for path, _ in paths.leaves(state.params)}
    assert trained and all(path.split("/")[-1] in ("lora_a", "lora_b") for path in trained)
    assert count(state.frozen) > 50 * count(state.params)
    held = [(path, leaf) for path, leaf in paths.leaves(paths.names_of(state.opt_state)) if leaf.shape]
    base = [(path, leaf) for path, leaf in held if not path.endswith(("lora_a", "lora_b"))]
    assert sum(leaf.size * leaf.dtype.itemsize for _, leaf in base) == 0, base
    assert sum(leaf.size for _, leaf in held) == 2 * count(state.params)


def test_a_shared_leaf_gets_both_gradients():
    """Two tasks share `slope` by its path: its gradient is the sum of what each task alone gives it."""
    run = Small(Mixture((("a", Line(), 0.5), ("b", Line(0.3), 0.5))))
    a, b = batch(rows=4, seed=1), batch(rows=4, seed=2)
    state, metrics = run.train(run.state, {"a": a, "b": b})
    each = []
    for data, coefficient in ((a, 0.0), (b, 0.3)):
        each.append((data["fit"][:, None] * data["x"]).sum(0) / data["fit"].sum() + 2 * coefficient)
        assert np.abs(each[-1]).min() > 1e-3
    np.testing.assert_allclose((1.0 - np.asarray(state.params["slope"])) / 0.125, each[0] + each[1], rtol=1e-12)
    assert set(state.params) == {"slope"} and set(state.frozen) == {"still"}  # each task says what it trains
    assert set(state.extras) == {"a", "b"}
    assert {"term/a/fit", "term/b/size"} <= set(metrics)


def test_shapes_of_shared_leaves_must_agree():
    narrow = replace(CONFIG, width=16)
    pair = Mixture((("lm", text(Autoregressive), 0.5), ("queue", text(Moco, narrow), 0.5)))
    with pytest.raises(ConfigError, match="two tasks share a parameter that has two shapes") as caught:
        states.layout(pair, ROWS)
    assert caught.value.where and "[16]" in caught.value.why and "[32]" in caught.value.why


@pytest.mark.xdist_group("toy coca")
def test_coefficient_schedule_of_one_term_of_two():
    """CoCa's caption term: its schedule falls from 2 to 1 over four steps, the contrastive one stays 1."""
    run = trace("toy coca")
    for step in range(STEPS):
        metrics = run.metrics[step]
        tokens = make_batch(run.run.objective, seed=step)["tokens"]
        weight = (tokens[:, 1:] != 0)[np.arange(ROWS) != 2].sum()
        caption = metrics["per_row"]["caption"].sum() / weight
        np.testing.assert_allclose(metrics["term/caption"], max(2.0 - step / 4, 1.0) * caption, rtol=1e-12)
        contrastive = metrics["per_row"]["contrastive"].sum() / (ROWS - 1)
        np.testing.assert_allclose(metrics["term/contrastive"], contrastive, rtol=1e-12)
        np.testing.assert_allclose(metrics["loss"], metrics["term/caption"] + metrics["term/contrastive"], rtol=1e-12)
