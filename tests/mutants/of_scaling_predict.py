"""Faults of predictions, of hold-outs and of the next run's config."""

from mutants.record import Mutant

PREDICTIONS, HOLDOUT, INVERSE, NEXT = (
    f"pretrainx/scaling/{name}.py" for name in ("predictions", "holdout", "inverse", "next_config")
)
TEST_PREDICTIONS, TEST_HOLDOUT, TEST_INVERSE, TEST_NEXT = (
    f"tests/scaling/test_{name}.py::test_" for name in ("predictions", "holdout", "inverse", "next_config")
)

PREDICTED = [
    Mutant(
        "sure run",
        "a new run is expected where the law is, without its own noise",
        PREDICTIONS,
        "moved = found + noise * random.standard_normal(found.shape)",
        "moved = found",
        TEST_PREDICTIONS + "a_new_run_is_less_certain_than_the_law",
    ),
    Mutant(
        "seen budget",
        "the budget that is held out is among those that are fitted",
        HOLDOUT,
        "below = groups[:-1]",
        "below = groups",
        TEST_HOLDOUT + "what_is_held_out_has_no_part_in_what_is_said_of_it",
    ),
    Mutant(
        "level line",
        "the 20:1 baseline is a mean and not a line",
        HOLDOUT,
        "return float(np.exp(level + slope * np.log(budget)))",
        "return float(np.mean(np.exp(points)[:, 1]))",
        TEST_HOLDOUT + "the_baseline_of_the_rule_draws_a_line_through_its_own_losses",
    ),
    Mutant(
        "served backward",
        "a served token costs as much as a training token",
        INVERSE,
        "FORWARD = 1 / 3",
        "FORWARD = 1.0",
        TEST_INVERSE + "the_size_to_serve_is_the_least_of_all_that_reach_the_loss",
    ),
    Mutant(
        "next by 6 N D",
        "the next run is trained for C / (6 N) tokens, not for what its own FLOPs leave",
        NEXT,
        "run = trained(planner, size, budget / size.flops,",
        "run = trained(planner, size, budget / (6 * size.parameters),",
        TEST_NEXT + "the_next_run_trains",
    ),
]
