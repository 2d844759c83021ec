"""Faults of the networks that read pictures, of their normalisation and of the yardstick's objective."""

from mutants.record import Mutant

BATCH_NORM, VIT, PATCHES = (f"pretrainx/models/{name}.py" for name in ("batch_norm", "vit", "patches"))
CONVOLUTION, RESNET, STACK = (f"pretrainx/models/{name}.py" for name in ("convolution", "resnet", "stack"))
TEST = {
    name: f"tests/models/test_{name}.py::test_" for name in ("batch_norm", "vit", "patches", "convolution", "resnet")
}
CLASSIFICATION = "tests/objectives/test_classification.py::test_"

NETWORKS = [
    Mutant(
        "unbiased",
        "the running variance is the biased one",
        BATCH_NORM,
        "spread * count / jnp.maximum(count - 1, 1)",
        "spread",
        TEST["batch_norm"] + "training",
    ),
    Mutant(
        "padded rows",
        "padded rows are samples of BatchNorm",
        BATCH_NORM,
        "weights = jnp.ones(rows, x.dtype) if valid is None else valid.astype(x.dtype)",
        "weights = jnp.ones(rows, x.dtype)",
        TEST["batch_norm"] + "invalid_rows_are_not_in_the_statistics",
    ),
    Mutant(
        "bn groups",
        "groups share statistics",
        BATCH_NORM,
        "size = self.group or rows",
        "size = rows",
        TEST["batch_norm"] + "groups",
    ),
    Mutant(
        "bn momentum",
        "running statistics forget at once",
        BATCH_NORM,
        "self.momentum * old + (1 - self.momentum) * mean",
        "(1 - self.momentum) * old + self.momentum * mean",
        TEST["batch_norm"] + "training",
    ),
    Mutant(
        "column first",
        "rows before columns in the fixed table",
        PATCHES,
        "np.concatenate([column, row], 1)",
        "np.concatenate([row, column], 1)",
        TEST["patches"] + "table",
    ),
    Mutant(
        "query - key",
        "relative positions are the key's minus the query's",
        PATCHES,
        "place[:, None] - place[None, :] + grid - 1",
        "place[None, :] - place[:, None] + grid - 1",
        TEST["patches"] + "relative_index",
    ),
    Mutant(
        "decayed places",
        "learned positions of patches are decayed, as an embedding",
        VIT,
        '("place", "embed")',
        '("position", "embed")',
        "tests/optim/test_table.py::test_of_a_vit_only_matrices_decay",
    ),
    Mutant(
        "named windows",
        "the window of a convolution is no part of its inputs",
        CONVOLUTION,
        '(None, None, "channels", "features")',
        '("length", "bucket", "channels", "features")',
        "tests/optim/test_per_layer.py::test_a_convolution_is_a_matrix_of_its_window_s_inputs",
    ),
    Mutant(
        "mask places",
        "the mask token hides positions too",
        VIT,
        "x = x + table[int(config.class_token) :]",
        "x = jnp.where(masked[..., None], x, x + table[int(config.class_token) :]) if masked is not None else x",
        TEST["vit"] + "embedding_by_hand",
    ),
    Mutant(
        "class in mean",
        "the mean over tokens counts the class token",
        VIT,
        "wide(hidden[:, int(self.config.class_token) :]).mean(1)",
        "wide(hidden).mean(1)",
        TEST["vit"] + "pooling",
    ),
    Mutant(
        "path rates",
        "all blocks are dropped alike",
        STACK,
        "rate = config.drop_path * layer / max(self.depth - 1, 1)",
        "rate = config.drop_path",
        TEST["vit"] + "drop_path",
    ),
    Mutant(
        "path draws",
        "a block's branches are dropped together",
        STACK,
        "DROP_PATH + len(branches) * layer + index",
        "DROP_PATH + len(branches) * layer",
        TEST["vit"] + "drop_path",
    ),
    Mutant(
        "conv in loops",
        "gradients of convolutions are left to the compiler",
        CONVOLUTION,
        'form = _for_cpu if device()[0].platform == "cpu" else _plain',
        "form = _plain",
        TEST["convolution"] + "convolutions_inside_a_loop_have_the_librarys_order_of_dimensions",
    ),
    Mutant(
        "conv flip",
        "the kernel is not turned in the gradient",
        CONVOLUTION,
        "jnp.flip(kernel, (0, 1)).swapaxes(2, 3)",
        "kernel.swapaxes(2, 3)",
        TEST["convolution"] + "the_form_for_cpus",
    ),
    Mutant(
        "conv groups",
        "a kernel's gradient is that of the last group of pictures",
        CONVOLUTION,
        "constrain_groups(total + jnp.stack([product(row) for row in seen], 1)), None",
        "constrain_groups(jnp.stack([product(row) for row in seen], 1)), None",
        TEST["convolution"] + "the_form_for_cpus",
    ),
    Mutant(
        "zero residual",
        "blocks start as something",
        RESNET,
        "last and config.zero_residual",
        "False",
        TEST["resnet"] + "blocks_start_as_nothing",
    ),
    Mutant(
        "smoothing",
        "evaluations score smoothed labels",
        "pretrainx/objectives/classification.py",
        "if train and self.config.label_smoothing:",
        "if self.config.label_smoothing:",
        CLASSIFICATION + "smoothing_is_of_training_only",
    ),
    Mutant(
        "no label",
        "a label that is none is the first class",
        "pretrainx/objectives/classification.py",
        '{"nll": known.astype(jnp.float32)}',
        '{"nll": jnp.ones((), jnp.float32)}',
        CLASSIFICATION + "by_hand",
    ),
]
