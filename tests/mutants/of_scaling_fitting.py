"""Faults of tables that are read, of rows that are left out, and of intervals."""

from mutants.record import Mutant

READ, BOOTSTRAP = (f"pretrainx/scaling/{name}.py" for name in ("read_table", "bootstrap"))
TEST = "tests/scaling/test_"

FITTING = [
    Mutant(
        "pooled conventions",
        "rows of several FLOP conventions are fitted together",
        READ,
        "if len(found) > 1:",
        "if len(found) > 99:",
        TEST + "read_table.py::test_pooled_conventions_are_refused",
    ),
    Mutant(
        "borrowed convention",
        "the convention of a file's FLOPs is told of a column that takes their place",
        READ,
        "if of not in parts:",
        "if not parts:",
        TEST + "read_table.py::test_what_a_column_says_of_another_holds_for_that_one_alone",
    ),
    Mutant(
        "unfinished runs",
        "a study's runs that diverged are fitted, too",
        READ,
        'done = [row for row in rows_of(path) if row.cells.get("status") == "done"]',
        'done = [row for row in rows_of(path) if row.cells.get("status")]',
        TEST + "read_table.py::test_the_results_of_a_study",
    ),
    Mutant(
        "silent outliers",
        "the outlier rule leaves rows out of the fit and does not list them",
        "pretrainx/scaling/fitting.py",
        "dropped=(*left_out, *outlying, *dropped),",
        "dropped=(*left_out, *dropped),",
        TEST + "fitting.py::test_outliers_are_left_out_and_listed",
    ),
    Mutant(
        "rows drawn",
        "replicates draw rows, as if checkpoints of one run were independent",
        BOOTSTRAP,
        "runs = np.array(table.runs)",
        "runs = np.array(list(map(str, range(len(table)))))",
        TEST + "fitting.py::test_rows_of_a_run_are_not_independent",
    ),
    Mutant(
        "failures forgotten",
        "refits that failed are not counted",
        BOOTSTRAP,
        "return values[good], int(np.sum(~good))",
        "return values[good], 0",
        TEST + "fitting.py::test_failed_refits_are_counted",
    ),
]
