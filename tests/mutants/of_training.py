"""Faults of the train step, the state and the guard."""

from mutants.record import Mutant

STEP, STATE, GUARD = (f"pretrainx/training/{name}.py" for name in ("step", "state", "guard"))
ACCUMULATION = "pretrainx/training/accumulation.py"
LAYERS, OBJECTIVE = "pretrainx/models/layers.py", "pretrainx/objectives/objective.py"
TEST_STEP, TEST_GUARD, TEST_STATE = (f"tests/training/test_{name}.py::test_" for name in ("step", "guard", "state"))
PARTICULARS = "tests/contract/test_particulars.py::test_"

LOSS = [
    Mutant(
        "M1",
        "mean of microbatch means",
        STEP,
        "return weighted(outcome.totals) + sum(jax.tree.leaves(products)), outcome.replace(representations={})",
        "means = scales(objective, objective.observe_rows(part[0], part[2], step).weights, step);"
        " return sum(means[n] * t / count for n, t in outcome.totals.items()) + sum(jax.tree.leaves(products)),"
        " outcome.replace(representations={})",
        TEST_STEP + "uneven_weights_over_microbatches[2]",
    ),
    Mutant(
        "M2a",
        "divisor max(1, W)",
        STEP,
        "jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1), 0)",
        "1 / jnp.maximum(1, total)",
        TEST_STEP + "fractional_weights",
    ),
    Mutant(
        "M2b",
        "the where without its inner guard",
        STEP,
        "jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1), 0)",
        "jnp.where(total > 0, 1 / total, 0)",
        TEST_STEP + "scales_are_differentiable_where_there_is_no_weight",
    ),
    Mutant(
        "M2c",
        "no guard at all: W = 0 divides",
        STEP,
        "jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1), 0)",
        "1 / total",
        TEST_STEP + "term_without_weight",
    ),
    Mutant(
        "M3",
        "negatives of the own microbatch only",
        STEP,
        "outcome = objective.couple(full, state.extras, representations, whole, step)",
        "outcome = gathered(jax.vmap(lambda r, w: objective.couple(full, state.extras, r, w, step))"
        "(strided(representations, count), strided(whole, count)))",
        TEST_STEP + "coupled[full-2]",
    ),
    Mutant(
        "M4",
        "stop_gradient on the cached representations",
        STEP,
        "objective.couple(full, state.extras, representations, whole, step)",
        "objective.couple(full, state.extras, jax.lax.stop_gradient(representations), whole, step)",
        TEST_STEP + "coupled_gradient_is_that_of_the_direct_loss",
    ),
    Mutant(
        "M5a",
        "d couple / d params dropped",
        STEP,
        "jax.lax.scan(accumulate, gradients, (parts,",
        "jax.lax.scan(accumulate, jax.tree.map(jnp.zeros_like, gradients), (parts,",
        TEST_STEP + "coupled_gradient_is_that_of_the_direct_loss",
    ),
    Mutant(
        "M5b",
        "d couple / d params added per microbatch",
        STEP,
        "jax.lax.scan(accumulate, gradients, (parts,",
        "jax.lax.scan(accumulate, jax.tree.map(lambda g: g * count, gradients), (parts,",
        TEST_STEP + "coupled[full-2]",
    ),
    Mutant(
        "M6",
        "the second pass uses other keys",
        STEP,
        "first = lambda _, part: (None, encode(state.params, part).representations)",
        "first = lambda _, part: (None, encode(state.params, (part[0], part[1][::-1], part[2])).representations)",
        TEST_STEP + "coupled[full-2]",
    ),
    Mutant(
        "M7",
        "extras of both passes applied",
        STEP,
        "return objective.encode(full, state.extras, observation, encoding, step, train=True)",
        "return objective.encode(full, paths.merge(state.extras, objective.encode(full, state.extras, observation,"
        " encoding, step, train=True).extras), observation, encoding, step, train=True)",
        TEST_STEP + "running_mean_moves_once",
    ),
    Mutant(
        "M8",
        "one dropout key per microbatch",
        LAYERS,
        "jnp.where(jax.vmap(draw)(keys),",
        "jnp.where(draw(keys[0])[None],",
        "tests/models/test_decoder.py::test_dropout_of_a_row",
    ),
    Mutant(
        "M10",
        "collected rows in microbatch order",
        ACCUMULATION,
        "        x = x.swapaxes(0, 1)\n",
        "        x = x\n",
        TEST_STEP + "rows_are_observed_and_collected_in_order[2]",
    ),
    Mutant(
        "M11",
        "padded rows keep their weight",
        OBJECTIVE,
        "mask = lambda weight: weight * valid.reshape(-1, *[1] * (weight.ndim - 1)).astype(weight.dtype)",
        "mask = lambda weight: weight",
        TEST_STEP + "invalid_rows_have_no_weight",
    ),
    Mutant(
        "M14a",
        "observe keyed without the row",
        "pretrainx/core/random.py",
        "jax.random.fold_in(key, row)",
        "jax.random.fold_in(key, 0 * row)",
        TEST_STEP + "rows_are_observed_and_collected_in_order[1]",
    ),
    Mutant(
        "M14b",
        "observe keyed by the row's place in its microbatch",
        STEP,
        "observation = objective.observe_rows(observing, rows, step)",
        "observation = objective.observe_rows("
        "objective.row_keys(random.stream(options.seed, random.OBSERVE, step), rows), rows, step)",
        TEST_STEP + "rows_are_observed_and_collected_in_order[2]",
    ),
    Mutant(
        "M31",
        "coefficient schedule read at step 0",
        STEP,
        "term.at(step)",
        "term.at(0 * step)",
        TEST_STEP + "coefficient_schedule",
    ),
    Mutant(
        "metrics",
        "metrics of the last microbatch only",
        ACCUMULATION,
        "metrics=added(stacked.metrics)",
        "metrics=jax.tree.map(lambda x: x[-1], stacked.metrics)",
        TEST_STEP + "metrics_are_total_over_weight",
    ),
]

STATES = [
    Mutant(
        "M15",
        "anchor taken in init, before the restore",
        STATE,
        "params, extras = objective.start(random.stream(options.seed, random.START), params, batch)",
        "extras = objective.start(random.stream(options.seed, random.START),"
        " objective.init(random.stream(options.seed, random.INIT), batch), batch)[1]",
        TEST_STATE + "restored_leaves_are_there_before_start",
    ),
    Mutant(
        "M18",
        "advance counts on a skipped step",
        STEP,
        "state.replace(guard={}, frozen={}))",
        "state.replace(guard={}, frozen={}, extras=extras))",
        TEST_GUARD + "skipped_step_changes_nothing_but_the_step",
    ),
    Mutant(
        "M25",
        "boxes left in the state",
        STATE,
        "params, extras = axes.unbox(params), axes.unbox(extras)",
        "params, extras = axes.unbox(params), extras",
        TEST_STATE + "plain_arrays",
    ),
    Mutant(
        "M25b",
        "a leaf without axes is let through",
        "pretrainx/core/axes.py",
        "if not isinstance(leaf, nn.LogicallyPartitioned):",
        "leaf = leaf if isinstance(leaf, nn.LogicallyPartitioned) else boxed(leaf, *[None] * leaf.ndim)\n        if False:",
        TEST_STATE + "unboxed_leaf_refused[params]",
    ),
    Mutant(
        "M26",
        "average of the old parameters",
        STEP,
        "jax.tree.map(average, state.ema, params)",
        "jax.tree.map(average, state.ema, state.params)",
        TEST_STATE + "average_after_three_steps",
    ),
    Mutant(
        "M30",
        "gradient clipped per microbatch",
        STEP,
        "return jax.tree.map(jnp.add, gradients, new), outcome",
        "return jax.tree.map(jnp.add, gradients, optax.clip_by_global_norm(0.1).update(new, None)[0]), outcome",
        TEST_STEP + "clipping_is_global",
    ),
    Mutant(
        "M37",
        "optimizer state for frozen leaves",
        STATE,
        "opt_state = jax.eval_shape(optimizer.init, trained)",
        "opt_state = jax.eval_shape(optimizer.init, found.params)",
        PARTICULARS + "lora_keeps_no_optimizer_state_for_the_base",
    ),
    Mutant(
        "M38a",
        "the schedule counts skipped steps",
        STEP,
        "state.replace(guard={}, frozen={}))",
        "state.replace(guard={}, frozen={}, opt_state=opt_state))",
        TEST_GUARD + "skipped_step_changes_nothing_but_the_step",
    ),
    Mutant(
        "M38b",
        "the loop's step stays on a skip",
        STEP,
        "after.replace(step=step + 1,",
        "after.replace(step=step + accepted.astype(step.dtype),",
        TEST_GUARD + "streak",
    ),
    Mutant(
        "streak",
        "an accepted step does not end the streak",
        GUARD,
        'jnp.where(accepted, 0, guard["streak"] + 1)',
        'guard["streak"] + 1 - one',
        TEST_GUARD + "streak",
    ),
    Mutant(
        "window",
        "skipped losses enter the window",
        GUARD,
        'jnp.where(accepted, recent, guard["recent"])',
        "recent",
        TEST_GUARD + "spikes_are_skipped_on_request_only",
    ),
    Mutant(
        "spikes",
        "spikes are let through",
        GUARD,
        "jnp.all(seen <= limit)",
        "jnp.any(seen <= jnp.inf)",
        TEST_GUARD + "window_decides_after_a_restore",
    ),
]
