"""Faults of what a run starts from, of what it stores once, and of when parts of it join the training."""

from mutants.record import Mutant

CHECKPOINT, BASE, STATE = (f"pretrainx/training/{name}.py" for name in ("checkpoint", "base", "state"))
STARTING, RESIZED = (f"pretrainx/runs/{name}.py" for name in ("starting_point", "resized"))
UNFREEZING, TRANSFER = "pretrainx/optim/unfreezing.py", "pretrainx/evals/transfer.py"
TEST_BASE = "tests/training/test_base.py::test_"
TEST_START, TEST_RESIZED = (f"tests/runs/test_{name}.py::test_" for name in ("starting_point", "resized"))
TEST_UNFREEZING = "tests/optim/test_unfreezing.py::test_"

STARTS = [
    Mutant(
        "stored twice",
        "steps store what lies in the base",
        CHECKPOINT,
        "if self.shared.get(path) == entry:",
        "if self.shared.get(path) is entry:",
        TEST_BASE + "steps_leave_out_what_the_base_has",
    ),
    Mutant(
        "another's base",
        "a leaf is taken from the base by its name alone",
        CHECKPOINT,
        "if self.shared.get(path) == entry:",
        "if path in self.shared:",
        TEST_BASE + "a_leaf_that_differs_from_the_base_is_in_the_step",
    ),
    Mutant(
        "blamed step",
        "where the base is damaged the steps are set aside",
        CHECKPOINT,
        "except (MisfitError, FormatError, BaseError):",
        "except (MisfitError, FormatError):",
        TEST_BASE + "a_damaged_base_is_named_and_no_step_is_blamed[flipped]",
    ),
    Mutant(
        "forgotten constants",
        "only frozen parameters are stored once",
        BASE,
        'any(f"{path}/".startswith(f"{name}/") for name in constants)',
        "False",
        TEST_BASE + "steps_leave_out_what_the_base_has",
    ),
    Mutant(
        "left statistics",
        "running statistics of the other run are read and not used",
        STATE,
        "lambda path, leaf: statistics.get(path, leaf)",
        "lambda path, leaf: leaf",
        "tests/training/test_state.py::test_restored_leaves_take_their_places",
    ),
    Mutant(
        "old head",
        "a head of another task is taken over",
        STARTING,
        'anew = lambda path: path.split("/")[0] in heads or',
        "anew = lambda path:",
        TEST_START + "a_head_starts_anew_though_the_other_run_has_one",
    ),
    Mutant(
        "words by number",
        "rows of another vocabulary are taken by their numbers",
        STARTING,
        'words if "vocab" in axes[path] else None',
        "None",
        TEST_START + "words_are_found_by_their_spelling",
    ),
    Mutant(
        "raw start",
        "averages of the other run are passed over",
        STARTING,
        'place = f"ema/{rest}" if section == "params" and f"ema/{rest}" in leaves else path',
        "place = path",
        TEST_START + "averaged_parameters_are_taken_where_they_are_kept",
    ),
    Mutant(
        "lost updates",
        "low-rank updates of the other run are left out",
        STARTING,
        "found |= dict(paths.leaves(merge(paths.from_leaves(tree.items()))[1]))",
        "pass",
        TEST_START + "updates_of_low_rank_are_merged_for_a_run_without",
    ),
    Mutant(
        "class token",
        "the class token is a part of the grid",
        RESIZED,
        "return np.concatenate([table[:marks], ",
        "return np.concatenate([table[marks : 2 * marks], ",
        TEST_RESIZED + "a_grid_is_made_finer_and_its_marks_stay[1]",
    ),
    Mutant(
        "late bias",
        "Adam's bias correction counts from the beginning of the run",
        UNFREEZING,
        'if name == "adam":',
        'if name == "never":',
        TEST_UNFREEZING + "each_part_is_trained_from_its_own_start_on[adamw]",
    ),
    Mutant(
        "early decay",
        "what has not joined decays",
        UNFREEZING,
        'return [*found, ("updated", masked)]',
        "return found",
        TEST_UNFREEZING + "each_part_is_trained_from_its_own_start_on[adamw]",
    ),
    Mutant(
        "unpaired",
        "seeds are not compared with themselves",
        TRANSFER,
        "- scratch.values[index]\n",
        "- scratch.values[index][::-1]\n",
        "tests/evals/test_transfer_curves.py::test_a_start_that_helps_and_one_that_harms",
    ),
]
