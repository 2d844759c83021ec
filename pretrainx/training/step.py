"""The one train step. It knows no objective: it normalises, differentiates, accumulates, updates, advances."""

from __future__ import annotations

from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import optax

from pretrainx.core import paths, random
from pretrainx.core.records import Mean, Outcome
from pretrainx.objectives.objective import Batch, Objective
from pretrainx.optim.optimizer import Optimizer
from pretrainx.parallel.rules import Rules, constrain
from pretrainx.training import guard
from pretrainx.training.accumulation import gathered, row_order, strided
from pretrainx.training.state import TrainState


@dataclass(frozen=True)
class Options:
    """The static rest of a step: sharding rules, the run's seed, accumulation, averaging, guard."""

    rules: Rules
    seed: int = 0
    microbatches: int = 1
    ema: float = 0.0  # decay of the averaged parameters; 0 keeps none
    guard: guard.GuardConfig = guard.GuardConfig()


def scales(objective: Objective, weights: dict, step: jax.Array) -> dict[str, jax.Array]:
    """{term: coefficient / W}, W the sum of the term's weights over the global batch; 0 where W = 0.

    The inner `where` keeps this function differentiable: 0 times the derivative of 1 / 0 would be NaN.
    """
    found = {}
    for term in objective.terms:
        if term.name in found:
            raise ValueError(f"{type(objective).__name__} has two terms named {term.name!r}")
        if term.name not in weights:
            raise ValueError(f"{type(objective).__name__}.observe gives no weights for its term {term.name!r}")
        total = weights[term.name].sum(dtype=float)  # weights are float32 even in a float64 run
        found[term.name] = term.at(step) * jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1), 0)
    return found


def train_step(
    objective: Objective, optimizer: Optimizer, options: Options, state: TrainState, batch: Batch
) -> tuple[TrainState, dict]:
    """(state, batch) -> (state', metrics). Pure; `objective`, `optimizer` and `options` are static under jit.

    metrics: loss, term/<name>, grad_norm, lr, skipped and streak of the guard, metric/<name>, per_row {term: [B]}.
    """
    with options.rules.bound():
        step, count = state.step, options.microbatches
        observe_keys = objective.row_keys(random.stream(options.seed, random.OBSERVE, step), batch)
        encode_keys = objective.row_keys(random.stream(options.seed, random.ENCODE, step), batch)
        # Of this observation of the whole batch only what is used survives compilation: weights, and what couple reads.
        whole = objective.observe_rows(observe_keys, batch, step)
        scale = scales(objective, whole.weights, step)

        def encode(params, part) -> Outcome:
            observing, encoding, rows = part
            observation = objective.observe_rows(observing, rows, step)
            observation = jax.tree.map(lambda x: constrain(x, "batch", *[None] * (x.ndim - 1)), observation)
            full = paths.merge(state.frozen, params)
            return objective.encode(full, state.extras, observation, encoding, step, train=True)

        def weighted(totals):
            return sum(scale[name] * total for name, total in totals.items())

        def couple(params, representations):
            full = paths.merge(state.frozen, params)
            outcome = objective.couple(full, state.extras, representations, whole, step)
            return weighted(outcome.totals), outcome

        def whole_loss(params, rows):
            outcome, coupled, joint = encode(params, rows), 0.0, Outcome()
            if jax.tree.leaves(outcome.representations):
                coupled, joint = couple(params, outcome.representations)
            return weighted(outcome.totals) + coupled, (outcome.replace(representations={}), joint)

        def part_loss(params, part, cotangents):
            outcome = encode(params, part)
            products = jax.tree.map(lambda r, c: (r * c).sum(), outcome.representations, cotangents)
            return weighted(outcome.totals) + sum(jax.tree.leaves(products)), outcome.replace(representations={})

        def in_parts():
            parts = strided(rows, count)
            # First pass: representations of all rows, without gradient. An objective without them leaves this loop empty,
            # and the compiler removes it.
            first = lambda _, part: (None, encode(state.params, part).representations)
            _, representations = jax.lax.scan(first, None, parts)
            gradients, cotangents, joint = jax.tree.map(jnp.zeros_like, state.params), representations, Outcome()
            if jax.tree.leaves(representations):
                differentiate = jax.grad(couple, (0, 1), has_aux=True)
                (gradients, cotangents), joint = differentiate(state.params, row_order(representations))

            # Second pass: each microbatch again, with the gradient that the coupled loss has for its representations.
            def accumulate(gradients, xs):
                new, outcome = jax.grad(part_loss, has_aux=True)(state.params, *xs)
                return jax.tree.map(jnp.add, gradients, new), outcome

            gradients, outcomes = jax.lax.scan(accumulate, gradients, (parts, strided(cotangents, count)))
            return gradients, (gathered(outcomes), joint)

        rows = observe_keys, encode_keys, batch
        if count == 1:  # nothing is kept from one pass for another
            gradients, (outcome, joint) = jax.grad(whole_loss, has_aux=True)(state.params, rows)
            outcome = gathered(jax.tree.map(lambda x: x[None], outcome))
        else:
            gradients, (outcome, joint) = in_parts()
        if twice := outcome.totals.keys() & joint.totals.keys():
            raise ValueError(f"{type(objective).__name__} scores {sorted(twice)} in encode and in couple")
        totals = outcome.totals | joint.totals
        if set(totals) != set(scale):
            raise ValueError(f"{type(objective).__name__} has terms {sorted(scale)} but scored {sorted(totals)}")
        loss, grad_norm = weighted(totals), optax.global_norm(gradients)

        params, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        extras = paths.merge(paths.merge(state.extras, outcome.extras), joint.extras)
        full, extras = objective.advance(
            paths.merge(state.frozen, params),
            extras,
            paths.merge(outcome.collected, joint.collected),
            random.stream(options.seed, random.ADVANCE, step),
            step,
        )
        params = paths.restrict(full, like=params)
        average = lambda old, new: options.ema * old + (1 - options.ema) * new
        ema = jax.tree.map(average, state.ema, params) if state.ema else {}
        advanced = state.replace(params=params, opt_state=opt_state, extras=extras, ema=ema)

        # `where` below would broadcast a leaf that an objective gave another shape.
        chex.assert_trees_all_equal_shapes(advanced, state)
        accepted = guard.accept(options.guard, state.guard, loss, grad_norm)
        select = lambda new, old: jnp.where(accepted, new, old).astype(old.dtype)
        guarded = guard.record(options.guard, state.guard, accepted, loss, grad_norm)
        after = jax.tree.map(select, advanced.replace(guard={}, frozen={}), state.replace(guard={}, frozen={}))
        after = after.replace(step=step + 1, guard=guarded, frozen=state.frozen)

        means = outcome.metrics | joint.metrics
        metrics = {
            "loss": loss,
            **{f"term/{name}": scale[name] * total for name, total in totals.items()},
            "grad_norm": grad_norm,
            "lr": optimizer.learning_rate(state.opt_state),
            "skipped": guarded["skipped"],
            "streak": guarded["streak"],
            **{f"metric/{name}": mean_of(mean) for name, mean in means.items()},
            "per_row": outcome.per_row | joint.per_row,
        }
        return after, metrics


def mean_of(mean: Mean) -> jax.Array:
    return mean.total / jnp.where(mean.weight > 0, mean.weight, 1)


class TrainStep:
    """The jitted step of (state, batch), for a state placed like the one given. The state passed in is donated."""

    def __init__(self, objective: Objective, optimizer: Optimizer, options: Options, state: TrainState):
        self.static = (objective, optimizer, options)
        self.shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        self.traces = 0  # how many programs were made; more than one in a run is a bug
        outputs = (self.shardings, options.rules.replicated())

        def counted(*arguments):
            self.traces += 1
            return train_step(*arguments)

        self.jitted = jax.jit(counted, static_argnums=(0, 1, 2), donate_argnums=(3,), out_shardings=outputs)

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict]:
        return self.jitted(*self.static, state, batch)

    def lower(self, state: TrainState, batch: Batch):
        """For looking at the compiled program: its memory, FLOPs and collectives."""
        return self.jitted.lower(*self.static, state, batch)


def make_train_step(objective: Objective, optimizer: Optimizer, options: Options, state: TrainState) -> TrainStep:
    """The step for those who bring their own loop: `state, metrics = step(state, batch)`."""
    return TrainStep(objective, optimizer, options, state)
