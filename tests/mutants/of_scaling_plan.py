"""Faults of plans: of the shapes of models, of what a budget buys, of ids, and of what is not lost."""

from mutants.record import Mutant

PLAN, TEST = "pretrainx/scaling/", "tests/scaling/test_study_plan.py::test_"

PLANNED = [
    Mutant(
        "wider heads",
        "a wider model has the base's number of heads, each of another size",
        PLAN + "shapes.py",
        'found["heads"] = max(1, round(section.heads * width / section.width / group)) * group',
        'found["heads"] = section.heads',
        "tests/scaling/test_size_shapes.py::test_what_a_family_keeps",
    ),
    Mutant(
        "six for all",
        "D is what 6 N D leaves of a budget, whatever the model costs",
        PLAN + "plan.py",
        "budget / size.flops",
        "budget / (6 * size.parameters)",
        TEST + "an_isoflop_study",
    ),
    Mutant(
        "ids of a place",
        "a run's id depends on the directory of the study",
        PLAN + "planner.py",
        'if key != "cache"}',
        "if key}",
        TEST + "ids_are_of_the_run_and_not_of_the_place",
    ),
    Mutant(
        "lost runs",
        "a run that has begun may vanish from the study",
        PLAN + "extend.py",
        "begun = [run for run in gone if has_begun(directory, run)]",
        "begun = []",
        TEST + "again_and_more",
    ),
    Mutant(
        "one warm-up",
        "the warm-up is a share of a thousand steps, not of the run",
        PLAN + "rates.py",
        "wanted = warmup * steps if",
        "wanted = warmup * 1000 if",
        TEST + "an_isoflop_study",
    ),
]
