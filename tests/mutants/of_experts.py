"""Faults of the mixture of experts: whom a place is given to, what is balanced, and where an expert's matrix begins."""

from mutants.record import Mutant

DISPATCH, EXPERTS = "pretrainx/parallel/dispatch.py", "pretrainx/models/experts.py"
TEST_MODEL, TEST_MESH = "tests/models/test_experts.py::test_", "tests/parallel/test_experts_on_meshes.py::test_"

EXPERT_FAULTS = [
    Mutant(
        "greedy padding",
        "padding takes places from tokens",
        DISPATCH,
        "wanted = jnp.where(real[..., None], chosen, count).reshape(",
        "wanted = jnp.where(True, chosen, count).reshape(",
        TEST_MODEL + "a_loop_over_tokens[two of four, tight]",
    ),
    Mutant(
        "first come last",
        "places are given from the end of a row",
        DISPATCH,
        "order = jnp.argsort(wanted, axis=1, stable=True)",
        "order = jnp.argsort(wanted[:, ::-1], axis=1, stable=True)",
        TEST_MODEL + "rows_tokens_and_padding_keep_to_themselves",
    ),
    Mutant(
        "lost gradient",
        "a token's gradient comes from its first expert alone",
        DISPATCH,
        ".reshape(rows, length, -1, width).sum(2), None, None",
        ".reshape(rows, length, -1, width)[:, :, 0], None, None",
        TEST_MODEL + "gradients_are_those_of_finite_differences",
    ),
    Mutant(
        "balance of choices",
        "the balance is of what was chosen, which has no gradient",
        EXPERTS,
        "balance=count * (share * mean(probabilities)).sum(-1)",
        "balance=count * (share * share).sum(-1)",
        TEST_MODEL + "a_loop_over_tokens[two of four, tight]",
    ),
    Mutant(
        "doubled inner sum",
        "parts of the inner width are not added up over devices",
        DISPATCH,
        "return jax.lax.psum(y, inner) if inner else y",
        "return y",
        TEST_MESH + "experts_on_every_mesh[ragged-fsdp-2-tensor-2-expert-2]",
    ),
    Mutant(
        "nameless products",
        "what the backward pass is to keep does not know the experts' products",
        EXPERTS,
        "return checkpoint_name(y, name)",
        "return y",
        "tests/models/test_remat.py::test_products_of_experts_are_kept_by_name[capacity]",
    ),
    Mutant(
        "one big matrix",
        "the experts of a block are one matrix to the optimizer",
        "pretrainx/core/axes.py",
        'STACKS = ("layers", "experts")',
        'STACKS = ("layers",)',
        "tests/optim/test_experts_apart.py::test_each_expert_is_updated_as_if_alone[muon]",
    ),
    Mutant(
        "scored twice",
        "further terms are scored in a held-out loss",
        "pretrainx/objectives/routing.py",
        "rows = seen(each.sum(0)) * train",
        "rows = seen(each.sum(0))",
        "tests/objectives/test_routing.py::test_terms_of_a_row_and_none_outside_training",
    ),
]
