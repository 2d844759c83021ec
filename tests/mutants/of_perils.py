"""Faults of what keeps old knowledge and of what measures its loss, leaks and slack."""

from mutants.record import Mutant

EWC, DISTILL, PRESERVING = (f"pretrainx/adapt/{name}.py" for name in ("ewc", "distill", "preserving"))
FISHER, MEMBERSHIP, PRUNING = (f"pretrainx/evals/{name}.py" for name in ("fisher", "membership", "pruning"))
TEST_EWC, TEST_FISHER = "tests/adapt/test_ewc.py::test_", "tests/evals/test_fisher.py::test_"
TEST_MEMBERSHIP = "tests/evals/test_membership.py::test_"

PERILS = [
    Mutant(
        "M16",
        "a regulariser is added per microbatch",
        EWC,
        "return penalty * rows.sum(), penalty * rows",
        "return penalty * 8, penalty * rows",
        "tests/contract/test_particulars.py::test_a_regulariser_is_added_once[2]",
    ),
    Mutant(
        "square of the mean",
        "gradients are summed before they are squared",
        FISHER,
        "jax.tree.map(lambda t, each: t + each.sum(0), total, jax.vmap(squared)(rows))",
        "jax.tree.map(lambda t, each: t + jnp.sqrt(each).sum(0) ** 2, total, jax.vmap(squared)(rows))",
        TEST_FISHER + "of_a_quadratic_it_is_the_hessian[4]",
    ),
    Mutant(
        "labels of the data",
        "true Fisher information takes the data's labels",
        FISHER,
        'if config.labels == "true":',
        'if config.labels == "drawn":',
        TEST_FISHER + "labels_are_drawn_from_the_model[sequence]",
    ),
    Mutant(
        "equal importance",
        "the penalty forgets the Fisher information",
        EWC,
        "(weight * jnp.square(wide(value) - wide(old)))",
        "(jnp.square(wide(value) - wide(old)) + 0 * weight)",
        TEST_EWC + "each_parameter_is_held_by_its_importance",
    ),
    Mutant(
        "held head",
        "the head of a new task is held where it began",
        EWC,
        'if moves and path.split("/")[0] not in self.heads:',
        "if moves:",
        TEST_EWC + "a_new_head_is_free",
    ),
    Mutant(
        "held base",
        "around LoRA the base is held, which does not move, and not what base and update amount to",
        EWC,
        "now = paths.restrict(effective(self.inner, jax.tree.map(wide, params)), like=anchor)",
        "now = paths.restrict(params, like=anchor)",
        TEST_EWC + "around_lora_effective_weights_are_held",
    ),
    Mutant(
        "learning teacher",
        "the teacher is the model as it is now",
        DISTILL,
        'paths.merge(params, extras["teacher"])',
        'paths.merge(extras["teacher"], params)',
        "tests/adapt/test_distill.py::test_the_divergence_from_the_teacher",
    ),
    Mutant(
        "taught teacher",
        "gradients reach the teacher",
        DISTILL,
        'jax.lax.stop_gradient(effective(self.inner, paths.merge(params, extras["teacher"])))',
        'effective(self.inner, paths.merge(params, extras["teacher"]))',
        "tests/adapt/test_distill.py::test_the_divergence_from_the_teacher",
    ),
    Mutant(
        "most likely tokens",
        "Min-K% averages the most likely tokens",
        MEMBERSHIP,
        "ordered = np.sort(np.where(weights > 0, scores, np.inf), axis=1)",
        "ordered = -np.sort(np.where(weights > 0, -scores, np.inf), axis=1)",
        TEST_MEMBERSHIP + "the_least_likely_tokens",
    ),
    Mutant(
        "seen folds",
        "the blind baseline scores rows that it was fitted on",
        MEMBERSHIP,
        "seen, rest = folds != fold, folds == fold",
        "seen, rest = folds >= 0, folds == fold",
        TEST_MEMBERSHIP + "what_sees_no_model_tells_only_other_distributions",
    ),
    Mutant(
        "shadows inside out",
        "LiRA takes the runs that have seen a row for those that have not",
        MEMBERSHIP,
        "np.where(both, stats.norm(*normal(inside)).logpdf(target) - outside.logpdf(target), np.nan)",
        "np.where(both, outside.logpdf(target) - stats.norm(*normal(inside)).logpdf(target), np.nan)",
        TEST_MEMBERSHIP + "lira_tells_how_hard_a_row_is_from_whether_it_was_seen",
    ),
    Mutant(
        "pruned norms",
        "norms, biases and embeddings are pruned too",
        PRUNING,
        "if roles[path] in PRUNED}",
        "if roles[path]}",
        "tests/evals/test_pruning.py::test_the_smallest_of_all_matrices_together_go",
    ),
]
