"""Faults of models and sharding rules, and faults that only an objective of its own kind can have."""

from mutants.record import Mutant

DECODER, ATTENTION, LAYERS, KERNELS = (
    f"pretrainx/models/{name}.py" for name in ("decoder", "attention", "layers", "kernels")
)
RULES, MIXTURE = "pretrainx/parallel/rules.py", "pretrainx/adapt/mixture.py"
TEST_MIXTURE = "tests/adapt/test_task_mixture.py::test_"
TEST_DECODER, TEST_LAYERS = "tests/models/test_decoder.py::test_", "tests/models/test_layers.py::test_"
TEST_KERNELS = "tests/models/test_kernels.py::test_"
TEST_ENCODER_DECODER = "tests/models/test_encoder_decoder.py::test_"
TEST_RULES, PARTICULARS = "tests/parallel/test_rules.py::test_", "tests/contract/test_particulars.py::test_"
TEST_AR = "tests/objectives/test_autoregressive.py::test_"

MODELS = [
    Mutant(
        "M23",
        "targets shifted twice",
        "pretrainx/objectives/autoregressive.py",
        'targets = {"tokens": tokens[:-1]}, tokens[1:]',
        'targets = {"tokens": tokens[:-1]}, jnp.roll(tokens[1:], -1)',
        TEST_AR + "targets_are_the_next_tokens",
    ),
    Mutant(
        "M32",
        "all layers share one dropout mask",
        "pretrainx/models/stack.py",
        "self.first_site + len(branches) * layer",
        "self.first_site + 0 * layer",
        TEST_DECODER + "dropout_masks",
    ),
    Mutant(
        "shared sites",
        "encoder and decoder drop the same places",
        "pretrainx/models/encoder_decoder.py",
        "True, 2 * config.depth + 1)",
        "True, 0)",
        TEST_ENCODER_DECODER + "no_two_dropouts_share_a_mask",
    ),
    Mutant(
        "narrow relative bias",
        "the gradient of a relative bias is summed in bfloat16",
        ATTENTION,
        "wide(table)[places]",
        "table[places]",
        TEST_ENCODER_DECODER + "gradient_of_a_bfloat16_bias_is_summed_wide",
    ),
    Mutant(
        "late positions",
        "angles of sinusoids in bfloat16",
        LAYERS,
        "self.width // 2, wide(factor)",
        "self.width // 2, factor",
        "tests/models/test_encoder.py::test_sinusoids_of_bfloat16_parameters_know_late_positions",
    ),
    Mutant(
        "M36",
        "padded vocabulary logits not masked",
        "pretrainx/models/layers.py",
        "return jnp.where(jnp.arange(logits.shape[-1]) < real, logits, jnp.finfo(logits.dtype).min / 2)",
        "return logits",
        TEST_DECODER + "padded_vocabulary[gpt2]",
    ),
    Mutant(
        "causal",
        "attention sees the future",
        KERNELS,
        "if window else distance >= 0",
        "if window else distance >= -99",
        TEST_DECODER + "no_look_ahead[gpt2]",
    ),
    Mutant(
        "rotary",
        "the rotation is a reflection",
        ATTENTION,
        "second * cos + first * sin",
        "second * cos - first * sin",
        TEST_LAYERS + "rotation_is_relative",
    ),
    Mutant(
        "scores",
        "scores not divided by sqrt K",
        KERNELS,
        "scores * (size**-0.5 if scale is None else scale)",
        "scores * 1.0",
        TEST_KERNELS + "attention[0-False-kv_heads=2-blocks]",
    ),
    Mutant(
        "heads",
        "query heads share key heads in turn, not in groups",
        KERNELS,
        "return x.reshape(batch, shared, heads // shared * times, size)",
        "x = x.reshape(batch, heads // shared, shared, times, size).swapaxes(1, 2)\n"
        "    return x.reshape(batch, shared, heads // shared * times, size)",
        TEST_KERNELS + "attention[0-False-kv_heads=2-blocks]",
    ),
    Mutant(
        "segments",
        "segment mask dropped",
        KERNELS,
        "    if segments is None:\n        return mask\n",
        "    return mask\n",
        TEST_KERNELS + "attention[0-True-kv_heads=2-blocks]",
    ),
    Mutant(
        "sliding window",
        "a window one token too long",
        KERNELS,
        "(distance < window)",
        "(distance <= window)",
        TEST_KERNELS + "attention[3-False-kv_heads=2-blocks]",
    ),
    Mutant(
        "cache",
        "cached tokens stand at the beginning",
        DECODER,
        "positions = cache.filled + jnp.arange(tokens.shape[1])[None]",
        "positions = jnp.arange(tokens.shape[1])[None]",
        "tests/evals/test_continuation.py::test_cached_is_recomputed[llama-plain]",
    ),
    Mutant(
        "restart",
        "positions go on through the documents of a row",
        "pretrainx/objectives/autoregressive.py",
        "return index - jax.lax.cummax(jnp.where(begins, index, 0))",
        "return index",
        TEST_AR + "packed_documents_are_separate_ones[gpt2]",
    ),
    Mutant(
        "border",
        "the first token of the next document is a target",
        "pretrainx/objectives/autoregressive.py",
        "real &= (segments[1:] == segments[:-1]) & (segments[1:] > 0)",
        "real &= segments[1:] > 0",
        TEST_AR + "packed_documents_are_separate_ones[gpt2]",
    ),
    Mutant(
        "chunks",
        "gradients of chunks overwrite each other",
        "pretrainx/objectives/cross_entropy.py",
        "return jax.tree.map(jnp.add, sums, new), each",
        "return jax.tree.map(lambda _, last: last, sums, new), each",
        "tests/objectives/test_cross_entropy.py::test_values_and_gradients[3]",
    ),
    Mutant(
        "narrow lookup",
        "a bfloat16 lookup, whose gradient bfloat16 adds up",
        LAYERS,
        "return constrain(self.table, self.axis, None)[ids]",
        "return constrain(self.table.astype(self.precision.compute), self.axis, None)[ids]",
        TEST_KERNELS + "a_whole_model_in_bfloat16",
    ),
    Mutant(
        "narrow bias",
        "a bias added after the rounding, whose gradient bfloat16 adds up",
        LAYERS,
        'y = y + self.param("bias", initial, sizes, self.precision.params)',
        "y = y.astype(self.precision.compute)\n"
        '            y = y + self.param("bias", initial, sizes, self.precision.params).astype(y.dtype)',
        TEST_KERNELS + "a_whole_model_in_bfloat16",
    ),
    Mutant(
        "chunk collectives",
        "the head's gradient is summed over devices chunk by chunk",
        "pretrainx/objectives/cross_entropy.py",
        "groups = row_groups(rows)",
        "groups = 1",
        "tests/objectives/test_cross_entropy.py::test_one_collective_for_all_chunks",
    ),
    Mutant(
        "smooth padding",
        "targets are smoothed over the columns of padding too",
        "pretrainx/objectives/cross_entropy.py",
        "predicted = logits > jnp.finfo(logits.dtype).min / 4",
        "predicted = logits > -jnp.inf",
        "tests/objectives/test_cross_entropy.py::test_what_a_loss_adds",
    ),
    Mutant(
        "z slope",
        "the gradient of the squared log lacks its factor",
        "pretrainx/objectives/cross_entropy.py",
        "(1 + 2 * loss.z * log)",
        "(1 + loss.z * log)",
        "tests/objectives/test_cross_entropy.py::test_what_a_loss_adds",
    ),
    Mutant(
        "chunk order",
        "per-token losses of strided chunks put back as blocks",
        "pretrainx/objectives/cross_entropy.py",
        "each = jnp.moveaxis(each.reshape(count, groups, rows, pieces, -1), 0, 4)",
        "each = jnp.moveaxis(each.reshape(count, groups, rows, pieces, -1), 0, 3)",
        "tests/objectives/test_cross_entropy.py::test_values_and_gradients[3]",
    ),
    Mutant(
        "norm",
        "RMS norm that subtracts the mean, layer norm that does not",
        LAYERS,
        '        if self.kind == "layer":\n            y = y - y.mean',
        '        if self.kind == "rms":\n            y = y - y.mean',
        TEST_LAYERS + "norm[layer]",
    ),
    Mutant(
        "positions",
        "a lookup beyond the position table",
        DECODER,
        "if tokens.shape[1] > self.max_length:",
        "if False:",
        TEST_DECODER + "too_long",
    ),
]

SHARDING = [
    Mutant(
        "double use",
        "a mesh axis used twice is let through",
        RULES,
        "            if used & set(axes):\n",
        "            if False:\n",
        TEST_RULES + "mesh_axis_used_twice_refused",
    ),
    Mutant(
        "unknown name",
        "an unknown logical name is replicated",
        RULES,
        "for known, axes in self.table:\n",
        "for known, axes in self.table + ((name, ()),):\n",
        TEST_RULES + "unknown_name_refused",
    ),
    Mutant(
        "constrain",
        "constraints ignore the rules",
        RULES,
        "return x if rules is None else",
        "return x if True else",
        TEST_RULES + "two_tables_give_two_programs",
    ),
    Mutant(
        "jit's key",
        "rules in a Python global, which jit does not see",
        RULES,
        "_RULES = jax.make_user_context(None)",
        '_RULES = type("Global", (), {"value": None, "__call__": lambda self, new:'
        ' __import__("contextlib").nullcontext(setattr(self, "value", new))})()',
        TEST_RULES + "two_tables_give_two_programs",
    ),
    Mutant(
        "indivisible",
        "a dimension that does not divide is split",
        RULES,
        "if size % math.prod(self.mesh.shape[axis] for axis in axes):",
        "if False:",
        TEST_RULES + "indivisible_replicates_and_is_named",
    ),
]

# Faults of an objective of its own kind: they live in the toys, which stand for what users write.
TOYS = [
    Mutant(
        "M9",
        "keys enter the queue before the loss",
        "tests/toys/moco.py",
        'query @ extras["queue"].T',
        'query @ extras["queue"].at[extras["next"] + jnp.arange(len(key))].set(key).T',
        PARTICULARS + "queue_is_scored_as_it_was_before_the_step",
    ),
    Mutant(
        "M17",
        "the clamp is omitted",
        "tests/toys/clip.py",
        'jnp.minimum(params["scale"], CAP)',
        'params["scale"]',
        PARTICULARS + "temperature_is_clamped_after_the_update",
    ),
    Mutant(
        "M21",
        "a shared leaf is trained by one task only",
        MIXTURE,
        "params, extras[name], observation.inputs[name], keys[name], step, train=train",
        "params if name == self.tasks[0][0] else jax.lax.stop_gradient(params), extras[name], "
        "observation.inputs[name], keys[name], step, train=train",
        PARTICULARS + "a_shared_leaf_gets_both_gradients",
    ),
    Mutant(
        "shapes",
        "tasks that share a path with another shape",
        MIXTURE,
        "if known.value.shape != leaf.value.shape:",
        "if known.value.ndim != leaf.value.ndim:",
        PARTICULARS + "shapes_of_shared_leaves_must_agree",
    ),
    Mutant(
        "task-keys",
        "the rows of all tasks draw alike",
        MIXTURE,
        "task.row_keys(jax.random.fold_in(key, index), batch[name])",
        "task.row_keys(key, batch[name])",
        TEST_MIXTURE + "tasks_draw_by_themselves",
    ),
    Mutant(
        "task-rows",
        "rows of a share are cut off, not rounded",
        "pretrainx/core/records.py",
        "count = round(rows * share)",
        "count = int(rows * share)",
        TEST_MIXTURE + "rows_of_a_share",
    ),
    Mutant(
        "task-flops",
        "every task is counted as if it had all rows",
        MIXTURE,
        "sum(share * f for f,",
        "sum(f for f,",
        TEST_MIXTURE + "flops_tokens_and_rows",
    ),
    Mutant(
        "writer",
        "the cache is of another task than the tokens",
        MIXTURE,
        "            if task.decodes:",
        "            if not task.decodes:",
        TEST_MIXTURE + "the_first_task_that_writes_decodes",
    ),
    Mutant(
        "M28",
        "teacher moved with the momentum of step t",
        "tests/toys/moco.py",
        "self.momentum(step + 1)",
        "self.momentum(step)",
        PARTICULARS + "teacher_moves_once_with_the_next_step_s_momentum",
    ),
]
