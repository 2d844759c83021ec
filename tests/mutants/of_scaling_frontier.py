"""Faults of approaches 1 and 2 and of the loss curve."""

from mutants.record import Mutant

ISOFLOP, MINIMUM, BUDGETS, ENVELOPE, SATURATING = (
    f"pretrainx/scaling/{name}.py" for name in ("isoflop", "minimum", "budgets", "envelope", "saturating")
)
TEST_ISOFLOP, TEST_ENVELOPE, TEST_CURVE = (
    f"tests/scaling/test_{name}.py::test_" for name in ("isoflop", "envelope", "loss_curve")
)

FRONTIERS = [
    Mutant(
        "six N D",
        "D* is taken from C / (6 N*) and not from a minimum over D",
        ISOFLOP,
        "one = replace(none, parameters=float(np.exp(n)), tokens=float(np.exp(d)), loss=float(value))",
        "one = replace(none, parameters=float(np.exp(n)), tokens=float(flops / 6 / np.exp(n)), loss=float(value))",
        TEST_ISOFLOP + "exact_valleys_are_recovered",
    ),
    Mutant(
        "edge minimum",
        "a vertex beyond the sizes that were run is a minimum",
        MINIMUM,
        "(np.abs(position) < 1)",
        "(np.abs(position) < 99)",
        TEST_ISOFLOP + "a_minimum_at_the_edge_is_none",
    ),
    Mutant(
        "named budget",
        "what a budget costs is read from its label",
        BUDGETS,
        "np.mean(np.log(table.flops[rows]))",
        "np.mean(np.log(table.budget[rows]))",
        TEST_ISOFLOP + "what_a_budget_costs_is_read_from_its_rows",
    ),
    Mutant(
        "rising hull",
        "the hull goes on where the loss rises with C",
        ENVELOPE,
        "return rows[: int(np.argmin(y[rows])) + 1]",
        "return rows",
        TEST_ENVELOPE + "the_hull_is_the_lower_one_as_far_as_loss_falls",
    ),
    Mutant(
        "negative floor",
        "the loss that no budget goes below may be negative",
        SATURATING,
        "below = E < 0",
        "below = E < -np.inf",
        TEST_CURVE + "values_stay_positive",
    ),
]
