"""Faults of MAE, BEiT and the tokenizers, and of how networks of pictures lie on a mesh."""

from mutants.record import Mutant

MAE, BEIT, VQ_VAE, CODEBOOK = (f"pretrainx/objectives/{name}.py" for name in ("mae", "beit", "vq_vae", "codebook"))
TEST = {name: f"tests/objectives/test_{name}.py::test_" for name in ("mae", "beit", "vq_vae")}

MASKED_PICTURES = [
    Mutant(
        "inverted mask",
        "MAE is scored on the patches that it sees",
        MAE,
        "hidden = (restore >= self.visible).astype(jnp.float32)",
        "hidden = (restore < self.visible).astype(jnp.float32)",
        TEST["mae"] + "what_is_hidden",
    ),
    Mutant(
        "variance of a patch",
        "the variance of a patch is the biased one",
        MAE,
        "variance = patches.var(-1, keepdims=True, ddof=1)",
        "variance = patches.var(-1, keepdims=True)",
        TEST["mae"] + "targets[True]",
    ),
    Mutant(
        "trained tokenizer",
        "BEiT's tokenizer stays among the parameters",
        BEIT,
        'return {name: tree for name, tree in params.items() if name != "tokenizer"}, {"tokenizer": params["tokenizer"]}',
        'return params, {"tokenizer": params["tokenizer"]}',
        TEST["beit"] + "the_tokenizer_is_frozen",
    ),
    Mutant(
        "straight through",
        "no gradient goes from the decoder past the codes",
        VQ_VAE,
        "z + jax.lax.stop_gradient(codes - z)",
        "codes",
        TEST["vq_vae"] + "the_decoder_s_gradient_goes_straight_through",
    ),
    Mutant(
        "running codes",
        "codes follow the last batch, not the running sums",
        CODEBOOK,
        "found = sums_after / jnp.maximum(smoothed, 1e-30)[:, None]",
        "found = sums / jnp.maximum(counts, 1e-30)[:, None]",
        TEST["vq_vae"] + "codes_are_running_means[False]",
    ),
    Mutant(
        "revived by padding",
        "dead codes become vectors of padded rows",
        CODEBOOK,
        "jnp.float32) + 2 * ~valid)",
        "jnp.float32))",
        TEST["vq_vae"] + "dead_codes_become_vectors_of_the_batch",
    ),
    Mutant(
        "inflated counts",
        "figures of a codebook are made of counts that revival raised",
        CODEBOOK,
        '"used": blend("used", counts),',
        '"used": jnp.where(dead, 2 * least, counts_after),',
        TEST["vq_vae"] + "revived_codes_that_nobody_chooses_are_counted_as_dead",
    ),
    Mutant(
        "split kernels",
        "convolutions are partitioned by channels, which gives wrong gradients",
        "pretrainx/models/convolution.py",
        "import constrain, constrain_groups, device, row_groups",
        "import constrain_groups, device, row_groups\n\nconstrain = lambda x, *names: x",
        "tests/contract/test_suite.py::test_mesh_and_accumulation[moco]",
    ),
]
