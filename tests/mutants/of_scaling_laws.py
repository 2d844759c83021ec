"""Faults of scaling laws and of how they are fitted."""

from mutants.record import Mutant

LAWS, PARAMETRIC = (f"tests/scaling/test_{name}.py::test_" for name in ("laws", "parametric"))

SCALING_LAWS = [
    Mutant(
        "mean of residuals",
        "a fit averages its residuals, which stops optimisers beside their start",
        "pretrainx/scaling/optimise.py",
        "return np.sum(self.weight * self.residual.values(predicted, self.measured), -1)",
        "return np.mean(self.weight * self.residual.values(predicted, self.measured), -1)",
        PARAMETRIC + "residuals_are_summed_and_a_famous_start_is_left",
    ),
    Mutant(
        "swapped exponents",
        "the optimal size grows with the exponent of size",
        "pretrainx/scaling/form.py",
        "np.log(alpha / beta) + beta * product",
        "np.log(alpha / beta) + alpha * product",
        LAWS + "published_optima[1.23e+22-hoffmann2-besiroglu2]",
    ),
    Mutant(
        "negative repetitions",
        "more unique tokens than were seen count as repeated less than never",
        "pretrainx/scaling/constrained.py",
        "unique = y if u is None else np.minimum(u, y)",
        "unique = y if u is None else u",
        LAWS + "data_constrained_as_published",
    ),
    Mutant(
        "held off the middle",
        "a scale that is held is held in the middle of the rows, not at N = 1",
        "pretrainx/scaling/held.py",
        "(slopes.get(scale, 0.0) - centre)",
        "slopes.get(scale, 0.0)",
        PARAMETRIC + "held_and_equal_values",
    ),
    Mutant(
        "one value of several",
        "a replicate that does not determine the law has values all the same",
        "pretrainx/scaling/parametric.py",
        "values[~(found.settled & enough)] = np.nan",
        "values[~found.settled] = np.nan",
        PARAMETRIC + "replicates_are_fitted_together",
    ),
]
